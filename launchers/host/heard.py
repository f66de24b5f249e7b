"""What a command says while it runs: kept here, where no disk is asked, and in a file as far as its disk takes that.

For what is decided by a command's own words: a disk that is full or away must not make it deaf. Nothing here waits.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import IO

MOST_LINES = 2000
"""Kept of each end: the first say who left first, the last how it ended."""
PIECE = 1 << 16


class Heard:
    """The words of one command, by a pipe."""

    def __init__(self, pipe: IO[bytes], log: Path) -> None:
        """`pipe` is unbuffered."""
        os.set_blocking(pipe.fileno(), False)
        self._pipe, self._log = pipe, log
        self._rest = b""
        self._kept: list[str] = []

    @property
    def text(self) -> str:
        """Its first and last lines, and ours among them."""
        return "\n".join(self._kept)

    def new(self) -> str:
        """The whole lines that it has said since."""
        said = b"".join(iter(lambda: self._pipe.read(PIECE) or b"", b""))
        if not said:
            return ""
        self._write(said)
        whole, newline, self._rest = (self._rest + said).rpartition(b"\n")
        return self._keep(whole) if newline else ""

    def end(self) -> None:
        """It has ended: what stands there without the end of a line, too."""
        self.new()
        if self._rest:
            self._keep(self._rest)
        self._pipe.close()

    def add(self, line: str) -> None:
        """A line of ours."""
        self._write(f"{line}\n".encode())
        self._keep(line.encode())

    def _keep(self, lines: bytes) -> str:
        text = lines.decode(errors="replace")
        self._kept += text.split("\n")
        if len(self._kept) > 3 * MOST_LINES:
            del self._kept[MOST_LINES:-MOST_LINES]
        return text

    def _write(self, said: bytes) -> None:
        with contextlib.suppress(OSError), self._log.open("ab") as log:
            log.write(said)
