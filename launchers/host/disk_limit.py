"""Does a program have more on a disk than it may, or in a node's memory as on a disk? In its member's folder, in what
its container writes on a node, and in its /dev/shm.

Looked at by a thread beside the program (piped.py), as a folder of many files takes its time. What a program without a
container writes elsewhere is not seen. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
import time
from collections.abc import Iterator, Sequence

LOOK_S, SHARE = 5.0, 0.02
"""Between two looks, which take at most so much of the time."""
MEMORY_LOOK_S = 1.0
"""Memory fills faster, and is asked for free."""
NEARLY_FULL = 0.1
"""Of a disk, where no more is free."""
BLOCK = 512
"""What st_blocks counts (stat(2)): a file with holes takes no more than it has."""


class DiskLimit:
    """One program's, in these folders; `most` bytes in each, None is half of a disk that is nearly full. What allows so
    many is `said`, but for job.max_disk_gb."""

    def __init__(self, folders: Sequence[str], most: int | None, look_s: float = LOOK_S, said: str = "") -> None:
        self._folders, self._most, self._look_s, self._said = folders, most, look_s, said
        self.why = ""
        """Said once there is too much."""
        self.thread = threading.Thread(target=self._watch, name="disk", daemon=True)
        self.thread.start()

    def _watch(self) -> None:
        pause_s = self._look_s
        while not self.why:
            time.sleep(pause_s)
            begun = time.monotonic()
            found = (excess(folder, self._most, self._said) for folder in self._folders)
            self.why = next(filter(None, found), "")
            pause_s = max(self._look_s, (time.monotonic() - begun) / SHARE)


def excess(folder: str, most: int | None, said: str = "") -> str:
    """What is too much in a folder; empty where nothing is, or where it is not there. A disk of which less is in use,
    or is not nearly full, is not looked through."""
    try:
        disk = os.statvfs(folder)
        size, free = disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize
        limit = size // 2 if most is None else most
        may_be = free < NEARLY_FULL * size if most is None else size - free > limit
        taken = bytes_in(folder) if may_be else 0
    except OSError:
        return ""
    if taken <= limit:
        return ""
    had = f"it had {gb(taken)} GB in {folder} on {os.uname().nodename}"
    if most is None:
        return f"{had}, more than half of a disk of {gb(size)} GB that was nearly full, and job.max_disk_gb is null"
    return f"{had}, and {said or f'job.max_disk_gb is {gb(limit)}'}"


def gb(count: int) -> str:
    """Bytes as job.max_disk_gb counts them."""
    return f"{count / 1e9:.3g}" if count < 1e12 else f"{count / 1e9:.0f}"


def bytes_in(folder: str) -> int:
    """What its files take of its disk; one with several names once. What may not be looked at counts nothing."""
    waiting, several, total = [folder], set[int](), 0
    disk = os.stat(folder).st_dev  # noqa: PTH116 (without pathlib: a process beside each rank)
    while waiting:
        for entry in _listed(waiting.pop()):
            try:
                found = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            if found.st_dev != disk or found.st_ino in several:
                continue
            total += found.st_blocks * BLOCK
            if stat.S_ISDIR(found.st_mode):
                waiting.append(entry.path)
            elif found.st_nlink > 1:
                several.add(found.st_ino)
    return total


def _listed(folder: str) -> Iterator[os.DirEntry[str]]:
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        yield from entries
