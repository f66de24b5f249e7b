"""A search as Optuna's plots see it: rebuilt as a study, its names safe for HTML, thinned where it is large.

What is drawn of it is value_figures.py's and space_figures.py's.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from conf.sweep_schema import Goal, Search
from sweeps.spelling import count, escape
from sweeps.trials import Trial
from sweeps.values import canonical

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A search as Optuna knows it. Names and words in it are safe for HTML, which Plotly's labels are."""

    goals: tuple[Goal, ...]
    trials: tuple[Trial, ...]
    study: optuna.Study
    frozen: tuple[FrozenTrial, ...]
    """The trials again as Optuna has them, with the same numbers."""
    leading: frozenset[int]
    """The best trial, or the Pareto set."""

    def valued(self) -> list[FrozenTrial]:
        """Trials that ended with a value of every goal."""
        return [t for t in self.frozen if t.state.name == "COMPLETE"]

    def may_win(self) -> list[FrozenTrial]:
        """Those among which sweeps/best.py looks: the succeeded, or else what was cut short."""
        valued = self.valued()
        return [t for t in valued if t.user_attrs["state"] == "SUCCEEDED"] or valued

    def only(self, frozen: Iterable[FrozenTrial]) -> optuna.Study:
        """The study as if it had these trials only. Optuna itself would give them new numbers."""
        kept = tuple(frozen)

        def get_trials(deepcopy: bool = True, states: Collection[Any] | None = None) -> list[FrozenTrial]:
            return [t for t in kept if states is None or t.state in states]

        study = copy.copy(self.study)
        vars(study)["get_trials"] = get_trials
        return study

    def names(self) -> list[str]:
        """Every parameter that some valued trial had."""
        return sorted({name for t in self.valued() for name in t.params})

    def metrics(self) -> str:
        """All goals as words."""
        return ", ".join(g.metric for g in self.goals)

    def no_value(self) -> str:
        """Why there is nothing to compare."""
        return f"No trial has ended with a value of {self.metrics()} yet."


def subject_of(search: Search, goals: tuple[Goal, ...], trials: Sequence[Trial], leading: Iterable[int]) -> Subject:
    """The search rebuilt for Optuna's plots, every name in it escaped."""
    from sweeps.rebuilt import study_of

    safe_search, safe_goals = _safe_search(search), tuple(replace(g, metric=escape(g.metric)) for g in goals)
    safe_trials = tuple(_safe_trial(t) for t in sorted(trials, key=lambda t: t.number))
    study = study_of(safe_search, safe_goals, safe_trials)
    frozen = tuple(t for t in study.get_trials(deepcopy=False) if t.state.name != "WAITING")
    return Subject(goals=safe_goals, trials=safe_trials, study=study, frozen=frozen, leading=frozenset(leading))


def _safe_search(search: Search) -> Search:
    parameters = {
        escape(name): replace(
            parameter,
            values=tuple(_safe(v) for v in parameter.values),
            when={escape(parent): tuple(_safe(v) for v in values) for parent, values in parameter.when.items()},
        )
        for name, parameter in search.parameters.items()
    }
    constraints = tuple(replace(c, metric=escape(c.metric)) for c in search.constraints)
    return replace(search, parameters=parameters, constraints=constraints)


def _safe_trial(trial: Trial) -> Trial:
    point = {escape(k): _safe(v) for k, v in trial.point.items()}
    names = {name: escape(name) for report in trial.reports for name in report.metrics}
    if point == trial.point and all(k == v for k, v in names.items()):
        return trial
    reports = tuple(replace(r, metrics={names[k]: v for k, v in r.metrics.items()}) for r in trial.reports)
    return replace(trial, point=point, reports=reports)


def _safe(said: Any) -> Any:
    """Numbers as they are; a list as JSON, the same for what came from YAML and what came from the record."""
    if said is None or isinstance(said, (bool, int, float)):
        return said
    return escape(said if isinstance(said, str) else canonical(said))


def spread(items: Sequence[T], most: int) -> list[T]:
    """At most so many, evenly from first to last."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def thinned(
    subject: Subject, frozen: Sequence[FrozenTrial], most: int, also: Collection[int] = ()
) -> list[FrozenTrial]:
    """The leading ones (a quarter at most: a front may be everything), those of `also`, an even choice of all."""
    leading = spread(sorted(subject.leading), most // 4)
    kept = {t.number for t in spread(frozen, most)}.union(leading, also)
    return [t for t in frozen if t.number in kept]


def partly(shown: Sequence[object], of: Sequence[object], what: str) -> str:
    """A note's last words when not all is there."""
    return "" if len(shown) == len(of) else f" {len(shown):,} of {count(len(of), what)} shown, evenly chosen."


def measure(goals: Sequence[Goal], i: int) -> Callable[[FrozenTrial], float] | None:
    """What Optuna plots: nothing needs to be said for a single goal."""
    return None if len(goals) == 1 else lambda trial: trial.values[i]


def log_if_wide(values: Iterable[float]) -> dict[str, str]:
    """A logarithmic axis where one outlier would press all others to a line."""
    found = [v for v in values if math.isfinite(v)]
    wide = bool(found) and min(found) > 0 and max(found) > 1000 * min(found)
    return {"type": "log"} if wide else {}
