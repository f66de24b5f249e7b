"""A program on a terminal of its own, as a person has one: keys, a window size, and what the screen shows."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

CTRL_C = "\x03"
PROMPTS = ("# ", "$ ", "> ")
"""A shell that shows one takes keys; what is typed before may be lost."""


class Terminal:
    """Leaves with the program's end: `with Terminal(argv, cwd) as screen`."""

    def __init__(self, argv: Sequence[str], cwd: Path, size: tuple[int, int] = (33, 101)) -> None:
        """`size` is rows and columns."""
        self._ours, theirs = pty.openpty()
        self.resize(size)
        whole = ["setsid", "--ctty", "--wait", *argv]  # (util-linux): it becomes the session's controlling terminal
        self._program = subprocess.Popen(whole, cwd=cwd, stdin=theirs, stdout=theirs, stderr=theirs)
        os.close(theirs)
        self.shown = ""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        os.close(self._ours)  # which hangs up
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._program.wait(10)
        if self._program.poll() is None:
            self._program.kill()
            self._program.wait()

    def resize(self, size: tuple[int, int]) -> None:
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))

    def type(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def until(self, *texts: str, limit_s: float = 60) -> str:
        """What was shown since the last call, up to and with one of these texts. Fails after `limit_s`."""
        for _ in self._reads(limit_s):
            if ends := [at + len(text) for text in texts if (at := self.shown.find(text)) >= 0]:
                found, self.shown = self.shown[: min(ends)], self.shown[min(ends) :]
                return found
        raise AssertionError(f"none of {texts} was shown within {limit_s:g} s, but {self.shown!r}")

    def ended(self, limit_s: float = 60) -> int:
        """The program's exit status, when it has left."""
        for _ in self._reads(limit_s):
            if (code := self._program.poll()) is not None:
                return code
        raise AssertionError(f"it did not leave within {limit_s:g} s: {self.shown!r}")

    def _reads(self, limit_s: float) -> Iterator[None]:
        until = time.monotonic() + limit_s
        while time.monotonic() < until:
            yield
            if select.select([self._ours], [], [], 0.1)[0]:
                with contextlib.suppress(OSError):  # EIO: nobody has the other end any more
                    self.shown += os.read(self._ours, 4096).decode(errors="replace")


def commands() -> str:
    """Of all processes: the hosts of the test cluster share this machine's."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(path.read_text(errors="replace"))
    return "\n".join(found)
