"""A member's ranks as one step of a held allocation, among the steps of others.

Nothing here may touch the allocation itself: what ends a member ends its own step, by its name. Which nodes are its
own was said by the queue that started its supervisor (in_pool.py), which runs on the allocation's first host.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from launchers.command import output_of
from launchers.errors import CommandError
from launchers.host.ranks import DIES_WITH_US, KILL_AFTER_S, POLL_S, on_every_node
from launchers.plan import Plan
from launchers.queue.in_pool import Place, steps_of
from launchers.queue.slurm import client_environment
from launchers.run_folder.record import Attempt
from launchers.step import Step

TELL_EVERY_S = 0.5
"""A step that was just started is not in Slurm's list yet, and a controller may be away."""


class HeldStep:
    """All ranks as one srun step, on nodes of its own."""

    first_rank: int | None = None
    blame = ""
    offset = 0

    def __init__(self, step: Step, attempt: Attempt, env: Mapping[str, str], name: str) -> None:
        self._place, self._name = Place.given(), name
        self.said = (attempt.path / "srun.log",)
        self._untold: list[signal.Signals] = []
        self._next = 0.0
        self._end_by = float("inf")
        argv = (step.argv[0], *where(self._place), *step.argv[1:])
        with (attempt.path / "srun.log").open("ab") as log:
            self._srun = subprocess.Popen(
                (*DIES_WITH_US, *argv), env=dict(env), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )

    def tell(self, number: signal.Signals) -> None:
        """By scancel of the step, in `wait`, where there is time to try again. What is told to end is ended some time
        later, as Slurm would."""
        self._untold.append(number)
        if number == signal.SIGTERM:
            self._end_by = min(self._end_by, time.monotonic() + KILL_AFTER_S)

    def kill(self) -> None:
        """Through srun, which turns a SIGTERM into a SIGKILL of its tasks (srun(1), «Signals»)."""
        self._srun.terminate()

    def wait(self) -> int:
        while (code := self._srun.poll()) is None:
            if self._untold and time.monotonic() >= self._next:
                self._try_to_tell()
            if time.monotonic() > self._end_by:
                self.kill()
                self._end_by = time.monotonic() + KILL_AFTER_S
            time.sleep(POLL_S)
        return code

    def _try_to_tell(self) -> None:
        self._next = time.monotonic() + TELL_EVERY_S
        with contextlib.suppress(CommandError):
            number = self._untold[0]
            if steps := steps_of(self._place.job, self._name):
                signalled = ["scancel", f"--signal={number.name.removeprefix('SIG')}", *steps]
                output_of(signalled, timeout_s=20, env=client_environment())
                self._untold.pop(0)


def where(place: Place) -> tuple[str, ...]:
    """srun's options for these nodes of that allocation."""
    return (f"--jobid={place.job}", f"--nodelist={','.join(place.nodes)}")


def notice_later(plan: Plan) -> None:
    """The member's own time limit, which Slurm does not see to here: this process gets the notice that it would give.
    (That of the allocation's end comes from Slurm.)"""
    later(plan.time_limit_min * 60 - plan.notice_s, lambda: os.kill(os.getpid(), signal.SIGUSR2))


def later(seconds: float, act: Callable[[], None]) -> None:
    """Unless this process has ended by then."""
    timer = threading.Timer(max(0.0, seconds), act)
    timer.daemon = True
    timer.start()


def remove_folders(folders: Sequence[str], plan: Plan) -> None:
    """Leave no node with what an attempt had on its own disk and in its memory."""
    for _, everywhere in on_every_node(plan):
        argv = ["srun", *where(Place.given()), "--overlap", *everywhere, "rm", "-rf", "--", *folders]
        with contextlib.suppress(CommandError):
            output_of(argv, timeout_s=60, env=client_environment())
