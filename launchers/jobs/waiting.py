"""Wait for a job's end without troubling Slurm: files are looked at often, the queue seldom."""

from __future__ import annotations

import time
from collections.abc import Callable

from launchers.errors import SiteError
from launchers.jobs.status import SHOWN_MEMBERS, TERMINAL, JobStatus, status_of
from launchers.queue import scheduler
from launchers.queue.handover import queue_is_alive
from launchers.queue.repair import repair
from launchers.run_folder.journal import Journal
from launchers.run_folder.record import Run, read_json

FIRST_PAUSE_S, LAST_PAUSE_S, GROWTH = 0.3, 10.0, 1.3
PATIENCE_S = 600
"""How long a controller that does not answer is waited for."""


def wait(run: Run, *, timeout_s: float | None = None, look: Callable[[JobStatus], None] = lambda _: None) -> JobStatus:
    """The status at the end of a job and its finish step; `look` sees each status on the way.

    Raises SiteError after `timeout_s`, or when Slurm has not answered for PATIENCE_S.
    """
    repair(run)
    begun = answered = time.monotonic()
    is_local = read_json(run.plan)["launcher"] == "local"
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            now = status_of(run, progress_of=SHOWN_MEMBERS)
            answered = time.monotonic()
            look(now)
            if now.state in TERMINAL and (now.finished or not finish_is_due(run)):
                return status_of(run)
        except SiteError:
            if time.monotonic() - answered > PATIENCE_S:
                raise
        if timeout_s is not None and time.monotonic() - begun > timeout_s:
            raise SiteError(f"the job has not ended within {timeout_s:g} s", where=f"job {run.id}", do="wait longer")
        time.sleep(pause_s)
        pause_s = FIRST_PAUSE_S if is_local else min(pause_s * GROWTH, LAST_PAUSE_S)


def finish_is_due(run: Run) -> bool:
    """Whether the finish step will still run or is running."""
    if read_json(run.plan)["launcher"] != "slurm":
        return queue_is_alive(run)
    if run.is_submitting():
        return True
    names = [s.intent for s in Journal(run).submissions() if s.kind == "finish" and s.slurm_id]
    return bool(names) and bool(scheduler.queue(names))


def has_ended(run: Run) -> Callable[[], bool]:
    """A question that may be asked often: whether the job is over. Slurm is asked at most every LAST_PAUSE_S."""
    answered: list[float] = []

    def ended() -> bool:
        if answered and time.monotonic() - answered[-1] < LAST_PAUSE_S and not run.result.exists():
            return False
        answered.append(time.monotonic())
        return run.result.exists() or status_of(run, progress_of=0).state in TERMINAL

    return ended
