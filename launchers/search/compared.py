"""The members of a job side by side: trials of a search, or points of a grid as if a search had asked for them.

So that `best`, `report`, `status` and the finish step ask one thing of both. Reads the run folder through
study.py; which trial wins is sweeps/best.py's, how a search stands in numbers standing.py's.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from conf import schema
from conf.document import from_document
from conf.sweep_schema import Goal, Parameter, Search
from launchers.errors import Problem, SpecError
from launchers.run_folder.record import Run, read_json, read_lines
from launchers.search.study import Study
from sweeps.best import best, pareto
from sweeps.trials import Report, Trial, values_of
from sweeps.values import canonical, is_number

CLOSEST = 1e-10
"""Numbers nearer to each other are no axis (sweeps/dimensions.py)."""
WIDE = 100
"""A list of positive numbers that spans as much is drawn on a logarithmic axis."""


@dataclass(frozen=True)
class Compared:
    """A job whose members can be compared."""

    study: Study
    trials: tuple[Trial, ...]
    """Members that have a point and were started, by number."""

    @property
    def run(self) -> Run:
        return self.study.run

    @property
    def spec(self) -> schema.Spec:
        """Of the first member."""
        return self.study.spec

    @property
    def search(self) -> Search:
        """With what `extend` has raised; of a grid the search that is equivalent."""
        return self.study.search

    @property
    def goals(self) -> tuple[Goal, ...]:
        return self.study.goals

    @cached_property
    def best(self) -> Trial | None:
        """None before any feasible member has a value."""
        return best(self.search, self.goals, self.trials)

    @cached_property
    def front(self) -> list[Trial]:
        """The Pareto set; with one goal the best alone."""
        if len(self.goals) > 1:
            return pareto(self.search, self.goals, self.trials)
        return [self.best] if self.best else []

    @cached_property
    def over(self) -> str:
        """Why nothing more is tried; empty while the budget lasts, and for a grid that was not cancelled."""
        if self.run.cancelled.exists():
            return "cancelled by the user"
        said = None if self.study.equivalent else read_json(self.study.over)
        return str(said["why"]) if said else ""

    def values(self, trial: Trial) -> dict[str, float]:
        """Each goal's value as the search measures it; empty for a trial without one."""
        found = values_of(trial, self.goals, self.search.measurement)
        return {g.metric: v for g, v in zip(self.goals, found, strict=True)} if found else {}


def is_search(run: Run) -> bool:
    """Whether the job is a search."""
    return ((read_json(run.spec) or {}).get("sweep") or {}).get("kind") == "search"


def compared(run: Run, gone: Collection[int] = ()) -> Compared:
    """The members of a job. Those in `gone` are taken for lost unless they ended: nothing runs them any more.

    Raises SpecError for a job of one member that is no search.
    """
    if is_search(run):
        study = Study(run)
        trials = study.trials(gone)
    else:
        spec, rows = from_document(schema.Spec, read_json(run.spec)), read_lines(run.members_file)
        if len(rows) < 2:
            what = f"{run.id} is a single run: it has nothing to be compared with"
            raise SpecError([Problem(what, f"job {run.id}", "name a search, or a grid (launch -m key=1,2)")])
        study = Study(run, equivalent=_equivalent(spec, [row["point"] for row in rows]))
        trials = [t for row in rows if (t := _trial_of(study, row, gone)) is not None]
    return Compared(study, tuple(trials))


def _equivalent(spec: schema.Spec, points: Sequence[Mapping[str, Any]]) -> Search:
    """The search over the same values. A key that only some points have is there without a condition."""
    values: dict[str, dict[str, Any]] = {}
    for point in points:
        for key, value in point.items():
            values.setdefault(key, {}).setdefault(canonical(value), value)
    return Search(
        kind="search",
        algorithm="grid",
        parameters={key: _parameter(list(taken.values())) for key, taken in values.items()},
        trials=len(points),
        objectives=(Goal(metric=spec.objective.metric, goal=spec.objective.goal),),
        measurement="last",
    )


def _parameter(values: Sequence[Any]) -> Parameter:
    """Numbers have an order; anything else, also mixed with numbers, is a choice."""
    if all(is_number(v) and math.isfinite(v) for v in values):
        ordered = sorted(set(values))
        if all(b - a >= CLOSEST for a, b in itertools.pairwise(ordered)):
            is_wide = ordered[0] > 0 and ordered[-1] / ordered[0] >= WIDE
            return Parameter(type="discrete", values=tuple(ordered), scale="log" if is_wide else "linear")
    return Parameter(type="categorical", values=tuple(values))


def _trial_of(study: Study, row: Mapping[str, Any], gone: Collection[int]) -> Trial | None:
    """A member of a grid; None before it has started. What it measured last stands in its result.json."""
    index, attempts = row["index"], study.run.member(row["index"]).attempts()
    if not attempts:
        return None
    first, last = attempts[0], attempts[-1]
    asked = (read_json(first.path / "started.json") or {}).get("started", first.path.stat().st_mtime)
    cards = sum(pool.accelerator.count * pool.machine.nodes for pool in pools_of(study.spec, row))
    claim = {"point": row["point"], "asked": asked, "reserved_gpu_hours": 0.0, "cards": cards}
    trial = study.trial_of(index, claim, lost=index in gone)
    if (read_json(last.outcome) or {}).get("state") != "SUCCEEDED":
        return trial
    # A search takes one that never said its metric for a failure; a point of a grid did what it was told.
    reports = _with_result(trial.reports, read_json(last.path / "result.json") or {}, study.goals)
    return dataclasses.replace(trial, state="SUCCEEDED", error="", reports=reports)


def pools_of(spec: schema.Spec, row: Mapping[str, Any]) -> tuple[schema.Pool, ...]:
    """What a member runs on; those of a grid may differ."""
    own = row["sections"].get("pools")
    return spec.pools if own is None else tuple(from_document(schema.Pool, pool) for pool in own)


def _with_result(reports: Sequence[Report], measured: Mapping[str, Any], goals: Sequence[Goal]) -> tuple[Report, ...]:
    """The reports, and what the program said at its end as the last of them."""
    said = measured.get("metrics") or {}
    metrics = {goal.metric: float(said[goal.metric]) for goal in goals if _is_number(said.get(goal.metric))}
    if not metrics:
        return tuple(reports)
    step = max([int(measured.get("steps") or 0), *(report.step for report in reports)])
    before = [report for report in reports if report.step != step]
    same = next((report for report in reports if report.step == step), None)
    return (
        *before,
        Report(step=step, metrics={**(same.metrics if same else {}), **metrics}, t=same.t if same else None),
    )


def _is_number(said: Any) -> bool:
    try:
        float(said)
    except (TypeError, ValueError):
        return False
    return True
