"""A member's ranks as one srun step, or those of one unit of several pools: in a job of its own, or among the steps of
others in a held allocation.

srun says on its standard error how each task left. What follows from that is decided here and not by srun, whose
--kill-on-bad-exit leaves the others Slurm's KillWait, however much time they were promised. Nothing here may touch the
allocation: what ends a member ends its own steps, by their names. Why it ended is outcome.py's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from launchers.command import output_of
from launchers.errors import CommandError
from launchers.host.element import own_id
from launchers.host.every_node import where
from launchers.host.heard import Heard
from launchers.host.ranks import DIES_WITH_US, KILL_AFTER_S, NOTICES, POLL_S
from launchers.layout import Unit
from launchers.outcome import EX_TEMPFAIL, tasks_of
from launchers.queue import scheduler
from launchers.queue.in_pool import Place, steps_of
from launchers.queue.slurm import client_environment
from launchers.run_folder.record import Attempt
from launchers.step import Step

TELL_EVERY_S = 0.5
"""At first: a step that was just started is not in Slurm's list yet."""
TELL_AT_LEAST_S = 10.0
"""A controller that is away is not asked so often."""
ASK_S = 10.0
ECHO_S = 1.0
"""So soon all say so whom one fault has struck; who leaves later may do so because we said it should."""
NOT_TOLD = re.compile("Unable to contact slurm controller")
"""What scancel says where it has signalled nobody. It asks each node of a step, and where one of these fails, and with
a component's step of a heterogeneous job, it fails when all others have their signal (measured)."""
TOLD = "fairlead: the others are told to leave"
"""Ours among srun's words (outcome.SRUN_ENDS_IT)."""


class SrunStep:
    """The running ranks of one step."""

    first_rank: int | None = None
    blame = over_memory = ""
    offset = 0

    def __init__(
        self, argv: Sequence[str], env: Mapping[str, str], log: Path, steps: Callable[[], Sequence[str]],
        noticed: Callable[[], bool],
    ) -> None:  # fmt: skip
        """`steps` asks Slurm for the ids of those that run; `noticed` whether Slurm has given the ranks notice."""
        self._steps, self._ask = steps, noticed
        self._untold: list[signal.Signals] = []
        self._next, self._pause_s = 0.0, TELL_EVERY_S
        self._noticed = self._failed = False
        self._tell_by = self._end_by = math.inf
        self._srun = subprocess.Popen(
            argv, env=dict(env), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0
        )
        assert self._srun.stdout is not None
        self._heard = Heard(self._srun.stdout, log)

    @property
    def said(self) -> str:
        return self._heard.text

    def processes(self) -> Mapping[int, int]:
        return {}

    def tell(self, number: signal.Signals) -> None:
        self._untold.append(number)
        if number == signal.SIGTERM:
            self._end_by = min(self._end_by, time.monotonic() + KILL_AFTER_S)
            self._failed = True

    def give_notice(self, number: signal.Signals) -> None:
        """By scancel of the step, in `wait`, where there is time to try again. It signals the tasks themselves
        (measured: each sees it once or twice)."""
        self._noticed = self._noticed or number in NOTICES
        self._untold.append(number)

    def kill(self) -> None:
        """Through srun, which turns a SIGTERM of its own into a SIGKILL of its tasks (srun(1), «Signals»), and so
        of this step alone: `scancel --signal=KILL` may take the whole job."""
        self._srun.terminate()

    def end_over_memory(self, rank: int, why: str) -> None:
        """As a cluster's kernel does by itself: nobody here looks."""
        self.kill()

    def wait(self) -> int:
        """One rank that leaves with an error takes the others down, after a word of warning. One that has saved is
        none after a notice: who gave that ends those that stay."""
        while (code := self._srun.poll()) is None:
            self._listen()
            if self._untold and time.monotonic() >= self._next:
                self._try_to_tell()
            if time.monotonic() > self._end_by:
                self._end()
            time.sleep(POLL_S)
        self._heard.end()
        return code

    def _listen(self) -> None:
        """Whoever heard a notice may be saving, and is not told once more."""
        now = time.monotonic()
        for task in tasks_of(self._heard.new()):
            saved = task.code == EX_TEMPFAIL
            self._failed = self._failed or not saved
            if self._end_by == math.inf and not (saved and self._was_noticed()):
                self._end_by = now + ECHO_S + KILL_AFTER_S
                self._tell_by = math.inf if self._was_noticed() else now + ECHO_S
        if now > self._tell_by:
            self._tell_by = math.inf
            self._heard.add(TOLD)
            self._untold.append(signal.SIGTERM)

    def _was_noticed(self) -> bool:
        self._noticed = self._noticed or self._ask()
        return self._noticed

    def _end(self) -> None:
        """Those that are still there; not where all that left had saved and it turns out why."""
        if not self._failed and self._was_noticed():
            self._end_by = math.inf
            return
        self.kill()
        self._end_by = time.monotonic() + KILL_AFTER_S

    def _try_to_tell(self) -> None:
        number = self._untold[0]
        self._next, self._pause_s = time.monotonic() + self._pause_s, min(2 * self._pause_s, TELL_AT_LEAST_S)
        with contextlib.suppress(CommandError):
            if steps := self._steps():
                _signal(number, steps)
                self._untold.pop(0)
                self._next, self._pause_s = 0.0, TELL_EVERY_S


def _signal(number: signal.Signals, steps: Sequence[str]) -> None:
    """The steps, not their job: where other elements of its array wait, Slurm 22.05 signals the job and then says that
    it cannot be altered now, so that scancel signals it again and again for a minute and more. Raises CommandError
    where nobody was told."""
    argv = ["scancel", f"--signal={number.name.removeprefix('SIG')}", *steps]
    try:
        output_of(argv, timeout_s=ASK_S, env=client_environment())
    except CommandError as e:
        if NOT_TOLD.search(e.output):
            raise


def in_own_job(
    step: Step, attempt: Attempt, env: Mapping[str, str], noticed: Callable[[], bool], unit: Unit | None = None
) -> SrunStep:
    """In the job that this process is the batch step of. A heterogeneous one has components, whose steps bear their own
    number alone (measured)."""
    job = own_id(env)
    further = (name for name in env if re.fullmatch("SLURM_JOB_ID_HET_GROUP_[1-9][0-9]*", name))
    components = sorted(env[name] for name in further)

    def steps() -> list[str]:
        running = scheduler.running_steps([job, *components], ASK_S)
        named = [id_.rpartition(".") for id_, name in running if name == step.name]
        return [f"{own if components else job}.{number}" for own, _, number in named]

    return SrunStep(step.argv, env, _log(attempt, unit), steps, noticed)


def in_held(
    step: Step, attempt: Attempt, env: Mapping[str, str], noticed: Callable[[], bool], unit: Unit | None = None
) -> SrunStep:
    """In a held allocation, on the nodes that the queue gave the member when it started us (in_pool.py), on the
    allocation's first host."""
    place = _of_unit(Place.given(), unit)
    argv = (*DIES_WITH_US, step.argv[0], *where(place), *step.argv[1:])
    return SrunStep(argv, env, _log(attempt, unit), partial(steps_of, place.job, step.name, ASK_S), noticed)


def _log(attempt: Attempt, unit: Unit | None) -> Path:
    return attempt.path / (f"srun-{unit.name}.log" if unit else "srun.log")


def _of_unit(place: Place, unit: Unit | None) -> Place:
    """The nodes of one unit: pools lie behind each other on those of their member."""
    if unit is None:
        return place
    return dataclasses.replace(place, nodes=place.nodes[unit.relative : unit.relative + unit.nodes])
