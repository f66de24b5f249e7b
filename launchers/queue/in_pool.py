"""How a queue runs its members inside a held allocation: in their turn, on nodes of their own, and again when lost.

The queue itself is local.py's; who gets which nodes is places.py's ledger. A member that was put back, or whose
supervisor was killed, waits for its turn once more. Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from launchers.command import output_of
from launchers.errors import CommandError
from launchers.outcome import EX_TEMPFAIL, FINAL
from launchers.plan import Plan
from launchers.queue import scheduler
from launchers.queue.places import Places, need_of
from launchers.queue.slurm import client_environment
from launchers.run_folder.journal import Journal
from launchers.run_folder.pool_folder import PoolFolder
from launchers.run_folder.record import Run, read_json
from launchers.run_folder.saved import Saved, saved_by
from launchers.step import step_name

VARIABLE = "FAIRLEAD_PLACE"
"""How a supervisor is told where in the allocation its member runs."""
ASK_EVERY_S = 0.1
STEPS_LIMIT_S = 20.0


@dataclass(frozen=True)
class Place:
    """Where a member runs."""

    pool: str
    job: str
    """Slurm's id of the allocation."""
    nodes: tuple[str, ...]
    ends_at: float
    """When the allocation ends, in seconds since the epoch."""

    @classmethod
    def given(cls, environ: Mapping[str, str] = os.environ) -> Place:
        """What the queue said. Raises KeyError outside of a pool."""
        said = json.loads(environ[VARIABLE])
        return cls(said["pool"], said["job"], tuple(said["nodes"]), said["ends_at"])


class InPool:
    """The places of one job in a pool."""

    beside = ("setpriv", "--pdeathsig", "KILL")
    """A supervisor does not outlive its queue: the next queue would run its member once more beside it."""

    def __init__(self, run: Run, plans: Sequence[Plan], pool: PoolFolder) -> None:
        self.run, self.plans, self.pool = run, plans, pool
        self.held = pool.held or {}
        self.ledger = Places(pool, run.id)
        self.lost = Counter[int]()
        """Supervisors that were killed, since their member's last new checkpoint."""
        self.saved = dict[int, Saved]()
        """What a member had saved when it began its turn."""
        self.next_look = 0.0
        if (run.path / "runner.json").exists():  # a queue before this one was killed, and its supervisors with it
            _end_steps(self.held["slurm_job_id"], f"{run.id}.")

    def todo(self, indices: Sequence[int]) -> list[int]:
        """Of these members, and those that were added after them, the ones that have not ended."""
        done = [s for s in Journal(self.run).submissions() if s.kind == "members"]
        begin = max((n for n, s in enumerate(done) if set(s.indices) == set(indices)), default=len(done))
        wanted = dict.fromkeys([*indices, *(i for s in done[begin:] for i in s.indices)])
        return [i for i in wanted if not self._has_ended(i)]

    def place(self, index: int, shape: int, running: int) -> dict[str, str] | None:
        """The environment of a member's supervisor; None where it has to wait."""
        plan = self.plans[shape]
        if (plan.max_parallel is not None and running >= plan.max_parallel) or time.monotonic() < self.next_look:
            return None
        nodes = self.ledger.take(index, *need_of(plan))
        if nodes is None:
            self.next_look = time.monotonic() + ASK_EVERY_S
            return None
        self.saved[index] = saved_by(self.run.member(index))
        place = {"job": self.held["slurm_job_id"], "nodes": nodes, "ends_at": self.held["ends_at"]}
        return {VARIABLE: json.dumps({"pool": self.pool.asked["name"], **place})}

    def again(self, index: int, shape: int, code: int) -> bool:
        """A supervisor has left: its place is free. Whether its member waits for another turn."""
        try:
            if code == 0 or self._has_ended(index):
                return False
            attempts = self.run.member(index).attempts()
            if code == EX_TEMPFAIL and not attempts:
                return True  # a member of a search that gave way to others
            if attempts and read_json(attempts[-1].outcome) is not None:
                return True  # it was put back, and may be as often as its supervisor says
            _end_steps(self.held["slurm_job_id"], step_name(self.plans[shape], index))
            progress = saved_by(self.run.member(index)) - self.saved[index]
            self.lost[index] = 1 if progress else self.lost[index] + 1
            return self.lost[index] <= self.plans[shape].max_requeues
        finally:
            self.ledger.give_back(index)

    def nothing_waits(self) -> None:
        """Do not hold back others who ask."""
        self.ledger.give_back(None)

    def is_cancelled(self) -> bool:
        return self.run.cancelled.exists()

    def _has_ended(self, index: int) -> bool:
        """Whether a member has ended in an attempt of its last submission."""
        before = 0
        for submission in Journal(self.run).submissions():
            if index in submission.indices:
                before = submission.tried.get(str(index), 0)
        attempts = self.run.member(index).attempts()
        outcome = read_json(attempts[-1].outcome) if len(attempts) > before else None
        return outcome is not None and outcome["state"] in FINAL


def steps_of(job: str, name: str, timeout_s: float = 20) -> list[str]:
    """The running steps of an allocation with this name, or that begins so where it ends in a dot. Raises
    CommandError."""
    running = scheduler.running_steps([job], timeout_s)
    return [step for step, said in running if said == name or (name.endswith(".") and said.startswith(name))]


def _end_steps(job: str, name: str) -> None:
    """End what killed supervisors left running, and wait until Slurm has let go of it."""
    until = time.monotonic() + STEPS_LIMIT_S
    with contextlib.suppress(CommandError, OSError, subprocess.SubprocessError):
        while time.monotonic() < until and (steps := steps_of(job, name)):
            output_of(["scancel", "--quiet", *steps], timeout_s=20, env=client_environment())
            time.sleep(0.5)
