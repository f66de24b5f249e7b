"""A trial as the record has it: its point, what it reported, how it ended, what it cost.

The one shape that samplers, pruning, limits and reports read. Where it lies on disk is
launchers/search/study.py's; nothing here is read or written.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from conf.sweep_schema import Constraint, Goal, Search

State = Literal["RUNNING", "SUCCEEDED", "PRUNED", "FAILED", "LOST", "TIMEOUT", "CANCELLED", "INFEASIBLE"]
"""RUNNING: asked and not ended (also while it waits in the queue between attempts). FAILED: by its own
fault. LOST: by the site's, may run again. TIMEOUT: did not save before the limit. INFEASIBLE: the program
said that the point makes no sense, or its value was not a number."""
ENDED: tuple[State, ...] = ("SUCCEEDED", "PRUNED", "FAILED", "LOST", "TIMEOUT", "CANCELLED", "INFEASIBLE")


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a trial said of itself at one step: every metric it named."""

    step: int
    metrics: Mapping[str, float]
    t: float | None = None
    """Seconds since the epoch, by the clock of the host that said it."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One member of a search."""

    number: int
    """The member's index."""
    point: Mapping[str, Any]
    """Active parameters only."""
    state: State
    reports: tuple[Report, ...] = ()
    """In the order of their steps; a step said twice is there once, with its last values."""
    asked: float
    """Seconds since the epoch."""
    started: float | None = None
    ended: float | None = None
    gpu_hours: float = 0.0
    """Reserved while it runs, measured once it has ended."""
    parent: int | None = None
    """Of a population: the trial whose checkpoint it went on from."""
    follows: int | None = None
    """Likewise: the trial whose place it took, mostly its parent."""
    error: str = ""
    """Type and message of what ended it, without what differs from host to host."""
    attempts: int = 1


def goals_of(search: Search, own: Goal) -> tuple[Goal, ...]:
    """What a search optimises: its objectives, or the run's own."""
    return search.objectives or (own,)


def value_of(trial: Trial, goal: Goal, measurement: Literal["last", "best"]) -> float | None:
    """The trial's value of one metric: its last finite report, or its best; None when it never said one."""
    said = [r.metrics[goal.metric] for r in trial.reports if math.isfinite(r.metrics.get(goal.metric, math.nan))]
    if not said:
        return None
    if measurement == "last":
        return said[-1]
    return max(said) if goal.goal == "maximize" else min(said)


def values_of(trial: Trial, goals: Sequence[Goal], measurement: Literal["last", "best"]) -> tuple[float, ...] | None:
    """A value for each goal; None when one is missing. Several goals are measured at one and the same
    report, the last (a best for each alone may come from different steps)."""
    kind = measurement if len(goals) == 1 else "last"
    found = [value_of(trial, goal, kind) for goal in goals]
    return None if any(v is None for v in found) else tuple(v for v in found if v is not None)


def violations_of(trial: Trial, constraints: Sequence[Constraint]) -> tuple[float, ...] | None:
    """How far each constraint is broken; 0 or less is kept (Optuna's sign). None when a metric is missing."""
    found: list[float] = []
    for constraint in constraints:
        value = value_of(trial, Goal(metric=constraint.metric, goal="minimize"), "last")
        if value is None:
            return None
        over = value - constraint.max if constraint.max is not None else -math.inf
        under = constraint.min - value if constraint.min is not None else -math.inf
        found.append(max(over, under))
    return tuple(found)
