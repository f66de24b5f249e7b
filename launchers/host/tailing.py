"""New lines of a file that a program writes, read while it does: appended to, or written anew each time.

Whatever bytes the program writes, and however many, what is held in memory is bounded. What a line means is
reports.py's. Standard library only.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from launchers.run_folder.log_parts import files_of, place_of

CHUNK = 256 * 1024
LONGEST_LINE = 64 * 1024
"""Longer ones are nobody's report, and are passed over."""
BUSY_S = 0.2
"""CPU that one look may take where a program prints faster than a chunk a second."""
BACKLOG = 64 * 1024 * 1024
"""Output that is further behind than this is passed over."""
REWRITTEN, NEWEST = 1024 * 1024, 10_000
"""As many bytes and lines of a file that is written anew are looked at, from its end."""
SMALL = 64 * 1024
"""A larger one is looked at no more often than once a second."""


class Tail:
    """The lines of a file that grows, each once. A carriage return ends a line, too (progress bars)."""

    def __init__(self, path: Path, offset: int = 0, in_parts: bool = False) -> None:
        """`in_parts`: it is a rank's log, which goes on in other files (log_parts.py)."""
        self.path, self._in_parts = path, in_parts
        self.passed_over = 0
        """Bytes that were printed faster than they could be looked at."""
        self._offset = offset
        self._rest: bytes | None = b""
        """The beginning of a line; None within one that is too long."""

    def lines(self, last: bool = False, torn: bool = False) -> Iterator[bytes]:
        """Whole lines that came since; with `last` all of them, with `torn` also what has no line break yet."""
        begun = time.thread_time()
        yield from self._lines(begun, last)
        while self._in_parts and (last or time.thread_time() - begun <= BUSY_S) and (later := self._later()):
            yield from self._lines(begun, True)  # what came between the last look and the end of this file
            self.path, self._offset, self._rest = later, 0, b""
            yield from self._lines(begun, last)
        if torn and self._rest:
            yield self._rest
            self._rest = b""

    def _later(self) -> Path | None:
        """The file after this one, where there is one already."""
        files = files_of(self.path.with_name(f"rank-{place_of(self.path)[0]}.log"))
        return next((path for path in files if place_of(path) > place_of(self.path)), None)

    def _lines(self, begun: float, last: bool) -> Iterator[bytes]:
        try:
            with self.path.open("rb") as f:
                size = self._place(f)
                while self._offset < size and (data := f.read(CHUNK)):
                    self._offset += len(data)
                    yield from self._split(data)
                    if not last and time.thread_time() - begun > BUSY_S:
                        return
        except FileNotFoundError:
            return

    def _place(self, f: BinaryIO) -> int:
        """Go on where the last look ended, or at the beginning of a file that was begun anew; the file's size."""
        size = os.fstat(f.fileno()).st_size
        if size < self._offset:
            self._offset, self._rest = 0, b""
        if size - self._offset > BACKLOG:
            self.passed_over += size - BACKLOG - self._offset
            self._offset, self._rest = size - BACKLOG, None
        f.seek(self._offset)
        return size

    def _split(self, data: bytes) -> Iterator[bytes]:
        *whole, rest = data.replace(b"\r", b"\n").split(b"\n")
        if whole:
            whole[0] = b"" if self._rest is None else self._rest + whole[0]
            self._rest = rest
        elif self._rest is not None:
            self._rest += rest
        if self._rest is not None and len(self._rest) > LONGEST_LINE:
            self._rest = None
        return (line for line in whole if line and len(line) <= LONGEST_LINE)


class Rewritten:
    """The lines of a file that is written anew with its newest ones, each once; it may be torn at any moment."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._state: tuple[int, ...] = ()
        self._seen_at = 0.0
        self._known: dict[int, None] = {}

    def lines(self, last: bool = False, torn: bool = False) -> Iterator[bytes]:
        """Lines that were not there at an earlier look, oldest first."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return
        state = (found.st_ino, found.st_size, found.st_mtime_ns)
        soon = found.st_size > SMALL and time.monotonic() - self._seen_at < 1
        if not last and (state == self._state or soon):
            return
        self._state, self._seen_at = state, time.monotonic()  # before reading: what is written meanwhile is a change
        with self.path.open("rb") as f:
            f.seek(max(0, os.fstat(f.fileno()).st_size - REWRITTEN))
            *whole, rest = f.read(REWRITTEN).split(b"\n")
        for line in [*whole[-NEWEST:], rest] if torn else whole[-NEWEST:]:
            mark = hash(line)
            if line and len(line) <= LONGEST_LINE and mark not in self._known:
                self._known[mark] = None
                yield line
        while len(self._known) > 2 * NEWEST:
            del self._known[next(iter(self._known))]
