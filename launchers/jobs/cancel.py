"""The verb `cancel`: end a job, whichever of its members wait or run. What they saved stays."""

from __future__ import annotations

import getpass
import time

from launchers.command import output_of
from launchers.jobs.status import TERMINAL, status_of
from launchers.queue import local
from launchers.queue.repair import repair
from launchers.queue.slurm import client_environment
from launchers.run_folder.journal import Journal
from launchers.run_folder.record import Run, locked, read_json, write_json

SUBMISSION_LIMIT_S = 180
"""A submission in flight is waited for; it looks at our wish between one array and the next."""


def cancel(run: Run) -> bool:
    """Ask for the end of a job; False when it had already ended.

    The wish is on disk before Slurm hears of it, so that members which end now are recorded as cancelled
    and not as preempted, and a launch that is still submitting goes no further. The finish step still runs:
    it delivers what was measured. Raises LockBusy when that launch does not come to an end.
    """
    repair(run)
    if status_of(run, progress_of=0).state in TERMINAL:
        return False
    write_json(run.cancelled, {"by": getpass.getuser(), "t": time.time()})
    if read_json(run.plan)["launcher"] == "local":
        local.stop(run)
        return True
    if read_json(run.plan)["launcher"] == "pool":
        return True  # the queue in the pool looks for the wish
    with locked(run.change_lock, SUBMISSION_LIMIT_S):
        repair(run)
        ids = [s.slurm_id for s in Journal(run).submissions() if s.slurm_id and s.kind == "members"]
        if ids:
            output_of(["scancel", *ids], env=client_environment(), do="try again when Slurm's controller answers")
    return True
