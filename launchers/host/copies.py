"""Copies of images and installed sources on a node's own disk: whole, by their digests, and no more than fit.

Of the processes of a user on a node one copies, and the others wait. Each shares a lock with the copies it uses until
it has ended, however it ends; what nobody uses is removed when there is no room, what was used longest ago first.
Standard library only: a rank's own first process does this, before it becomes the program.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from launchers.apptainer import sif
from launchers.programs import layer

WAIT_S = 1800.0
"""For another who copies the same, or anything else on this node."""
LOOK_S = 0.1
MAKING = ".making."
SPARE = 0.01
"""Share of the disk that stays free."""


class NotNear(Exception):
    """Why there is no copy on this node."""


@dataclass(frozen=True)
class Origin:
    """What is to be copied: an image file, or the folder of modules in a layer."""

    kind: str
    path: Path
    digest: str

    @property
    def whole(self) -> Path:
        """What is copied: of a layer also its description."""
        return self.path if self.kind == "image" else self.path.parent

    @property
    def name(self) -> str:
        return f"{self.digest.partition(':')[2][:16]}-{self.whole.name}"

    def in_copy(self, copy: Path) -> Path:
        """What stands for `path` in a copy."""
        return copy if self.kind == "image" else copy / "modules"

    def why_broken(self, copy: Path, *, fresh: bool = False) -> str:
        """What is wrong with a copy; `fresh` reads every byte."""
        if not copy.exists():
            return "it is not there"
        if self.kind == "image":
            digest = sif.digest_of(copy, fresh=fresh)
        elif fresh:
            digest = layer.digest_of_modules(copy / "modules")
        else:
            return layer.why_broken(copy / "modules", self.digest)
        return "" if digest == self.digest else f"its digest is {digest}, expected {self.digest}"


@dataclass
class Told:
    """What this process did."""

    copied: list[str] = field(default_factory=list)
    copied_bytes: int = 0


class Copies:
    """A user's copies on this node."""

    def __init__(self, folder: Path, most_gb: float | None) -> None:
        """Raises OSError or NotNear where the folder cannot be had, or is not the user's alone."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        seen = folder.lstat()
        if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != os.getuid() or seen.st_mode & 0o022:
            raise NotNear(f"{folder} is not a folder that is yours alone")
        self.folder = folder
        self.most = int(most_gb * 1e9) if most_gb else shutil.disk_usage(folder).total // 2

    def have(self, origin: Origin, told: Told) -> Path:
        """A copy that stays while this process, or what it becomes, has not ended. Raises NotNear or OSError."""
        copy = self.folder / origin.name
        lock = os.open(f"{copy}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._shared(origin, copy, lock, told)
        except BaseException:
            os.close(lock)  # the program goes on without a copy, and must keep nobody from making one
            raise
        os.set_inheritable(lock, True)
        return origin.in_copy(copy)

    def _shared(self, origin: Origin, copy: Path, lock: int, told: Told) -> None:
        """Share the lock of a copy that is whole, and make it where it is not."""
        until = time.monotonic() + WAIT_S
        while True:
            if _locked(lock, fcntl.LOCK_SH, until) and not origin.why_broken(copy):
                os.utime(lock)
                return
            if time.monotonic() > until:
                raise NotNear(f"another process has not copied it within {WAIT_S:g} s")
            fcntl.flock(lock, fcntl.LOCK_UN)
            if not _locked(lock, fcntl.LOCK_EX, time.monotonic() + LOOK_S):
                continue
            if origin.why_broken(copy):  # somebody else may have copied it meanwhile
                self._copy(origin, copy, until, told)

    def _copy(self, origin: Origin, copy: Path, until: float, told: Told) -> None:
        with self._only_copier(until):
            self._remove(copy)
            size = _size(origin.whole)
            self._make_room(size)
            making = self.folder / f"{MAKING}{os.getpid()}"
            try:
                _copied(origin.whole, making)
                if why := origin.why_broken(making, fresh=True):
                    raise NotNear(f"the copy is not what it must be: {why}")
                _named(making, copy)
            finally:
                self._remove(making)
        told.copied.append(origin.whole.name)
        told.copied_bytes += size

    def _make_room(self, size: int) -> None:
        """Remove what was used longest ago by nobody who still runs, until `size` more bytes fit. Raises NotNear."""
        if size > self.most:
            raise NotNear(f"it has {size / 1e6:.0f} MB, and copies may take {self.most / 1e6:.0f} (site.local_gb)")
        for left in self.folder.glob(f"*{MAKING}*"):  # of one that was killed: nobody else copies now
            self._remove(left)
        locks = sorted(self.folder.glob("*.lock"), key=lambda lock: lock.stat().st_mtime)
        for lock in (None, *locks):
            if lock is not None:
                self._evict(lock)
            used = sum(_size(each) for each in self._all())
            usage = shutil.disk_usage(self.folder)
            if used + size <= self.most and size <= usage.free - SPARE * usage.total:
                return
        room = f"{usage.free / 1e6:.0f} MB of its disk are free, copies in use take {used / 1e6:.0f}"
        raise NotNear(f"it has {size / 1e6:.0f} MB, and there is no room: {room}")

    def _evict(self, lock: Path) -> None:
        """Remove a copy, unless somebody uses it or waits for it."""
        fd = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._remove(self.folder / lock.name.removesuffix(".lock"))
        except BlockingIOError:
            return
        finally:
            os.close(fd)

    def _all(self) -> Iterator[Path]:
        yield from (path for path in self.folder.iterdir() if not path.name.endswith(".lock"))

    def _remove(self, copy: Path) -> None:
        """Name first: half of it is never found by it."""
        sif.cache_of(copy).unlink(missing_ok=True)
        if copy.is_dir():
            gone = copy if MAKING in copy.name else copy.rename(copy.with_name(f"{MAKING}gone.{os.getpid()}"))
            shutil.rmtree(gone)
        else:
            copy.unlink(missing_ok=True)

    @contextmanager
    def _only_copier(self, until: float) -> Iterator[None]:
        """One of a user copies on a node, so that what fits is known."""
        fd = os.open(self.folder / ".copier", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if not _locked(fd, fcntl.LOCK_EX, until):
                raise NotNear(f"something else has been copied for {WAIT_S:g} s")
            yield
        finally:
            os.close(fd)


def _locked(fd: int, how: int, until: float) -> bool:
    while True:
        try:
            fcntl.flock(fd, how | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > until:
                return False
            time.sleep(LOOK_S)


def _copied(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True)
        return
    shutil.copyfile(source, target)
    with target.open("rb") as f:
        os.fsync(f.fileno())


def _named(making: Path, copy: Path) -> None:
    """With what is remembered of its digest: nobody needs to read it again."""
    with suppress(FileNotFoundError):
        sif.cache_of(making).replace(sif.cache_of(copy))
    making.rename(copy)


def _size(path: Path) -> int:
    paths = path.rglob("*") if path.is_dir() else [path]
    total = 0
    for each in paths:
        with suppress(FileNotFoundError):
            total += each.lstat().st_size
    return total
