"""One limit on what runs at once, over all arrays of a job.

Slurm limits each array by itself. With launcher.max_parallel each array of a job therefore waits for the
one before it (submit.py), and once that one has nothing left to start, every supervisor that ends passes
its place on to the next. One that is killed before it does costs time, never the limit: at the end of an
array Slurm itself begins the next. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from launchers.command import output_of
from launchers.errors import SiteError
from launchers.plan import Plan
from launchers.queue import scheduler
from launchers.queue.slurm import client_environment
from launchers.run_folder.journal import Journal
from launchers.run_folder.record import Run, locked

LOCK_LIMIT_S = 30


@dataclass(frozen=True)
class Queue:
    """One array of the job, as the queue has it."""

    job: str
    running: int
    waiting: int
    throttle: int | None
    held: bool
    """Waits for the array before it."""
    is_array: bool


def pass_on(run: Run, plan: Plan) -> None:
    """Let the arrays that wait have the places that are free when this process has ended.

    Does nothing for a job without a limit or with one array, and when Slurm does not answer.
    """
    names = [s.intent for s in Journal(run).submissions() if s.kind == "members" and s.slurm_id]
    if plan.max_parallel is None or len(names) < 2:
        return
    with contextlib.suppress(SiteError), locked(run.path / "throttle.lock", LOCK_LIMIT_S):
        for argv in updates(_queues(names), plan.max_parallel):
            output_of(argv, timeout_s=30, env=client_environment())


def updates(queues: Sequence[Queue], limit: int) -> Iterator[list[str]]:
    """The `scontrol update` calls that hand out the free places, in the order of the arrays. Pure."""
    free = limit - sum(q.running for q in queues)
    for queue in queues:
        if free <= 0:
            return
        if queue.waiting:
            throttle = min(limit, queue.running + free)
            if queue.held or (queue.is_array and queue.throttle != throttle):
                array = [f"ArrayTaskThrottle={throttle}"] if queue.is_array else []
                yield ["scontrol", "update", f"JobId={queue.job}", *array, *(["Dependency="] if queue.held else [])]
            free -= queue.waiting


def _queues(names: Sequence[str]) -> list[Queue]:
    """Our arrays in the order in which they were submitted; this process no longer counts as running."""
    rows = scheduler.queue(names)
    ours = os.environ.get("SLURM_ARRAY_JOB_ID") or os.environ.get("SLURM_JOB_ID")
    found = []
    for name in names:
        mine = [row for row in rows if row.name == name]
        waiting = [row for row in mine if row.state == "PENDING"]
        if mine:
            running = sum(max(1, len(row.indices)) for row in mine if row.state != "PENDING")
            found.append(
                Queue(
                    job=mine[0].job,
                    running=running - (1 if mine[0].job == ours else 0),
                    waiting=sum(max(1, len(row.indices)) for row in waiting),
                    throttle=next((row.throttle for row in waiting if row.throttle), None),
                    held=any(row.reason.startswith("Dependency") for row in waiting),
                    is_array=any(row.indices for row in mine),
                )
            )
    return found
