"""Trials of an earlier search or grid as a new search can learn from them: which fit, and why others do not.

Which jobs those are, and what each had fixed, is launchers/search/warm_start.py's; what samplers make of them
told.py's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from conf.sweep_schema import Goal, Search
from sweeps.axis import Axis, axes_of
from sweeps.space import is_active, ordered
from sweeps.trials import State, Trial, values_of, violations_of

IN_WORDS: Mapping[State, str] = {
    "RUNNING": "not ended",
    "FAILED": "failed",
    "LOST": "lost",
    "TIMEOUT": "cut off by the time limit",
    "CANCELLED": "cancelled",
    "INFEASIBLE": "infeasible",
}
"""Trials that say nothing here. One that was cut off would have gone on, and here it may have the time for that."""


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What became of the trials of one job."""

    trials: tuple[Trial, ...]
    """Those that fit, with points of the new space; numbers, states and reports are their own."""
    left_out: Mapping[str, int]
    """A few words for each reason, and how many trials have it; the most frequent first."""


def other_goals(earlier: Sequence[Goal], wanted: Sequence[Goal]) -> list[Goal]:
    """The goals of a search that an earlier one did not have, or pursued in the other direction."""
    return [goal for goal in wanted if goal not in earlier]


def taken(
    search: Search, goals: tuple[Goal, ...], trials: Sequence[Trial], fixed: Mapping[int, Mapping[str, Any]]
) -> Taken:
    """The trials that ended with a value and whose points make points of this search.

    `fixed` says by the number of a trial what its job had fixed for it. A point keeps what has the name of a parameter;
    what it has beyond these is forgotten, and what it lacks is taken from `fixed`. Each point is one of the space.
    """
    axes, kept, left_out = axes_of(search), list[Trial](), Counter[str]()
    for trial in trials:
        point, why = _point(search, axes, {**fixed.get(trial.number, {}), **trial.point})
        if why := _without_worth(search, goals, trial) or why:
            left_out[why] += 1
        else:
            kept.append(replace(trial, point=point))
    return Taken(trials=tuple(kept), left_out=dict(left_out.most_common()))


def _without_worth(search: Search, goals: tuple[Goal, ...], trial: Trial) -> str:
    """Why nothing is learnt from a trial wherever it lies; empty when something is."""
    if trial.state in IN_WORDS:
        return IN_WORDS[trial.state]
    if values_of(trial, goals, search.measurement) is None:
        return f"without a value of {', '.join(goal.metric for goal in goals)}"
    # Taken without it, it would count as one that breaks the constraint. A pruned one may not have come to it.
    if trial.state == "SUCCEEDED" and violations_of(trial, search.constraints) is None:
        return f"without a value of {', '.join(constraint.metric for constraint in search.constraints)}"
    return ""


def _point(search: Search, axes: Mapping[str, Axis], known: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The point of this space that has these values, or why there is none."""
    point: dict[str, Any] = {}
    for name, parameter in ordered(search):
        if not is_active(parameter, point):
            continue
        if name not in known:
            return {}, f"without a value of {name}"
        said = known[name] if parameter.type == "categorical" else _number(known[name])
        place = axes[name].coordinate_of(said)
        if place is None:
            return {}, f"not among the new values of {name}" if parameter.values else f"out of the new range of {name}"
        point[name] = axes[name].value_at(place)
    return {name: point[name] for name in search.parameters if name in point}, ""


def _number(value: Any) -> Any:
    """The number that a word spells: YAML 1.1 reads `1e-2`, in the list of a grid, as a word."""
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        return value
