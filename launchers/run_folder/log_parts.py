"""A rank's log, which never grows beyond a limit: its beginning in rank-<r>.log, its newest in rank-<r>.part-<n>.log.

Files are only added to, or removed as a whole, so that whoever reads them while they grow misses nothing but what is
gone. Standard library only; the process beside each rank writes with this.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

PART = re.compile(r"rank-(\d+)(?:\.part-(\d+))?\.log")
HEAD, EACH, KEPT = 2, 4, 2
"""The beginning takes half of the limit, each part a quarter; two parts are kept, the one that grows among them."""
UNSAID = 16 * 1024
"""Bytes of output, the newest, that wait while the disk takes none."""


def place_of(log: Path) -> tuple[int, int]:
    """Rank and number of a file of a log; the beginning is number 0."""
    found = PART.fullmatch(log.name)
    return (int(found[1]), int(found[2] or 0)) if found else (-1, 0)


def files_of(log: Path) -> list[Path]:
    """The files that a rank's log consists of now, oldest first; `log` is its beginning."""
    later = (path for path in log.parent.glob(f"{log.stem}.part-*.log") if PART.fullmatch(path.name))
    return [log, *sorted(later, key=place_of)]


class LogFile:
    """What writes it. A disk that takes nothing is no error: what was lost is said when it takes something again."""

    def __init__(self, log: str, limit: int) -> None:
        """`limit` in bytes, for all its files. Raises OSError when it cannot be opened."""
        self._log, self._limit = log, limit
        self._number = self._lost = 0
        self._unsaid = b""
        self._fd = _opened(log)
        self._size = os.fstat(self._fd).st_size
        self._written = 0
        """Bytes of output, wherever they are."""

    def write(self, data: bytes) -> None:
        """Add it; at the end of a line, when a file is full, into the next."""
        room = self._limit // (HEAD if self._number == 0 else EACH)
        if self._size + len(data) > room and (end := data.find(b"\n", max(0, room - self._size)) + 1):
            self._add(data[:end])
            self._next()
            data = data[end:]
        self._add(data)

    def say(self, text: str) -> None:
        """A line of ours."""
        self._add(f"fairlead: {text}\n".encode("utf-8", "surrogateescape"))

    def close(self) -> None:
        """Say what was not said yet, if that is possible now."""
        self._add(b"")
        os.close(self._fd)

    def _add(self, data: bytes) -> None:
        self._written += len(data)
        if self._unsaid:
            lost = f"fairlead: {self._lost} bytes of output are lost, as the disk took none\n".encode()
            data, before = (lost if self._lost else b"") + self._unsaid + data, len(data)
        else:
            before = len(data)
        done = 0
        try:
            while done < len(data):
                done += os.write(self._fd, data[done : done + (1 << 20)])
        except OSError:
            rest = data[done:] if before == len(data) else self._unsaid + data[len(data) - before :]
            self._unsaid = rest[-UNSAID:]
            self._lost += len(rest) - len(self._unsaid)
        else:
            self._unsaid, self._lost = b"", 0
        self._size += done

    def _next(self) -> None:
        """Go on in another file; the oldest but the beginning goes."""
        name = f"{self._log.removesuffix('.log')}.part-{{}}.log"
        try:
            fd = _opened(name.format(self._number + 1))
        except OSError:
            return  # the disk: this one goes on
        if self._number == 0:
            self.say(f"the output goes on in {os.path.basename(name.format('N'))}; the newest {KEPT} are kept")  # noqa: PTH119
        os.close(self._fd)
        self._fd, self._size, self._number = fd, 0, self._number + 1
        with contextlib.suppress(OSError):
            os.unlink(name.format(self._number - KEPT))  # noqa: PTH108
        self.say(
            f"output from byte {self._written} on. Of what was before it, the beginning and the last part are kept: "
            f"job.log_gb is {self._limit / 1e9:g}"
        )


def _opened(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
