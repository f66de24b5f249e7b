"""Whether a running trial should be stopped because it will not win. Standard library only: a node asks every second.

A *step* is the number of the trial's report of the objective, from 1, whatever the program calls it (epoch,
batch, sample): so trials that report at other training steps are still compared at equal progress.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

from conf.sweep_schema import Goal, Pruning, Search
from sweeps.best import is_feasible
from sweeps.forecast import chance_below
from sweeps.trials import Report, Trial, value_of

GOLDEN = (math.sqrt(5) - 1) / 2
SHOWN = ".6g"
CAME_TO_AN_END = ("SUCCEEDED", "PRUNED", "TIMEOUT")
"""States whose reports speak for the point."""


def verdict(search: Search, goal: Goal, trial: Trial, others: Sequence[Trial]) -> str | None:
    """Why a trial should stop now, None to go on. Pure: the same for the same arguments, however often asked.

    `others` are all trials of the search, this one among them or not. Under any rule a trial whose last
    objective is not finite stops, and the text begins with «diverged».
    """
    said = _said(trial, goal)
    pruning = search.pruning
    if pruning is None or not said:
        return None
    last = said[-1].metrics[goal.metric]
    if not math.isfinite(last):
        return f"diverged: {goal.metric} is {last} at report {len(said)}"
    rivals = [other for other in others if other.number != trial.number]
    if pruning.rule == "median":
        return _median(pruning, goal, trial, rivals)
    if pruning.rule == "decay_curve":
        return _decay_curve(search, goal, trial, rivals)
    if pruning.rule == "hyperband":
        bracket = bracket_of(pruning, trial.number)
        rivals = [rival for rival in rivals if bracket_of(pruning, rival.number) == bracket]
        return _halving(pruning, goal, said, [_said(rival, goal) for rival in rivals], bracket)
    return _halving(pruning, goal, said, [_said(rival, goal) for rival in rivals], 0)


def bracket_of(pruning: Pruning, number: int) -> int:
    """Which of Hyperband's brackets a trial is in: bracket s has its lowest rung at min_step * reduction^s.

    A bracket gets as large a share of the trials as in Li et al. 2018 (Hyperband, algorithm 1), where those that
    stop early have most; the golden ratio spreads each one's trials evenly over any stretch of numbers.
    """
    if pruning.max_step is None:
        return 0
    rungs = len(list(_rungs(pruning, 0)))
    weights = [pruning.reduction ** (rungs - s) * (rungs + 1) / (rungs - s + 1) for s in range(rungs + 1)]
    place = (number * GOLDEN) % 1.0 * sum(weights)
    return next((s for s, end in enumerate(itertools.accumulate(weights)) if place < end), rungs)


def _median(pruning: Pruning, goal: Goal, trial: Trial, rivals: Sequence[Trial]) -> str | None:
    """Stop when the best so far is strictly worse than the median, over completed trials, of each one's running
    average up to the same step; `percentile` in place of the median.

    Source: Golovin et al. 2017 (Google Vizier), section 3.2.2. Completed is any that ended by itself or was
    stopped here and made as many reports.
    """
    losses = _losses(trial, goal)
    step = len(losses)
    ended = [r for r in rivals if r.state in CAME_TO_AN_END]
    averages = sorted(math.fsum(known[:step]) / step for r in ended if len(known := _losses(r, goal)) >= step)
    if step < max(1, pruning.min_step) or len(averages) < pruning.min_trials:
        return None
    bar = _percentile(averages, pruning.percentile)
    if min(losses) <= bar:
        return None
    best, sign = min(losses), _sign(goal)
    return (
        f"median: the best {goal.metric} up to report {step} is {sign * best:{SHOWN}}, and percentile "
        f"{pruning.percentile:g} of {len(averages)} trials' averages is {sign * bar:{SHOWN}}"
    )


def _decay_curve(search: Search, goal: Goal, trial: Trial, rivals: Sequence[Trial]) -> str | None:
    """Stop when the reports' forecast for `max_step` is better than the best ended trial with a probability below
    1 - confidence.

    Vertex's decay-curve rule forecasts by a Gaussian process over all trials; forecast.py needs the trial's own
    reports and the standard library.
    """
    pruning, losses = search.pruning, _losses(trial, goal)
    assert pruning is not None
    if pruning.max_step is None or not pruning.min_step <= len(losses) < pruning.max_step:
        return None
    values = [
        value_of(r, goal, search.measurement) for r in rivals if r.state in CAME_TO_AN_END and is_feasible(search, r)
    ]
    ended = [_sign(goal) * value for value in values if value is not None]
    if len(ended) < pruning.min_trials:
        return None
    chance = chance_below(min(ended), losses, pruning.max_step, search.measurement == "best")
    if chance is None or chance >= 1 - pruning.confidence:
        return None
    return (
        f"decay_curve: after {len(losses)} reports the chance that {goal.metric} ends better than "
        f"{_sign(goal) * min(ended):{SHOWN}} is {chance:.2g}"
    )


def _halving(
    pruning: Pruning, goal: Goal, own: Sequence[Report], rivals: Sequence[Sequence[Report]], bracket: int
) -> str | None:
    """Stop when, at a rung it has come to, the trial is not among the best 1/reduction of those that had come
    there by then; the best one of a rung always goes on, and equals go on together.

    Source: Li et al. 2020 (A System for Massively Parallel Hyperparameter Tuning, MLSys), the variant that
    stops (nothing waits for promotion), as in Syne Tune and Ray. «By then» goes by the reports' times, so that
    the judgement of a rung does not change with later arrivals; a report without a time counts as earlier.
    """
    for rung in _rungs(pruning, bracket):
        if rung > len(own):
            return None
        here = own[rung - 1]
        came = [said[rung - 1] for said in rivals if len(said) >= rung and not _later(said[rung - 1], here)]
        losses = sorted(_loss(report, goal) for report in [here, *came])
        keep = max(1, len(losses) // pruning.reduction)
        if losses[keep - 1] < _loss(here, goal):
            return (
                f"{pruning.rule}: at report {rung} {goal.metric} is {here.metrics[goal.metric]:{SHOWN}}, "
                f"not among the best {keep} of {len(losses)} trials that had come so far"
            )
    return None


def _rungs(pruning: Pruning, bracket: int) -> Iterator[int]:
    """Steps at which trials are judged: below max_step, where a trial ends by itself."""
    rung = max(1, pruning.min_step) * pruning.reduction**bracket
    while pruning.max_step is None or rung < pruning.max_step:
        yield rung
        rung *= pruning.reduction


def _said(trial: Trial, goal: Goal) -> list[Report]:
    """The reports that name the objective."""
    return [report for report in trial.reports if goal.metric in report.metrics]


def _losses(trial: Trial, goal: Goal) -> list[float]:
    """The objective at each step, smaller is better; what is not a number is as bad as can be."""
    return [_loss(report, goal) for report in _said(trial, goal)]


def _loss(report: Report, goal: Goal) -> float:
    value = report.metrics[goal.metric]
    return _sign(goal) * value if math.isfinite(value) else math.inf


def _sign(goal: Goal) -> int:
    return -1 if goal.goal == "maximize" else 1


def _later(report: Report, than: Report) -> bool:
    return report.t is not None and than.t is not None and report.t > than.t


def _percentile(ordered: Sequence[float], share: float) -> float:
    """Between neighbours by their distance, as numpy has it; 50 is the median."""
    place = (len(ordered) - 1) * share / 100
    below, above = ordered[math.floor(place)], ordered[math.ceil(place)]
    return below if below == above else below + place % 1 * (above - below)
