"""Members that are over for Slurm and not for us: the finish step queues them again.

A member of a search that waited for so long for a place in its population, or for GPU-hours that others had reserved,
that it gave its allocation back: by now they are free. And a member that had begun, that Slurm put back into the queue,
and that it then let expire: `launcher.max_wait_min` is about its first begin, and Slurm's --deadline about every one. A
deadline cannot be changed while its job runs (measured with 22.05: scontrol says nothing and changes nothing), so that
a job whose node was lost comes back with it. What we put back ourselves loses it on the way (host/elsewhere.py).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Collection

from launchers.jobs.status import TERMINAL, JobStatus, status_of
from launchers.plan import plans_from
from launchers.queue.handover import submit_members
from launchers.run_folder.record import Run, locked, members_that_gave_up, read_json

CHANGE_LIMIT_S = 180
"""Somebody else may be submitting members of the same job."""
PAUSES_S = (1.0, 3.0, 6.0)
"""Accounting may hear a little later that a job has expired."""


def queue_again(run: Run) -> list[int]:
    """Queue such members once more, without a deadline; returns which, none where there are none.

    The finish step asks, which begins when Slurm has let go of all members, and is queued again behind these. Raises
    SiteError when Slurm does not answer, or is not known to have taken them; then nothing is lost: `fairlead retry`.
    """
    plans = plans_from(read_json(run.plan))
    waited = members_that_gave_up(run)
    if plans[0].launcher != "slurm" or (all(plan.max_wait_min is None for plan in plans) and not waited):
        return []
    with locked(run.change_lock, CHANGE_LIMIT_S):
        if run.cancelled.exists():
            return []
        now = _over(run, waited)
        again = {m.index for m in now.members if m.state == "EXPIRED" and run.member(m.index).attempts()}
        if not (run.path / "study" / "over.json").exists():
            # There is a place for one of them at least, now that all others have ended: it does not go on for ever.
            again |= {index for index in waited if not run.member(index).point.exists()}
        if again:
            submit_members(run, [dataclasses.replace(plan, max_wait_min=None) for plan in plans], sorted(again))
        for path in waited.values():
            path.unlink(missing_ok=True)
        return sorted(again)


def _over(run: Run, waited: Collection[int]) -> JobStatus:
    """The status of a job that Slurm has let go of, as far as accounting has heard of it by then."""
    now = status_of(run, progress_of=0, alone=True)
    for pause_s in PAUSES_S:
        if all(m.state in TERMINAL or m.index in waited for m in now.members):
            break
        time.sleep(pause_s)
        now = status_of(run, progress_of=0, alone=True)
    return now
