"""Has somebody told us to stop? A signal sets a flag here and does nothing else.

Slurm delivers notices once or twice, to every process of a step, so a repeated signal must be harmless.
What follows (all ranks agree, save, leave) is the loop's, at a moment where it is safe; where there is none,
deadline.py's.
"""

from __future__ import annotations

import signal
import time
from types import FrameType

from trainer.insight.heartbeat import STACKS

NOTICES = (signal.SIGTERM, signal.SIGUSR2)


class Stopped(Exception):
    """All ranks have agreed to stop here."""


class Broken(BaseException):
    """A notice came while this rank waited for data."""


class Left(Exception):
    """Told to leave, and what could be kept is kept: nothing of this process is waited for."""


class Notice:
    """`signal` is the first notice that arrived, or None."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.held = False
        """Whether there is something to lose: a step was made, and the loop answers."""
        self.breaks = False
        """Whether a notice breaks off what this process does now: waits for data, and changes nothing."""
        self.broken: Broken | None = None
        """Kept with what it broke off: data loader processes that hang would be waited for where that is cleared."""
        self._deadline: float | None = None

    @property
    def given(self) -> bool:
        return self.signal is not None

    def take(self, number: int, frame: FrameType | None) -> None:
        """The handler. Nothing but an assignment: no lock, no output, no collective call. It ends a wait for data."""
        if self.signal is None:
            self.signal = signal.Signals(number)
            if self.breaks:
                raise Broken

    def hold(self) -> None:
        """From now on there is something to lose."""
        self.held = True

    def due(self, at: float) -> None:
        """This process will be killed then, by time.monotonic(). The earliest of several counts."""
        self._deadline = at if self._deadline is None else min(at, self._deadline)

    def left_s(self) -> float | None:
        """Seconds until this process will be killed; None where nobody knows."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())


def listen() -> None:
    """Take what came before this process could: rank.sh starts it with its notices held back."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, NOTICES)


def install() -> Notice:
    """Turn SIGTERM and SIGUSR2 into a flag, from now on."""
    notice = Notice()
    for number in NOTICES:
        signal.signal(number, notice.take)
    return notice


def ignore(worker: int = 0) -> None:
    """Make a data loader process deaf to notices: its rank decides when it ends. To the question for its stacks too,
    which would stand among its rank's."""
    for number in (*NOTICES, signal.SIGINT, STACKS):
        signal.signal(number, signal.SIG_IGN)
