"""The verb `extend`: more trials, time or GPU-hours for a search that runs or has ended, under the same job id.

What was raised stands in study/budget.json (study.py applies it), further members in members.jsonl. Every
step can be repeated: a call that was killed is completed by the next one with the same numbers.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from conf.sweep_schema import Limits, Search
from launchers.errors import Problem, SpecError
from launchers.jobs.retry import CHANGE_LIMIT_S, set_aside
from launchers.jobs.status import TERMINAL, JobStatus, status_of
from launchers.plan import plans_from
from launchers.queue.handover import submit_members
from launchers.queue.repair import repair
from launchers.run_folder.journal import Journal
from launchers.run_folder.record import (
    Run,
    append_lines,
    late_row,
    locked,
    read_json,
    read_lines,
    unmark_ended,
    write_json,
)
from launchers.search.ask import LOCK_LIMIT_S
from launchers.search.study import Study
from sweeps import stopping
from sweeps.grid import MOST_POINTS
from sweeps.trials import Trial

RAISED = ("wall_min", "gpu_hours", "max_failed")
"""Limits that may be raised by a number."""
COUNTED = ("same_failures", "no_progress_trials")
"""Limits that `again` lets count anew."""
NEVER = 10**9


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What shall be raised, and to how much; None leaves it as it is."""

    trials: int | None = None
    wall_min: int | None = None
    gpu_hours: float | None = None
    max_failed: int | None = None
    again: bool = False
    """Go on although the target was reached, nothing got better, or trials failed alike."""


@dataclass(frozen=True)
class Extended:
    """What became of it."""

    run: Run
    members: tuple[int, ...]
    """Those that were queued; none when all are on their way already."""
    search: Search

    def document(self) -> dict[str, Any]:
        """For JSON: the members, and the budget that holds from now on."""
        limits = {name: value for name in RAISED if (value := getattr(self.search.limits, name)) is not None}
        return {"job": self.run.id, "members": list(self.members), "budget": {"trials": self.search.trials, **limits}}


def extend(run: Run, wish: Wish) -> Extended:
    """Raise the budget and queue the members that it pays for.

    Raises SpecError for what is no search, for numbers that are not larger than those of now, and when the
    search would be over all the same; then nothing was changed.
    """
    with locked(run.change_lock, CHANGE_LIMIT_S):
        repair(run)
        before = Study(run).search
        with locked(Study(run).folder / "ask.lock", LOCK_LIMIT_S):  # or a trial could end the search meanwhile
            now = status_of(run, progress_of=0, alone=True)
            after = _raised(run, before, wish, now)
            _write(run, before, after)
        members = _without_a_point(run, now)
        if members:
            if now.state in TERMINAL:
                set_aside(run)
            unmark_ended(run, members)
            submit_members(run, plans_from(read_json(run.plan)), members)
        return Extended(run, tuple(members), after)


def _raised(run: Run, search: Search, wish: Wish, now: JobStatus) -> Search:
    """The search with what is wished for. Raises SpecError with everything that is wrong with it."""
    problems = list(_problems(run, search, wish, now))
    if problems:
        raise SpecError(problems)
    study = Study(run)
    gone = {m.index for m in now.members if m.state in TERMINAL}
    trials = study.trials(gone)
    numbers = {name: value for name in RAISED if (value := getattr(wish, name)) is not None}
    limits = dataclasses.replace(search.limits, **numbers)
    after = dataclasses.replace(search, trials=wish.trials or search.trials, limits=limits)
    if wish.again:
        after = dataclasses.replace(after, limits=_anew(study, after, trials))
    if why := stopping.why_over(after, study.goals, trials, time.time(), study.reserve_gpu_hours):
        do = "raise what ended it: --trials, --wall-min, --gpu-hours, --max-failed, or --again for the rest"
        raise SpecError([Problem(f"the search would still be over: {why}", f"job {run.id}", do)])
    return after


def _problems(run: Run, search: Search, wish: Wish, now: JobStatus) -> Iterator[Problem]:
    if now.state == "CANCELLING":
        yield Problem("the job is being cancelled", f"job {run.id}", f"wait for it: fairlead wait {run.id}")
    wanted = {f.name: getattr(wish, f.name) for f in dataclasses.fields(wish) if getattr(wish, f.name) is not None}
    if wanted == {"again": False}:
        yield Problem("nothing is to be raised", "the command line", "add --trials N, larger than now")
    elif wanted == {"again": True} and not Study(run).over.exists():
        yield Problem("the search is not over", "--again", "add --trials N to raise its budget")
    if "trials" in wanted and search.population is not None:
        what = "the generations of a population were fixed when it was launched: their schedules go by all of them"
        yield Problem(what, "--trials", "launch a longer one (sweep.study=NAME, or sweep.new_version=true)")
    if (wanted.get("trials") or 0) > MOST_POINTS:
        yield Problem(f"{wish.trials} trials are too many", "--trials", f"at most {MOST_POINTS}")
    for name, old in (("trials", search.trials), *((name, getattr(search.limits, name)) for name in RAISED)):
        flag, new = f"--{name.replace('_', '-')}", wanted.get(name)
        if new is None or (name == "trials" and new == old and _is_unfinished(run, search)):
            continue
        if old is None:
            yield Problem(f"{name} has no limit", f"{flag} {new}", "leave it out")
        elif not old < new < math.inf:
            yield Problem(f"{name} is {old}, and {new} is not more", f"{flag} {new}", "it can only be raised")


def _is_unfinished(run: Run, search: Search) -> bool:
    """Whether an earlier call was killed before it had queued all that it wrote down."""
    return len(_submitted(run)) < search.trials


def _submitted(run: Run) -> set[int]:
    known = [s for s in Journal(run).submissions() if s.kind == "members" and s.slurm_id]
    return {index for submission in known for index in submission.indices}


def _anew(study: Study, search: Search, trials: Sequence[Trial]) -> Limits:
    """The limits without those that stop the search by what it found: counts go as far again, a target is met."""
    alone = Limits(same_failures=NEVER)

    def stops(limits: Limits) -> bool:
        asked = dataclasses.replace(search, trials=NEVER, limits=limits)
        return stopping.why_over(asked, study.goals, trials, time.time()) is not None

    limits = search.limits
    if stops(dataclasses.replace(alone, target=limits.target)):
        limits = dataclasses.replace(limits, target=None)
    for name in COUNTED:
        step = new = getattr(limits, name)
        while new is not None and stops(dataclasses.replace(alone, **{name: new})):
            new += step
        limits = dataclasses.replace(limits, **{name: new})
    return limits


def _write(run: Run, before: Search, after: Search) -> None:
    """Budget first: members that nothing pays for would end at once. The caller holds the lock of `ask.py`."""
    study = Study(run)
    launched = study.spec.sweep
    assert isinstance(launched, Search)
    changed = {f.name: getattr(after.limits, f.name) for f in dataclasses.fields(Limits)
               if getattr(after.limits, f.name) != getattr(launched.limits, f.name)}  # fmt: skip
    if after != before:
        write_json(study.budget, {"trials": after.trials, "limits": changed, "t": time.time()})
    known = {row["index"] for row in read_lines(run.members_file)}
    further = [late_row(i) for i in range(after.trials) if i not in known]
    if further:
        append_lines(run.members_file, further)
    study.over.unlink(missing_ok=True)


def _without_a_point(run: Run, now: JobStatus) -> list[int]:
    """Members that have still to ask for a point, and that nothing will run unless it is queued."""
    waiting = {m.index for m in now.members if m.state not in TERMINAL}
    rows = [row["index"] for row in read_lines(run.members_file)]
    return [i for i in rows if i not in waiting and not run.member(i).point.exists()]
