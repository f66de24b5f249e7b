"""The verb `retry`: submit members of a job again that did not succeed. They go on from their checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from launchers.errors import Problem, SpecError
from launchers.jobs.status import TERMINAL, status_of
from launchers.plan import plans_from
from launchers.queue.handover import submit_members
from launchers.queue.repair import repair
from launchers.run_folder.record import Run, locked, read_json, unmark_ended

if TYPE_CHECKING:
    from launchers.jobs.changed import Wish

CHANGE_LIMIT_S = 180
"""Somebody else may be submitting members of the same job."""


def retry(
    run: Run, members: Sequence[int] | None = None, wish: Wish | None = None, say: Callable[[str], None] = print
) -> list[int]:
    """Queue the members again, by default every one that ended without success; returns which.

    With a wish they run on another machine, or under other limits (changed.py); if this is killed before they are
    queued, the next retry finds them changed.
    Raises SpecError when the job still runs, when a member that was named succeeded or is not there, and with
    everything that is wrong with the wish; then nothing was changed.
    """
    with locked(run.change_lock, CHANGE_LIMIT_S):
        repair(run)
        wanted = _wanted(run, members)
        if wish is not None and wish.overrides:
            from launchers.jobs.changed import change  # with Hydra, which other retries do without

            change(run, wanted, wish, say)
        set_aside(run)
        unmark_ended(run, wanted)
        submit_members(run, plans_from(read_json(run.plan)), wanted)
        return wanted


def _wanted(run: Run, members: Sequence[int] | None) -> list[int]:
    """The members that are to be tried again."""
    now = status_of(run, progress_of=0, alone=True)
    if now.state not in TERMINAL:
        do = f"wait for it (`fairlead wait {run.id}`) or cancel it first"
        raise SpecError([Problem(f"the job is {now.state}", f"job {run.id}", do)])
    wanted = [m.index for m in now.members if m.state not in ("SUCCEEDED", "PRUNED", "SKIPPED")]
    if members is None:
        taken = _followed(run)
        wanted = [index for index in wanted if index not in taken]
    if members is not None:
        for index in members:
            if index not in wanted:
                what = f"member {index} did not fail" if index < len(now.members) else f"there is no member {index}"
                raise SpecError([Problem(what, f"--member {index}", f"members that failed: {wanted or 'none'}")])
        wanted = list(members)
    if not wanted:
        raise SpecError([Problem("every member succeeded: nothing to retry", f"job {run.id}", "launch a new job")])
    return wanted


def _followed(run: Run) -> set[int]:
    """Members of a population whose places others have taken: nobody would go on from what they become."""
    if ((read_json(run.spec) or {}).get("sweep") or {}).get("algorithm") != "population":
        return set()
    claims = [read_json(member.point) or {} for member in run.members()]
    return {claim["follows"] for claim in claims if "follows" in claim}


def set_aside(run: Run) -> None:
    """Keep what the last round ended with, under a number, so that this round writes its own."""
    for path in (run.cancelled, run.result):
        if path.exists():
            number = sum(1 for _ in run.path.glob(f"{path.stem}.*.json"))
            path.rename(path.with_suffix(f".{number}.json"))
