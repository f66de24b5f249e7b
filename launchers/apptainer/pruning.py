"""Which images of the store nobody names any more, and their removal.

An image stays while a run or a container option names it, while somebody makes it, and where it is another user's or
was not made here (whoever put it there removes it).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from launchers.apptainer import sif
from launchers.apptainer.image import known_of, record_of
from launchers.apptainer.making import fetched_of, remove
from launchers.errors import SiteError
from launchers.run_folder import record


@dataclass(frozen=True)
class Entry:
    """An image of the store, or what is left of one whose making was broken off."""

    path: Path
    size: int
    """Bytes, with all that lies beside it."""
    kept: str
    """Why it stays; empty where it goes."""


@dataclass(frozen=True)
class Pruned:
    """What there is in a store, and whether what may go has gone."""

    entries: tuple[Entry, ...]
    removed: bool

    @property
    def freed(self) -> int:
        return sum(entry.size for entry in self.entries if not entry.kept)


def prune(images_dir: Path, needed: Mapping[Path, str], *, really: bool) -> Pruned:
    """Judge every image of a store by who needs it; with `really` the others are removed, each under its lock."""
    entries = []
    for image in _images(images_dir.absolute()):
        entry = Entry(image, sum(_size(path) for path in _all_of(image)), _why_kept(image, needed))
        if really and not entry.kept and not _removed(image):
            entry = Entry(image, entry.size, "being made")
        entries.append(entry)
    return Pruned(tuple(entries), really)


def _images(folder: Path) -> Iterator[Path]:
    """Paths of images, there or not: some left only a log and what was fetched."""
    names = {path.name for path in folder.glob("*.sif")}
    names |= {path.name.removesuffix(".lock") for path in folder.glob("*.sif.lock")}
    yield from (folder / name for name in sorted(names) if _all_of(folder / name))


def _why_kept(image: Path, needed: Mapping[Path, str]) -> str:
    lock = _lock_of(image)
    if image.exists() and not known_of(image):
        return "not made here"
    if (image if image.exists() else lock).stat().st_uid != os.getuid():
        return "another user's"
    if record.is_locked(lock):
        return "being made"
    return needed.get(image, "") if image.exists() else ""


def _removed(image: Path) -> bool:
    """Name first: nobody finds an image whose record is gone. The lock's empty file stays: others may wait for it."""
    try:
        with record.locked(_lock_of(image), timeout_s=0):
            for path in (image, *_all_of(image)):
                with contextlib.suppress(FileNotFoundError):
                    remove(path)
    except SiteError:
        return False
    return True


def _all_of(image: Path) -> list[Path]:
    beside = [image, record_of(image), image.with_name(f"{image.name}.log"), sif.cache_of(image), fetched_of(image)]
    return [path for path in beside if path.exists()]


def _lock_of(image: Path) -> Path:
    return image.with_name(f"{image.name}.lock")


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(each.lstat().st_size for each in path.rglob("*") if each.is_file())
    return path.lstat().st_size
