"""What a search begins with: the trials of earlier jobs that sweep.warm_start names, read and mapped at its launch.

They are written down once, in study/extra.jsonl, so that a trial that asks for its point needs no other job's folder.
Which trials fit is sweeps/earlier.py's. Nothing is written here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from conf import schema
from conf.sweep_schema import Goal, Search
from launchers.errors import Problem, SpecError
from launchers.run_folder import index
from launchers.run_folder.record import Run, read_json, read_lines, rows_of
from launchers.search.compared import Compared, compared
from launchers.search.known import document
from launchers.search.study import Study
from sweeps.earlier import Taken, other_goals, taken
from sweeps.trials import Report, Trial, goals_of

if TYPE_CHECKING:
    from launchers.config.section import Finding

COMPONENTS = ("data", "engine", "model", "optimizer")


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """The part of one job in what a search begins with."""

    run: Run
    asked: int
    """Trials of the job, whether they were taken or not."""
    taken: Taken

    def __str__(self) -> str:
        """`42 of 50 trials of digits.v1: 5 out of the new range of optimizer.lr, 3 failed`."""
        return f"{len(self.taken.trials)} of {self.asked} trials of {self.run.id}{self.reasons}"

    @property
    def reasons(self) -> str:
        """Why the others were not taken; empty when all were."""
        said = ", ".join(f"{many} {why}" for why, many in self.taken.left_out.items())
        return f": {said}" if said else ""

    def rows(self) -> list[dict[str, Any]]:
        """The lines of study/extra.jsonl."""
        return [{"job": self.run.id, **document(trial)} for trial in self.taken.trials]


def begun_with(spec: schema.Spec) -> tuple[list[Earlier], list[Finding]]:
    """What each named job gives to the search of `spec`, and what is wrong with those that give nothing."""
    assert isinstance(spec.sweep, Search)
    found: list[Earlier] = []
    findings: list[Finding] = []
    for i, name in enumerate(spec.sweep.warm_start):
        try:
            earlier = _earlier(index.find(name), spec, spec.sweep)
            if any(other.run == earlier.run for other in found):
                raise SpecError([Problem(f"{earlier.run.id} is named twice", name, "name each job once")])
            found.append(earlier)
        except SpecError as e:
            findings += [(problem.what, f"sweep.warm_start.{i}", problem.do) for problem in e.problems]
    return found, findings


def counts(run: Run) -> dict[str, int]:
    """How many trials of which jobs a search began with, as its run folder has it."""
    found: dict[str, int] = {}
    for row in read_lines(run.path / "study" / "extra.jsonl"):
        found[row["job"]] = found.get(row["job"], 0) + 1
    return found


def _earlier(run: Run, spec: schema.Spec, search: Search) -> Earlier:
    """What a job gives to a search. Raises SpecError with why it gives nothing."""
    goals = goals_of(search, Goal(metric=spec.objective.metric, goal=spec.objective.goal))
    of = compared(run)
    if other_goals(of.goals, goals):
        what = f"{run.id} was to {_aims(of.goals)}, and this search is to {_aims(goals)}"
        do = "name a job with the same objective, or give this search that one's"
        raise SpecError([Problem(what, run.id, do)])
    if of.search.population is not None:
        what = f"{run.id} is a population, in which what a point is worth depends on what was trained before"
        raise SpecError([Problem(what, run.id, "name another job, or take it out of warm_start")])
    earlier = Earlier(
        run=run, asked=len(of.trials), taken=taken(search, goals, _trials(of, search), _fixed(of, search))
    )
    if not earlier.taken.trials:
        what = f"no trial of {run.id} can be learnt from{earlier.reasons or ': it has none yet'}"
        raise SpecError([Problem(what, run.id, "name another job, or take it out of warm_start")])
    return earlier


def _aims(goals: Iterable[Goal]) -> str:
    return " and ".join(f"{goal.goal} {goal.metric}" for goal in goals)


def _trials(of: Compared, search: Search) -> Sequence[Trial]:
    """The trials of a job, also with what they said of metrics that only the new search constrains."""
    further = {constraint.metric for constraint in search.constraints} - of.study.metrics
    if not further:
        return of.trials
    study = Study(of.run, equivalent=dataclasses.replace(of.search, constraints=search.constraints))
    return [_with_metrics(trial, study, further) for trial in of.trials]


def _with_metrics(trial: Trial, study: Study, further: Collection[str]) -> Trial:
    by_step = {report.step: report for report in trial.reports}
    for attempt in study.run.member(trial.number).attempts():
        for report in study.reports_of(attempt):
            if said := {name: value for name, value in report.metrics.items() if name in further}:
                before = by_step.get(report.step, Report(step=report.step, metrics={}, t=report.t))
                by_step[report.step] = dataclasses.replace(before, metrics={**before.metrics, **said})
    return dataclasses.replace(trial, reports=tuple(by_step[step] for step in sorted(by_step)))


def _fixed(of: Compared, search: Search) -> dict[int, dict[str, Any]]:
    """What the job had fixed of the parameters that its points do not have, for each trial."""
    missing = {trial.number: search.parameters.keys() - trial.point.keys() for trial in of.trials}
    if not any(missing.values()):
        return {}
    spec, templates = read_json(of.run.spec), read_json(of.run.path / "study" / "templates.json") or []
    found = {}
    for row in rows_of(of.run, missing.keys()):
        known = {**dict(_leaves({**spec, **row["sections"]})), **_choices(templates, row["point"])}
        found[row["index"]] = {name: known[name] for name in missing[row["index"]] if name in known}
    return found


def _leaves(document: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Each value by its key in YAML."""
    for name, value in document.items():
        if isinstance(value, Mapping):
            # A component has its options beside its kind in YAML.
            is_options = name == "options" and above.rstrip(".") in COMPONENTS
            yield from _leaves(value, above if is_options else f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def _choices(templates: Sequence[Mapping[str, Any]], point: Mapping[str, Any]) -> Mapping[str, Any]:
    """The option of each group at a point. A grid keeps no templates: of it only what its points say is known."""
    groups = {name for template in templates for name in template["groups"]}
    chosen = {name: value for name, value in point.items() if name in groups}
    return next((template["choices"] for template in templates if template["groups"] == chosen), {})
