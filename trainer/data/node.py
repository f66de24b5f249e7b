"""What do the processes of a user share on a node? A private folder on its disk, and locks in it.

The kernel frees a lock when the last process that has it dies, however it dies.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from trainer.failure import UserError

FOLDER, MOST_GB = "FAIRLEAD_STAGE_DIR", "FAIRLEAD_STAGE_GB"
"""Variables that the launcher sets: the folder, which it binds into containers, and how large it may grow."""
_held: dict[Path, int] = {}


def folder() -> Path:
    """The node's folder of staged data, this user's alone. Without a launcher it lies in the temporary folder.

    Raises UserError when it cannot be made, somebody else made it, or could write to it.
    """
    said = os.environ.get(FOLDER)
    path = Path(said) if said else Path(tempfile.gettempdir()) / f"fairlead-data-{os.getuid()}"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except FileExistsError:
        pass
    except OSError as e:
        if e.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
        what = f"the node's folder of staged data, {path}, cannot be made: {e.strerror}"
        raise UserError(
            what, "site.scratch_dir", "name a folder on the nodes' own disks that you may write to"
        ) from None
    seen = path.lstat()
    if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != os.getuid() or seen.st_mode & 0o022:
        what = f"{path} is not a folder that is yours alone"
        raise UserError(what, "the node's folder of staged data", "move it away, or choose another site.scratch_dir")
    return path


def most_bytes(top: Path) -> int:
    """How much staged data may take: what the site says, or half of the disk."""
    said = os.environ.get(MOST_GB)
    return round(float(said) * 1e9) if said else shutil.disk_usage(top).total // 2


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Wait for a lock, and have it while the block runs."""
    with path.open("a") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def alone_at_once(path: Path) -> Iterator[bool]:
    """Have a lock while the block runs, or False where somebody else has it, or shares it."""
    with path.open("a") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def hold(path: Path) -> None:
    """Share a lock with other readers until this process ends."""
    if path not in _held:
        _held[path] = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(_held[path], fcntl.LOCK_SH)
    os.utime(path)
