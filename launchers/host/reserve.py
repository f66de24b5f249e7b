"""Room on a full disk for a supervisor's last word: a file that lies there from the start, and goes before it.

Without it the most usual end of a full disk or a used-up quota is that nobody can say so. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

ROOM = 1 << 17
"""Bytes: an outcome takes a few thousand, and file systems give out blocks of up to 64 KiB."""


def reserve_space(folder: Path) -> None:
    """Keep some room, where there is any."""
    with contextlib.suppress(OSError):
        (folder / ".reserve").write_bytes(os.urandom(ROOM))  # not zeros, which a file system may store as nothing


def free_space(folder: Path) -> None:
    """Give the room back, for what must be written now."""
    with contextlib.suppress(OSError):
        (folder / ".reserve").unlink(missing_ok=True)


def why_not_writable(folder: Path) -> str:
    """What the disk says to a small file there; empty where it takes one."""
    trial = folder / ".trial"
    try:
        trial.write_bytes(os.urandom(4096))
    except OSError as e:
        return f"{e.strerror} where the runs are ({folder})"
    finally:
        with contextlib.suppress(OSError):
            trial.unlink(missing_ok=True)
    return ""
