"""A member's ranks as one step of a held allocation, or one for each unit of its pools, among the steps of others.

Nothing here may touch the allocation itself: what ends a member ends its own steps, by their names. Which nodes are its
own was said by the queue that started its supervisor (in_pool.py), which runs on the allocation's first host.
"""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence

from launchers.command import output_of
from launchers.errors import CommandError
from launchers.host.ranks import DIES_WITH_US, KILL_AFTER_S, POLL_S, on_every_node
from launchers.layout import Unit
from launchers.plan import Plan
from launchers.queue.in_pool import Place, steps_of
from launchers.queue.slurm import client_environment
from launchers.run_folder.record import Attempt
from launchers.step import Step

TELL_EVERY_S = 0.5
"""A step that was just started is not in Slurm's list yet, and a controller may be away."""


class HeldStep:
    """All ranks as one srun step, or those of one unit of several pools, on nodes of its own."""

    first_rank: int | None = None
    blame = ""
    offset = 0

    def __init__(
        self, step: Step, attempt: Attempt, env: Mapping[str, str], name: str, unit: Unit | None = None
    ) -> None:
        self._place, self._name = _of_unit(Place.given(), unit), name
        self.said = (attempt.path / (f"srun-{unit.name}.log" if unit else "srun.log"),)
        self._untold: list[signal.Signals] = []
        self._next = 0.0
        self._end_by = float("inf")
        argv = (step.argv[0], *where(self._place), *step.argv[1:])
        with self.said[0].open("ab") as log:
            self._srun = subprocess.Popen(
                (*DIES_WITH_US, *argv), env=dict(env), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )

    def processes(self) -> Mapping[int, int]:
        return {}

    def tell(self, number: signal.Signals) -> None:
        self.give_notice(number)
        if number == signal.SIGTERM:
            self._end_by = min(self._end_by, time.monotonic() + KILL_AFTER_S)

    def give_notice(self, number: signal.Signals) -> None:
        """By scancel of the step, in `wait`, where there is time to try again."""
        self._untold.append(number)

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


def _of_unit(place: Place, unit: Unit | None) -> Place:
    """The nodes of one unit: pools lie behind each other on those of their member."""
    if unit is None:
        return place
    return dataclasses.replace(place, nodes=place.nodes[unit.relative : unit.relative + unit.nodes])


def where(place: Place) -> tuple[str, ...]:
    """srun's options for these nodes of that allocation."""
    return (f"--jobid={place.job}", f"--nodelist={','.join(place.nodes)}")


def remove_folders(folders: Sequence[str], plan: Plan) -> None:
    """Leave no node with what an attempt had on its own disk and in its memory."""
    for _, everywhere in on_every_node(plan):
        argv = ["srun", *where(Place.given()), "--overlap", *everywhere, "rm", "-rf", "--", *folders]
        with contextlib.suppress(CommandError):
            output_of(argv, timeout_s=60, env=client_environment())
