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
    whole = sum(map(_pages, pids)) * PAGE
    return whole if whole <= enough else sum(_part(pid) for pid in pids)


def _pages(pid: int) -> int:
    """Those that a process has in memory (proc(5), statm)."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    except (OSError, IndexError, ValueError):  # it is gone
        return 0


def _part(pid: int) -> int:
    """Of a page that n processes have, one n-th (proc(5), smaps_rollup). Where the kernel does not tell files apart
    (before Linux 5.4) what it has for itself and has written; nothing where we may not look."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii")
    except OSError:
        return 0
    return kept_kb(text) * 1024


def kept_kb(rollup: str) -> int:
    """What a text of the kernel's says of it."""
    parts = re.findall(r"^Pss_(?:Anon|Shmem):\s+(\d+) kB$", rollup, re.MULTILINE)
    return sum(map(int, parts or re.findall(r"^Private_Dirty:\s+(\d+) kB$", rollup, re.MULTILINE)))
