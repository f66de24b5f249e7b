"""Has somebody told us to stop? A signal sets a flag here and does nothing else.

Slurm delivers notices once or twice, to every process of a step, so a repeated signal must be harmless.
What follows (all ranks agree, save, leave) is the loop's, at a moment where it is safe; where there is none,
deadline.py's.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

from trainer.insight.heartbeat import STACKS

NOTICES = (signal.SIGTERM, signal.SIGUSR2)
FOR_RANKS = (*NOTICES, signal.SIGINT, STACKS)
"""What is meant for a rank alone, and reaches its data loader processes where it is sent to every process of a step."""


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
        self.weighed = threading.Event()
        """How much time a notice leaves has been found out, or that nobody knows (checkpoints/deadline.py)."""
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


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """A process that is started meanwhile hears nothing before it says what it hears; this one does afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, FOR_RANKS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore(worker: int = 0) -> None:
    """Make a data loader process deaf to notices: its rank decides when it ends. To the question for its stacks too,
    which would stand among its rank's. What was held back since its start is forgotten."""
    for number in FOR_RANKS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FOR_RANKS)
