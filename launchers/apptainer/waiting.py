"""What somebody hears who waits for an image: how much of it has come, and what its build says, every few seconds.

Each function gives one that making.py's `run_logged` calls now and then while a command runs. Nothing here is decided.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path

Progress = Callable[[str], None]
SAY_S = 10
"""Between two words about how far it is."""
LAST_BYTES = 4096
"""Of a log, in which its last line is looked for."""
LINE = 100
"""Characters of a line that are shown."""
CONTROL = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x09\x0b\x0c\x0e-\x1f\x7f]")


def bytes_come(folder: Path, size: int, progress: Progress) -> Callable[[], None]:
    """How much of `size` bytes has come into a folder."""
    return _now_and_then(lambda: progress(f"fetched {mb(min(_size_below(folder), size))} of {mb(size)}"))


def lines_come(log: Path, progress: Progress) -> Callable[[], None]:
    """What a command wrote last into its log, and for how long it has run."""
    begun = time.monotonic()

    def say() -> None:
        minutes, seconds = divmod(round(time.monotonic() - begun), 60)
        progress(f"{minutes}:{seconds:02d}  {last_line(log)}")

    return _now_and_then(say)


def last_line(log: Path) -> str:
    """The last line of a log that says anything, as a terminal may show it; empty where there is none."""
    with log.open("rb") as f:
        f.seek(max(0, f.seek(0, os.SEEK_END) - LAST_BYTES))
        lines = CONTROL.sub(b"", f.read()).replace(b"\r", b"\n").decode(errors="replace").split("\n")
    return next((line.strip()[:LINE] for line in reversed(lines) if line.strip()), "")


def mb(size: int) -> str:
    """A size in bytes, for people."""
    return f"{size / 1e6:.0f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"


def _now_and_then(say: Callable[[], None]) -> Callable[[], None]:
    said = [time.monotonic()]

    def look() -> None:
        if time.monotonic() - said[0] >= SAY_S:
            said[0] = time.monotonic()
            say()

    return look


def _size_below(folder: Path) -> int:
    return sum(_size(os.path.join(top, name)) for top, _, names in os.walk(folder) for name in names)  # noqa: PTH118


def _size(path: str) -> int:
    try:
        return Path(path).lstat().st_size
    except OSError:  # a temporary name that has just got its own
        return 0
