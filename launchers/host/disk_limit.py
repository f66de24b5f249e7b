"""Does a program have more on a disk than it may? In its member's folder, and in what its container writes on a node.

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
NEARLY_FULL = 0.1
"""Of a disk, where no more is free."""
BLOCK = 512
"""What st_blocks counts (stat(2)): a file with holes takes no more than it has."""


class DiskLimit:
    """One program's, in these folders; `most` bytes in each, None is half of a disk that is nearly full."""

    def __init__(self, folders: Sequence[str], most: int | None) -> None:
        self._folders, self._most = folders, most
        self.why = ""
        """Said once there is too much."""
        self.thread = threading.Thread(target=self._watch, name="disk", daemon=True)
        self.thread.start()

    def _watch(self) -> None:
        pause_s = LOOK_S
        while not self.why:
            time.sleep(pause_s)
            begun = time.monotonic()
            self.why = next((why for folder in self._folders if (why := excess(folder, self._most))), "")
            pause_s = max(LOOK_S, (time.monotonic() - begun) / SHARE)


def excess(folder: str, most: int | None) -> str:
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
    return f"{had}, and job.max_disk_gb is {gb(limit)}"


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
