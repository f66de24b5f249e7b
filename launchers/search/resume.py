"""The same search again: it goes on where it is, under its own name, as long as it is the same search.

A search is known by its study (sweep.study, or the run's name) and a version. Launching it again runs what was
lost or never ran, with a raised budget if the command raises it. A space or a program that differs is
refused with the difference, or becomes the next version when that is asked for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conf import schema
from conf.document import to_document
from conf.sweep_schema import Goal, Search
from launchers.errors import Problem, SpecError
from launchers.jobs.retry import CHANGE_LIMIT_S, set_aside
from launchers.jobs.status import TERMINAL, JobStatus, status_of
from launchers.plan import plans_from
from launchers.queue.handover import submit_members
from launchers.queue.repair import repair
from launchers.run_folder.record import Run, locked, read_json, unmark_ended
from launchers.search.extend import RAISED, Wish, extend
from launchers.search.study import Study
from sweeps import comparable
from sweeps.earlier import other_goals
from sweeps.learning import NEEDS
from sweeps.trials import goals_of

SAME = ("job", "data", "engine", "model", "optimizer", "train", "seed")
"""Sections that decide what a trial's value means. Machines, limits and places may change."""
UNCOUNTED = {"job": dict.fromkeys(("max_requeues", "restarts", "hang", "silent_min"))}
"""What in them guards a trial's life, and may change too."""
AGAIN = ("LOST", "TIMEOUT", "CANCELLED")
"""Trials that did not end by their own fault."""


@dataclass(frozen=True)
class Place:
    """Where a search is recorded."""

    job: str
    """Id of the job: `<study>.v<version>`."""
    known: Run | None
    """The run folder, when the search was launched before."""


def place_of(spec: schema.Spec, runs_dir: Path) -> Place:
    """The run that a search goes on with, or the id of the one it begins.

    Raises SpecError when there is one of that name with another space, objective or program.
    """
    run, study = known(spec, runs_dir), _study(spec)
    if run is None:
        return Place(f"{study}.v{max(_versions(runs_dir, study), default=0) + 1}", None)
    if changes := list(_changes(Study(run), spec)):
        what = f"the search {study!r} was launched before and is another one now: {'; '.join(changes)}"
        do = f"{_next_version(Study(run), spec)}, sweep.study=NAME another study; or undo the change"
        raise SpecError([Problem(what, f"run {run.path}", do)])
    return Place(run.id, run)


def known(spec: schema.Spec, runs_dir: Path) -> Run | None:
    """The run that a launch of this search would go on with; None where it begins one."""
    assert isinstance(spec.sweep, Search)
    study = _study(spec)
    last = max(_versions(runs_dir, study), default=None)
    return None if last is None or spec.sweep.new_version else Run(runs_dir / f"{study}.v{last}")


def begun_as(run: Run, spec: schema.Spec) -> bool:
    """Whether a search names the earlier jobs that it named when it began. It keeps what it took from them then."""
    assert isinstance(spec.sweep, Search)
    return list(spec.sweep.warm_start) == list(read_json(run.spec)["sweep"].get("warm_start", []))


def go_on(run: Run, spec: schema.Spec) -> list[int]:
    """Queue what the search still owes: trials that a larger budget pays for, and those that were lost, cancelled
    or cut off. Returns which members those are; none when all are on their way or done.

    Trials that failed by their own fault stay as they are, and so does a search that found enough.
    """
    assert isinstance(spec.sweep, Search)
    members: list[int] = []
    if wish := _wish(Study(run).search, spec.sweep):
        members += extend(run, wish).members
    with locked(run.change_lock, CHANGE_LIMIT_S):
        repair(run)
        now = status_of(run, progress_of=0, alone=True)
        if (local := read_json(run.plan)["launcher"] != "slurm") and now.state not in TERMINAL:
            return members
        lost = _lost(Study(run), now)
        if lost:
            if now.state in TERMINAL or local:
                set_aside(run)
            unmark_ended(run, lost)
            submit_members(run, plans_from(read_json(run.plan)), lost)
    return sorted({*members, *lost})


def _wish(known: Search, wanted: Search) -> Wish | None:
    """What the command asks for beyond what the search has."""
    raised: dict[str, Any] = {"trials": wanted.trials} if wanted.trials > known.trials else {}
    for name in RAISED:
        old, new = getattr(known.limits, name), getattr(wanted.limits, name)
        if old is not None and new is not None and new > old:
            raised[name] = new
    return Wish(**raised) if raised else None


def _lost(study: Study, now: JobStatus) -> list[int]:
    ended = {m.index: m.state for m in now.members if m.state in TERMINAL}
    found = study.trials(ended)
    trials = {t.number: t.state for t in found}
    followed = {t.follows for t in found}  # in a population others have taken their places
    never = [i for i, state in ended.items() if i not in trials and state != "SKIPPED"]
    return sorted([*never, *(i for i in ended if trials.get(i) in AGAIN and i not in followed)])


def _next_version(old: Study, spec: schema.Spec) -> str:
    """How to go over to the changed search; with what the old one found, where that can be learnt from."""
    assert isinstance(spec.sweep, Search)
    said = "sweep.new_version=true begins the next version"
    if spec.sweep.algorithm not in NEEDS or other_goals(old.goals, goals_of(spec.sweep, _goal(spec))):
        return said
    return f"{said} (add sweep.warm_start=[{old.run.id}] to begin it with what this one found)"


def _study(spec: schema.Spec) -> str:
    assert isinstance(spec.sweep, Search)
    return re.sub(r"[^A-Za-z0-9._-]", "-", spec.sweep.study or spec.name)


def _versions(runs_dir: Path, study: str) -> Iterator[int]:
    for path in runs_dir.glob(f"{study}.v*"):
        version = path.name.removeprefix(f"{study}.v")
        if version.isdigit() and (path / "plan.json").exists():
            yield int(version)


def _changes(old: Study, spec: schema.Spec) -> Iterator[str]:
    """What differs between a search as it was launched and as it would be, a few words each."""
    new = spec.sweep
    assert isinstance(new, Search)
    yield from comparable.difference(old.search, new, _goal(old.spec), _goal(spec))
    before, after = to_document(old.spec), to_document(spec)  # both with what is new since the launch
    for section in SAME:
        uncounted = UNCOUNTED.get(section)
        sides = [{**said[section], **uncounted} if uncounted else said[section] for said in (before, after)]
        yield from _differing(section, *sides)


def _goal(spec: schema.Spec) -> Goal:
    return Goal(metric=spec.objective.metric, goal=spec.objective.goal)


def _differing(key: str, old: Any, new: Any) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in {**old, **new}:
            yield from _differing(f"{key}.{name}".replace(".options.", "."), old.get(name), new.get(name))
    elif json.dumps(old, sort_keys=True) != json.dumps(new, sort_keys=True):
        yield f"{key}: {old!r} -> {new!r}"
