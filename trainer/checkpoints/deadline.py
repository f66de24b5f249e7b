"""What if a notice comes where nobody can answer it? A thread ends this rank in time, so that it may go on later.

The loop answers notices between its steps. Before the first step is made (imports, rendezvous, restoring, compiling)
there is nothing to lose: the rank ends at once. Later, where no step ends for as long as the grace time lasts (data
that do not come, a peer that is gone), it ends shortly before it would be killed: a job that says 75 goes on, one that
is killed at its time limit has failed.

The thread learns of a signal from the C side of Python (signal.set_wakeup_fd), also while the interpreter waits in C.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Callable

from trainer.signals import NOTICES, Notice

LAST_S = 0.5
"""So long before the end of its grace time a rank ends that has not answered."""


def watch(notice: Notice, grace_s: Callable[[int], float | None], end: Callable[[str], None]) -> None:
    """From now on, end this process by `end`, which is told why and does not return, where a notice is not answered.

    `grace_s` says what a signal leaves, or None where that is not known: then the loop has all the time.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=_forget)
    threading.Thread(target=_watch, args=(reading, notice, grace_s, end), name="deadline", daemon=True).start()


def _forget() -> None:
    """What a child of this process is sent is no notice to it."""
    with contextlib.suppress(ValueError):
        signal.set_wakeup_fd(-1)


def _watch(reading: int, notice: Notice, grace_s: Callable[[int], float | None], end: Callable[[str], None]) -> None:
    if notice.given and not notice.held:  # before anybody listened at the pipe
        return end(f"told to stop ({notice.signal and notice.signal.name}) before the first step")
    while True:
        left_s = notice.left_s()
        if not select.select([reading], [], [], None if left_s is None else max(0.0, left_s - LAST_S))[0]:
            return end("no step ended within the grace time")
        for number in os.read(reading, 64):
            if number not in NOTICES:
                continue
            if not notice.held:
                return end(f"told to stop ({signal.Signals(number).name}) before the first step")
            given_s = grace_s(number)
            if given_s is not None:
                notice.due(time.monotonic() + given_s)
            notice.weighed.set()
