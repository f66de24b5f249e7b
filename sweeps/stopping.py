"""Whether a search is over, and why; asked before each trial gets a point. Pure: the time is an argument.

LOST and CANCELLED trials count only as asked for and for the hours they cost: they say nothing of the program.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from conf.sweep_schema import Goal, Search
from sweeps.best import candidates, dominates
from sweeps.trials import Trial, value_of, values_of

RAN = ("SUCCEEDED", "PRUNED", "TIMEOUT", "INFEASIBLE")
"""Ended with an answer about the point."""


def why_over(
    search: Search, goals: tuple[Goal, ...], trials: Sequence[Trial], now: float, reserve: float = 0.0
) -> str | None:
    """Why no further trial may be asked for, None when one may.

    `trials` are all that were asked for, `reserve` the GPU-hours that the next one would reserve. The first reason
    in the order: failures, target, number, time, GPU-hours, no progress. Equal failures and no progress are said of
    the ended trials: a running one that ends well may lift them again.
    """
    reasons = (
        _failures(search, trials),
        _target(search, goals, trials),
        _number(search, trials),
        _time(search, trials, now),
        _spent(search, trials, reserve),
        _no_progress(search, goals, trials),
    )
    return next((reason for reason in reasons if reason), None)


def why_wait(search: Search, trials: Sequence[Trial], reserve: float) -> str | None:
    """Why the next trial may not be asked for yet: running ones reserve what it needs, and may give it back.

    A trial is asked for when neither this nor `why_over` has a reason; then spent + reserved + its own reserve
    is within the budget.
    """
    budget = search.limits.gpu_hours
    if budget is None:
        return None
    spent, reserved = _hours(trials)
    if _within(spent + reserved + reserve, budget):
        return None
    return (
        f"{spent:.2f} GPU-hours are spent and {reserved:.2f} reserved by running trials; {reserve:.2f} more would "
        f"pass the budget of {budget:g}"
    )


def last_failures(search: Search, trials: Sequence[Trial]) -> tuple[Trial, ...]:
    """The trials that tripped the breaker: as many as `same_failures` says, all failed by their own fault with one
    error and nothing that ran in between; none when it is not tripped.

    Errors are one when they differ in numbers alone (a trial's folder, a size in bytes).
    """
    many = search.limits.same_failures
    ended = [t for t in trials if t.state == "FAILED" or t.state in ("SUCCEEDED", "PRUNED")]
    last = sorted(ended, key=_end)[-many:]
    alike = len({_kind(trial.error) for trial in last}) == 1
    return tuple(last) if len(last) == many and alike and all(t.state == "FAILED" for t in last) else ()


def _failures(search: Search, trials: Sequence[Trial]) -> str | None:
    if last := last_failures(search, trials):
        return f"the last {len(last)} trials that ended failed alike: {last[-1].error or 'without a message'}"
    failed, allowed = sum(trial.state == "FAILED" for trial in trials), search.limits.max_failed
    if allowed is not None and failed > allowed:
        return f"{failed} trials failed, and max_failed is {allowed}"
    return None


def _target(search: Search, goals: tuple[Goal, ...], trials: Sequence[Trial]) -> str | None:
    """Only a trial that succeeded has reached it: a running one may still be lost."""
    target, goal = search.limits.target, goals[0]
    if target is None:
        return None
    sign = -1 if goal.goal == "maximize" else 1
    for trial, _ in candidates(search, goals, [t for t in trials if t.state == "SUCCEEDED"]):
        value = value_of(trial, goal, search.measurement if len(goals) == 1 else "last")
        if value is not None and sign * value <= sign * target:
            return f"trial {trial.number} reached the target: {goal.metric} {value:.6g}, wanted {target:g}"
    return None


def _number(search: Search, trials: Sequence[Trial]) -> str | None:
    if len(trials) < search.trials:
        return None
    return f"{len(trials)} trials were asked for, and trials is {search.trials}"


def _time(search: Search, trials: Sequence[Trial], now: float) -> str | None:
    limit = search.limits.wall_min
    if limit is None or not trials:
        return None
    since_min = (now - min(trial.asked for trial in trials)) / 60
    if since_min < limit:
        return None
    return f"{since_min:.0f} minutes have passed since the first trial, and wall_min is {limit}"


def _spent(search: Search, trials: Sequence[Trial], reserve: float) -> str | None:
    budget = search.limits.gpu_hours
    spent, _ = _hours(trials)
    if budget is None or _within(spent + reserve, budget):
        return None
    return f"{spent:.2f} GPU-hours are spent, a trial reserves {reserve:.2f}, and the budget is {budget:g}"


def _no_progress(search: Search, goals: tuple[Goal, ...], trials: Sequence[Trial]) -> str | None:
    """Progress with several goals is a place in the Pareto set of all that ended before."""
    limit = search.limits.no_progress_trials
    if limit is None:
        return None
    since, last = 0, None
    for trial, better in _history(search, goals, trials):
        since, last = (0, trial) if better else (since + 1, last)
    if since < limit:
        return None
    of = f"since trial {last.number}" if last else "and none ever had a value"
    return f"{since} trials ended without a better one {of}, and no_progress_trials is {limit}"


def _history(search: Search, goals: tuple[Goal, ...], trials: Sequence[Trial]) -> Iterator[tuple[Trial, bool]]:
    """Trials that ran, in the order in which they ended, and whether each was better than all before it."""
    signs = [-1 if goal.goal == "maximize" else 1 for goal in goals]
    front: list[tuple[float, ...]] = []
    for trial in sorted((t for t in trials if t.state in RAN), key=_end):
        values = values_of(trial, goals, search.measurement)
        may_win = trial.state == "SUCCEEDED" and bool(candidates(search, goals, [trial]))
        if not may_win or values is None:
            yield trial, False
            continue
        losses = tuple(sign * value for sign, value in zip(signs, values, strict=True))
        better = not any(dominates(other, losses) or other == losses for other in front)
        if better:
            front = [other for other in front if not dominates(losses, other)] + [losses]
        yield trial, better


def _hours(trials: Sequence[Trial]) -> tuple[float, float]:
    """GPU-hours that are spent for good, and those that running trials hold."""
    spent = sum(trial.gpu_hours for trial in trials if trial.state != "RUNNING")
    return spent, sum(trial.gpu_hours for trial in trials if trial.state == "RUNNING")


def _within(hours: float, budget: float) -> bool:
    """Ten reserves of 0.1 are 1.0: what sums lose in rounding is not overspent."""
    return hours <= budget * (1 + 1e-9)


def _end(trial: Trial) -> tuple[float, int]:
    return (trial.asked if trial.ended is None else trial.ended, trial.number)


def _kind(error: str) -> str:
    return re.sub(r"\d+", "0", error)
