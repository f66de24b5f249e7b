"""Is this rank alive, and what is it at? A few bytes in attempt-<n>/beat-<r>, which the supervisor watches.

    {"section": "train", "step": 12, "t": 1790000000.5, "pace_s": 0.31, "host": "n1"}     filled up to SIZE bytes

Behind them stand the Python stacks of all threads, each time this process is sent SIGUSR1: written by a handler in C,
so that a rank that waits in a C call, or loops, says where.

No thread beats: a rank that hangs must fall silent. Nothing is synced, as the file is on storage that all nodes share.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
import socket
import time
from collections import deque
from pathlib import Path

SIZE = 256
EVERY_S = 0.5
"""A beat within a section is written at most as often; where a section begins, always."""
REMEMBERED = 32
"""Steps whose median is the pace."""
PACED = 3
"""The first steps are always written: without a pace nobody knows how long a step may take."""
STACKS = signal.SIGUSR1
"""SIGUSR2 and SIGTERM are notices; SIGQUIT and SIGABRT would leave a core where nobody handles them yet."""
SECTIONS = {
    "process_start": "imports",
    "imports_done": "rendezvous",
    "rendezvous_done": "data",
    "staging_begin": "staging",
    "staging_end": "data",
    "data_ready": "model",
    "model_ready": "restore",
    "restore_done": "first step",
    "first_step": "train",
    "evaluation_begin": "evaluation",
    "evaluation_end": "train",
    "checkpoint_begin": "checkpoint",
    "checkpoint_end": "train",
    "checkpoint_wait": "checkpoint",
    "leaving": "shutdown",
    "test_begin": "evaluation",
    "test_end": "export",
    "signal": "shutdown",
    "training_done": "export",
    "export_done": "shutdown",
    "exit": "shutdown",
}
"""What an event of the ledger begins."""


class Beat:
    """This rank's; `path` None writes nothing. A disk that takes no beat disturbs nobody."""

    def __init__(self, path: Path | None) -> None:
        self._file: int | None = None
        self._compiled_in = "imports"
        self._section, self._step, self._host = "imports", 0, socket.gethostname()
        self._took: deque[float] = deque(maxlen=REMEMBERED)
        """Seconds of the last steps, without the first, which may compile."""
        self._stepped_at: float | None = None
        self._due_at = 0.0
        if path is not None:
            with contextlib.suppress(OSError):
                self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
                self._write()
                os.lseek(self._file, SIZE, os.SEEK_SET)  # where the stacks go: beats are written by position
                faulthandler.register(STACKS, self._file, all_threads=True)

    def begin(self, section: str) -> None:
        """What may take long begins."""
        self._section = section
        self._write()

    def compiles(self) -> None:
        """torch.compile is at work, in whatever section: it may take longer than a step."""
        self._compiled_in = self._section
        self.begin("compiling")

    def compiled(self) -> None:
        """It is done, and the section goes on."""
        self.begin(self._compiled_in)

    def at(self, section: str) -> None:
        """Alive, in this section; costs a look at the clock (0.2 us) and now and then a write."""
        self._section = section
        if time.monotonic() >= self._due_at:
            self._write()

    def stepped(self, step: int) -> None:
        """A step was made."""
        now = time.monotonic()
        if self._stepped_at is not None:
            self._took.append(now - self._stepped_at)
        self._step, self._stepped_at = step, now
        if now >= self._due_at or len(self._took) < PACED:
            self._write()

    def _write(self) -> None:
        if self._file is None:
            return
        document = {
            "section": self._section,
            "step": self._step,
            "t": round(time.time(), 3),
            "pace_s": round(sorted(self._took)[len(self._took) // 2], 4) if self._took else None,
            "host": self._host,
        }
        self._due_at = time.monotonic() + EVERY_S
        with contextlib.suppress(OSError):
            os.pwrite(self._file, json.dumps(document).encode()[: SIZE - 1].ljust(SIZE - 1) + b"\n", 0)


def host_of(path: Path) -> str | None:
    """Where the rank of a beat runs; None where it cannot be read."""
    try:
        with path.open("rb") as f:
            return str(json.loads(f.read(SIZE))["host"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
