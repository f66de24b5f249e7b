"""Which trials won, which parameters mattered, and how well the slots were used. Pure; times are arguments.

A trial *won* only when it ran to its end: the value of a pruned one is of a shorter training and its model was
never exported. Only where none succeeded, those that timed out or were pruned stand in, so that something is
shown. A broken constraint, or one whose metric was never reported, keeps a trial out in any case. (Vertex lists
optimal trials of its succeeded ones, too, and says less about the rest.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from conf.sweep_schema import Goal, Search
from sweeps.trials import Trial, values_of, violations_of

FEWEST_FOR_IMPORTANCE = 10
"""Ended trials with a value, below which importances are chance."""


@dataclass(frozen=True, kw_only=True)
class Slots:
    """How the places that may run at once were used, from the first start to the last end (or now)."""

    busy_s: float
    makespan_s: float
    idle_share: float
    """1 - busy / (slots x makespan); 0 before anything ran."""
    idle_share_without_tail: float
    """The same up to the last start: after it a free slot has nothing left to run."""


def best(search: Search, goals: tuple[Goal, ...], trials: Sequence[Trial]) -> Trial | None:
    """The trial with the best value, measured as the search says; None before any feasible one has a value.

    With several goals the best in the first one, equal ones by the next. Of equals the first asked for.
    """
    ranked = sorted(candidates(search, goals, trials), key=lambda found: (_losses(goals, found[1]), found[0].number))
    return ranked[0][0] if ranked else None


def pareto(search: Search, goals: tuple[Goal, ...], trials: Sequence[Trial]) -> list[Trial]:
    """Trials that no other one beats in some goal and equals in the rest, by number. With one goal: all the best."""
    # A trial is beaten only by one that sorts before it, and then also by one of those kept so far.
    kept: list[tuple[tuple[float, ...], Trial]] = []
    found = [(_losses(goals, values), trial) for trial, values in candidates(search, goals, trials)]
    for losses, trial in sorted(found, key=lambda each: (each[0], each[1].number)):
        if not any(dominates(other, losses) for other, _ in kept):
            kept.append((losses, trial))
    return sorted((trial for _, trial in kept), key=lambda trial: trial.number)


def importances(search: Search, goals: tuple[Goal, ...], trials: Sequence[Trial]) -> dict[str, float]:
    """Each parameter's share in the first goal's variation, largest first; they add up to 1.

    By PED-ANOVA (Watanabe et al. 2023, https://arxiv.org/abs/2304.10255), which asks what tells the best tenth of the
    trials from the others. Empty with fewer than ten trials, or with fewer than two parameters that varied.
    Of a population, too: there a value belongs to a line of trials, not to a point. Needs Optuna.
    """
    if search.population is not None:
        return {}
    succeeded = [t for t in trials if t.state in ("SUCCEEDED", "TIMEOUT") and values_of(t, goals, search.measurement)]
    varied = [name for name in search.parameters if len({str(t.point[name]) for t in succeeded if name in t.point}) > 1]
    if len(succeeded) < FEWEST_FOR_IMPORTANCE or len(varied) < 2:
        return {}
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    from sweeps.rebuilt import quiet, study_of

    sign = -1.0 if goals[0].goal == "maximize" else 1.0
    with quiet():
        shares = get_param_importances(
            study_of(search, goals, succeeded),
            evaluator=PedAnovaImportanceEvaluator(),
            params=_assessed(succeeded, varied),
            target=lambda trial: sign * trial.values[0],  # with a target of its own it takes less as better
        )
    return {name: float(share) for name, share in sorted(shares.items(), key=lambda each: -each[1])}


def slots(trials: Sequence[Trial], parallel: int, now: float) -> Slots:
    """How busy `parallel` slots were. Between the attempts of one trial it counts as busy: the record has no gap."""
    spans = [(t.started, max(t.started, now if t.ended is None else t.ended)) for t in trials if t.started is not None]
    if not spans:
        return Slots(busy_s=0.0, makespan_s=0.0, idle_share=0.0, idle_share_without_tail=0.0)
    first, last_start = min(start for start, _ in spans), max(start for start, _ in spans)
    makespan = max(end for _, end in spans) - first
    busy = sum(end - start for start, end in spans)
    before_tail = sum(min(end, last_start) - start for start, end in spans)
    return Slots(
        busy_s=busy,
        makespan_s=makespan,
        idle_share=_idle(busy, parallel * makespan),
        idle_share_without_tail=_idle(before_tail, parallel * (last_start - first)),
    )


def candidates(
    search: Search, goals: tuple[Goal, ...], trials: Sequence[Trial]
) -> list[tuple[Trial, tuple[float, ...]]]:
    """Feasible trials that may win, with their values: the succeeded ones, or else what was cut short."""
    for states in (("SUCCEEDED",), ("TIMEOUT", "PRUNED")):
        found = [
            (trial, values)
            for trial in trials
            if trial.state in states
            and is_feasible(search, trial)
            and (values := values_of(trial, goals, search.measurement)) is not None
        ]
        if found:
            return found
    return []


def is_feasible(search: Search, trial: Trial) -> bool:
    """Whether a trial keeps all constraints, as far as they can be known: each one's metric must be there."""
    broken = violations_of(trial, search.constraints)
    return broken is not None and all(b <= 0 for b in broken)


def dominates(losses: Sequence[float], others: Sequence[float]) -> bool:
    """Whether the first is nowhere worse and somewhere better; smaller is better."""
    return all(a <= b for a, b in zip(losses, others, strict=True)) and tuple(losses) != tuple(others)


def _losses(goals: tuple[Goal, ...], values: Sequence[float]) -> tuple[float, ...]:
    return tuple(-v if goal.goal == "maximize" else v for goal, v in zip(goals, values, strict=True))


def _assessed(succeeded: Sequence[Trial], varied: Sequence[str]) -> list[str]:
    """Optuna 5 assesses parameters that are not always there, 4 only those that every trial has."""
    import optuna

    if int(optuna.__version__.split(".")[0]) >= 5:
        return list(varied)
    return [name for name in varied if all(name in trial.point for trial in succeeded)]


def _idle(busy_s: float, available_s: float) -> float:
    return max(0.0, 1 - busy_s / available_s) if available_s > 0 else 0.0
