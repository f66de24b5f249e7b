"""A member's own copy of the project's snapshot: where its program starts, and may write.

Members of a sweep do not write over each other, nor into what the run was frozen with; an attempt finds what the one
before it wrote. After an attempt only that is left: files of the snapshot that are as they were are taken away, so that
ten thousand members do not keep ten thousand copies of a project. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from launchers.run_folder.record import make_private

UNFINISHED = ".fairlead-unfinished"
"""At the end of a file's name while it is copied."""


def lay_out(snapshot: Path, folder: Path) -> None:
    """Copy what the folder lacks of the snapshot. A file is there whole or not at all, whenever this process ends."""
    make_private(folder)
    for name in _folders(snapshot):
        if _is_inside(folder, name) and not os.path.lexists(folder / name):
            (folder / name).mkdir()
    for name in _files(snapshot):
        target = folder / name
        if _is_inside(folder, name) and target.parent.is_dir() and not os.path.lexists(target):
            aside = target.with_name(target.name + UNFINISHED)
            shutil.copy2(snapshot / name, aside)
            aside.replace(target)


def clear(snapshot: Path, folder: Path) -> None:
    """Leave what the program has written: what is no more than the snapshot is removed, what Python compiled of it, and
    folders that are empty then. What cannot be removed stays."""
    for name in filter(partial(_is_inside, folder), _files(snapshot)):
        for path in (folder / name, (folder / name).with_name(Path(name).name + UNFINISHED)):
            if path.name.endswith(UNFINISHED) or _is_as_it_was(snapshot / name, path):
                with contextlib.suppress(OSError):
                    path.unlink()
    for name in [*filter(partial(_is_inside, folder), reversed(list(_folders(snapshot)))), ""]:
        if (folder / name).is_symlink():
            continue
        shutil.rmtree(folder / name / "__pycache__", ignore_errors=True)
        with contextlib.suppress(OSError):
            (folder / name).rmdir()


def _is_inside(folder: Path, name: str) -> bool:
    """Whether a name leads through no link that the program has put in place of a folder: what is behind it may be the
    user's own."""
    return (folder / name).parent.resolve() == (folder.resolve() / name).parent


def _is_as_it_was(origin: Path, copy: Path) -> bool:
    """By size and time: a copy has those of its origin."""
    try:
        was, now = origin.lstat(), copy.lstat()
    except OSError:
        return False
    return (was.st_size, was.st_mtime_ns, was.st_mode) == (now.st_size, now.st_mtime_ns, now.st_mode)


def _folders(snapshot: Path) -> Iterator[str]:
    """Below the snapshot, each behind the one that it is in."""
    yield from sorted(str(path.relative_to(snapshot)) for path in snapshot.rglob("*") if path.is_dir())


def _files(snapshot: Path) -> Iterator[str]:
    yield from (str(path.relative_to(snapshot)) for path in snapshot.rglob("*") if not path.is_dir())
