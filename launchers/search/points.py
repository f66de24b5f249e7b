"""Points for members of a search: is there still a budget, what have the others shown, then a point each.

What a point is put into was composed at launch (study/templates.json); neither Hydra nor the YAML is needed here.
Each point is checked against the schema and written down, which makes it the member's. When, and that nobody else
does the same at that moment, is ask.py's.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from conf.document import to_document
from launchers.command import output_of
from launchers.config.check import Checker
from launchers.config.patch import Base
from launchers.errors import SiteError
from launchers.jobs.status import status_of
from launchers.parts import ranges
from launchers.plan import Plan
from launchers.process import start_of
from launchers.queue.slurm import client_environment
from launchers.run_folder.journal import Journal
from launchers.run_folder.record import Member, Run, make_private, read_json, read_lines, write_json, write_once
from launchers.search.known import trial_of, uncollected
from launchers.search.study import Study
from sweeps import population, sampler, stopping
from sweeps.trials import Trial

OTHERS_S = 5.0
"""How long a member gives points to others before it goes its own way; the next of them goes on."""
FIXED = ("sweep", "pools")
"""Sections that no point changes. What the launch wrote there holds (all of the search, the image and its digest), and
the templates, which were composed before, lack it."""

Said = tuple[str | None, str | None]
"""Why there will be no point for a member, and why there is none now; two times None where it has one."""


def give(run: Run, plan: Plan, index: int, others: Iterable[int]) -> Said:
    """Give a member its point, and then others theirs. The caller holds the lock of the study.

    Raises SiteError when the study's files cannot be read or written.
    """
    with uncollected():
        source = _Source(run, plan)
        said = source.give(index)
        if said == (None, None):
            with contextlib.suppress(Exception):  # it has its point; what is wrong, the others find when they ask
                _give_others(source, others)
    return said


def _give_others(source: _Source, others: Iterable[int]) -> None:
    end = time.monotonic() + OTHERS_S
    for other in others:
        if time.monotonic() > end or source.give(other) != (None, None):
            return


class _Source:
    """What is known of a study at one moment, and points from it."""

    def __init__(self, run: Run, plan: Plan) -> None:
        self._study, self._plan = Study(run), plan
        self._reserve = self._study.reserve_gpu_hours
        self._trials = self._study.trials(gone(self._study))
        self._study.remember(self._trials)
        extra = [trial_of(row) for row in read_lines(self._study.folder / "extra.jsonl")]
        self._suggester = sampler.Suggester(self._study.search, self._study.goals, self._trials, extra)
        self._base, self._templates, self._checker = read_json(run.spec), _Templates(self._study), Checker()

    def give(self, index: int) -> Said:
        """Give a member its point, unless it has one."""
        study, now = self._study, self._study.clock()
        if study.run.member(index).point.exists():
            return None, None
        if why := stopping.why_over(study.search, study.goals, self._trials, now, self._reserve):
            write_json(study.over, {"why": why, "t": now})
            _cancel_rest(study, self._plan)
            return why, None
        if later := stopping.why_wait(study.search, self._trials, self._reserve):
            return None, later
        try:
            trial = self._proposed(index, now)
        except sampler.Exhausted as e:
            write_json(study.over, {"why": str(e), "t": now})
            return str(e), None
        except population.NotYet as e:
            return None, str(e)
        except sampler.NotInstalled as e:
            raise SiteError(str(e), where=sys.executable, do="install it there, or take another algorithm") from None
        self._claim(trial)
        return None, None

    def _proposed(self, index: int, now: float) -> Trial:
        """A trial with its point, and in a population with where it begins."""
        study, start, number = self._study, population.Start(), index
        if population.of(study.search) is not None:
            start = population.start(study.search, study.goals[0], self._trials, index)
            number = sum(trial.parent is None for trial in self._trials)  # start points are for who begins
        point = self._suggester.next(number, asked=now) if start.point is None else start.point
        return Trial(
            number=index,
            point=point,
            state="RUNNING",
            asked=now,
            parent=start.parent,
            follows=start.follows,
            gpu_hours=self._reserve,
        )

    def _claim(self, trial: Trial) -> None:
        """Make a point the member's, whose trial runs from now on. One that it has already holds: where a file server
        took the lock from a host that was away for a while, two hosts may be here."""
        member = self._study.run.member(trial.number)
        make_private(member.path)
        family = {k: v for k, v in (("parent", trial.parent), ("follows", trial.follows)) if v is not None}
        claim = {"point": trial.point, **self._checked(trial), "asked": trial.asked, **family}
        if not write_once(member.point, {**claim, "reserved_gpu_hours": trial.gpu_hours}):
            trial = self._study.trial(trial.number) or trial
        self._trials.append(trial)

    def _checked(self, trial: Trial) -> dict[str, Any]:
        """The sections of the spec that a point changes, and what is wrong with it (which is rare: each value was
        checked at launch, but not each with each)."""
        spec, findings = self._checker.spec(self._templates.config({**trial.point, **self._length(trial)}))
        if spec is None:
            return {"sections": {}, "infeasible": "; ".join(what for what, _, _ in findings)}
        base = self._base
        return {"sections": {k: v for k, v in to_document(spec).items() if v != base[k] and k not in FIXED}}

    def _length(self, trial: Trial) -> dict[str, Any]:
        """How far a member of a population trains: to the end of its generation. Others' programs decide themselves."""
        if population.of(self._study.search) is None or self._base["job"]["kind"] != "trainer":
            return {}
        done = population.generation_of(trial, {each.number: each for each in self._trials}) + 1
        return {"train.until": min(1.0, done / population.generations(self._study.search))}


class _Templates:
    """What points are put into: a composition for each choice of groups."""

    def __init__(self, study: Study) -> None:
        self._all: list[dict[str, Any]] = read_json(study.folder / "templates.json")
        self._groups = {name for template in self._all for name in template["groups"]}
        self._bases: dict[int, Base] = {}

    def config(self, point: Mapping[str, Any]) -> Mapping[str, Any]:
        """The configuration of a point."""
        chosen = {name: value for name, value in point.items() if name in self._groups}
        which = next(i for i, template in enumerate(self._all) if template["groups"] == chosen)
        return self._base(which).member(point, {k: v for k, v in point.items() if k not in self._groups}).config

    def _base(self, which: int) -> Base:
        if which not in self._bases:
            self._bases[which] = Base(self._all[which]["config"], self._all[which]["choices"])
        return self._bases[which]


def config_of(study: Study, point: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration of a point, from the template of its choices of groups."""
    return _Templates(study).config(point)


def gone(study: Study) -> set[int]:
    """Trials whose supervisor is silent and that Slurm (or this machine's queue) no longer runs. When it cannot
    be asked, nobody is gone."""
    silent = study.silent()
    if not silent:
        return set()
    if study.spec.launcher.kind == "local":  # its queue does not look whether a supervisor was killed
        return {index for index in silent if _is_dead(study.run.member(index))}
    with contextlib.suppress(SiteError):
        states = {m.index: m.state for m in status_of(study.run, progress_of=0).members}
        return {i for i in silent if states[i] in ("FAILED", "CANCELLED", "EXPIRED")}
    return set()


def _is_dead(member: Member) -> bool:
    """Whether the process that ran a member of this machine is no more."""
    attempts = member.attempts()
    pid = (read_json(attempts[-1].path / "started.json") or {}).get("pid") if attempts else None
    return pid is None or start_of(pid) is None


def _cancel_rest(study: Study, plan: Plan) -> None:
    """Take what waits and has no point out of the queue. Should that fail: they start, ask and end at once."""
    if plan.launcher == "slurm":
        with contextlib.suppress(SiteError):
            for argv in _cancellations(study):
                output_of(argv, timeout_s=60, env=client_environment())


def _cancellations(study: Study) -> Iterator[list[str]]:
    run = study.run
    asked = {i for s in Journal(run).submissions() for i in s.indices if run.member(i).point.exists()}
    for submission in Journal(run).submissions():
        rest = [i for i in submission.indices if i not in asked]
        if submission.kind == "members" and submission.slurm_id and rest and len(submission.indices) > 1:
            elements = ranges([i - submission.offset for i in rest])
            yield ["scancel", "--quiet", "--state=PENDING", f"{submission.slurm_id}_[{elements}]"]
