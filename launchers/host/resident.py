"""How much memory do processes of this machine take together, that nobody else can have?

Files that they have mapped, such as data sets, do not count: the kernel takes their pages back when it needs them.
Reads /proc; standard library only.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")


def resident(pids: Collection[int], enough: int) -> int:
    """In bytes; a page that several of them share counts once. Where all that each has in memory is no more than
    `enough` in sum, that is the answer: for a better one the kernel looks at every page of theirs."""
    whole = sum(_pages(pid)[0] for pid in pids) * PAGE
    return whole if whole <= enough else sum(_part(pid) for pid in pids)


def _pages(pid: int) -> tuple[int, int]:
    """Those that a process has in memory, and of these those that others may have as well (proc(5), statm)."""
    try:
        fields = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()
        return int(fields[1]), int(fields[2])
    except (OSError, IndexError, ValueError):  # it is gone
        return 0, 0


def _part(pid: int) -> int:
    """Of a page that n processes have, one n-th (proc(5), smaps_rollup). Where we may not look, or the kernel does not
    tell files apart (before Linux 5.4): what is its own for sure."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii")
    except PermissionError:
        text = ""
    except OSError:
        return 0
    if parts := re.findall(r"^Pss_(?:Anon|Shmem):\s+(\d+) kB$", text, re.MULTILINE):
        return sum(map(int, parts)) * 1024
    pages, shared = _pages(pid)
    return (pages - shared) * PAGE
