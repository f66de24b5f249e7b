"""A member of a search asks for its point, when it starts: once, whatever happens to it afterwards.

Under one lock for the whole study, so that no two members are given the same point. Whoever holds it gives all
others that wait their points, too (points.py): thousands may start within a second, and to load what suggests and
to read what was tried takes far longer than one more point. Standard library only, until it is this member's turn.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path

from launchers.parts import ranges
from launchers.plan import Plan
from launchers.run_folder.record import (
    LockBusy,
    Member,
    Run,
    gave_up,
    is_locked,
    locked,
    make_private,
    read_json,
    write_json,
)

LOCK_LIMIT_S = 600
"""One that holds the lock may be stopped, or its storage slow. Then the member goes back to the queue."""
LOOK_S, LOOK_MOST_S, LOOK_SHARE = 0.03, 1.0, 0.1
"""A member that waits looks again after a tenth of the time that it has waited: all of them use one file server."""
WAIT_S, POLL_S = 900, 10.0
"""How long a trial waits, with its allocation, for GPU-hours that others have reserved and may give back, or for a
place in a population that another trains in."""
GIVE_WAY_S = 30.0
"""How long it does so while one of these others waits for an allocation, as that may be its own."""


class GivesWay(Exception):
    """A member without a point gives its allocation back, for those that it waits for; the message says why."""


def ask(run: Run, plan: Plan, index: int) -> str | None:
    """Give a member its point, unless it has one. Returns why there is none, when the study is over.

    Raises GivesWay where it waits for members that wait for an allocation themselves (they were preempted, say), and
    SiteError when the study's files cannot be read or written, or its lock is held too long.
    """
    member, folder = run.member(index), make_private(run.path / "study")
    deadline = time.monotonic() + (WAIT_S if plan.launcher == "slurm" else math.inf)
    alone_since: float | None = None
    while True:
        with _waiting(folder, index), contextlib.ExitStack() as held:
            if not _has_turn(held, folder / "ask.lock", member):
                return None
            _look_anew(folder)
            if over := read_json(folder / "over.json"):
                return str(over["why"])
            if run.cancelled.exists():
                return "cancelled by the user"
            from launchers.search.points import give

            why, later = give(run, plan, index, _others(folder, index))
            queued = _queued(run, plan) if later else set()
        if later is None:
            return why
        now = time.monotonic()
        alone_since = (alone_since or now) if queued else None
        if alone_since is not None and now >= alone_since + GIVE_WAY_S:
            raise GivesWay(f"{later}, and of these {ranges(sorted(queued))} wait for an allocation")
        if now > deadline:
            return give_up(run, index, later)
        time.sleep(POLL_S)


def give_up(run: Run, index: int, why: str) -> str:
    """Have the finish step queue a member again, that has no point yet. Returns what to say of it."""
    make_private(gave_up(run, index).parent)
    write_json(gave_up(run, index), {"why": why})
    return f"{why}; it is queued again when the others have ended"


def _queued(run: Run, plan: Plan) -> set[int]:
    """Members that have their point and wait for an allocation, where there is a queue in which they can."""
    if plan.launcher == "local":
        return set()
    from launchers.search.points import gone
    from launchers.search.study import Study

    study = Study(run)
    return study.queued() - gone(study)


def _has_turn(held: contextlib.ExitStack, lock: Path, member: Member) -> bool:
    """Wait for the study's lock, which then is `held`, or until the member has its point."""
    begun = time.monotonic()
    while not _has_point(member):
        waited_s = time.monotonic() - begun
        try:
            held.enter_context(locked(lock, timeout_s=0))
            return not _has_point(member)
        except LockBusy:
            if waited_s > LOCK_LIMIT_S:
                what = f"no point for member {member.index}: {lock.name} was held by others for {LOCK_LIMIT_S:g} s"
                do = "look at the storage of the runs, and for a member that is stopped"
                raise LockBusy(what, where=str(lock), do=do) from None
        time.sleep(min(LOOK_MOST_S, max(LOOK_S, LOOK_SHARE * waited_s)))
    return False


def _has_point(member: Member) -> bool:
    _look_anew(member.path.parent, member.path)
    return member.point.exists()


def _look_anew(*folders: Path) -> None:
    """See what other hosts have written into folders. A client of NFS remembers for up to a minute that a name was
    not there, but asks the server when the folder is opened."""
    for folder in folders:
        with contextlib.suppress(FileNotFoundError):
            os.close(os.open(folder, os.O_RDONLY | os.O_DIRECTORY))


@contextlib.contextmanager
def _waiting(folder: Path, index: int) -> Iterator[None]:
    """Let others know that this member waits, for as long as this process lives. Where another process waits for
    the same member, it is enough that one of them is known."""
    path = make_private(folder / "waiting") / str(index)
    with contextlib.ExitStack() as held:
        with contextlib.suppress(LockBusy):
            held.enter_context(locked(path, timeout_s=0))
            held.callback(path.unlink, missing_ok=True)
        yield


def _others(folder: Path, index: int) -> Iterator[int]:
    """Members that wait now, whoever comes meanwhile included. Whose process has died is not among them."""
    seen = {index}
    while new := sorted(_names(folder / "waiting") - seen):
        seen.update(new)
        for other in new:
            path = folder / "waiting" / str(other)
            if is_locked(path):
                yield other
            else:
                path.unlink(missing_ok=True)


def _names(waiting: Path) -> set[int]:
    return {int(path.name) for path in waiting.iterdir() if path.name.isdigit()}
