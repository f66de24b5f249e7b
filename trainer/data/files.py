"""Which files does `data.path` name, and what is in them? The one place where the sources open a path.

Names are the user's: they may hold anything but a null byte, and messages show them on one line.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING

from trainer import durable
from trainer.failure import UserError

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class File:
    """A file, and what tells cheaply whether it is still the same one."""

    path: Path
    name: str
    """Below `data.path`, with slashes."""
    size: int
    changed_ns: int

    @property
    def shown(self) -> str:
        """The path for a message."""
        return shown(self.path)


def shown(path: Path | str) -> str:
    """A path as it is, or quoted where it would not fit on one line."""
    return str(path) if str(path).isprintable() else ascii(str(path))


def found(path: str, glob: str, suffixes: Sequence[str] = ()) -> list[File]:
    """The files at `path`: itself, or those below it that match `glob` and one of `suffixes`, in order of name.

    Raises UserError when there is none.
    """
    root = Path(path)
    with readable(root):
        if not root.exists():
            raise UserError(f"there is nothing at {shown(root)}", "data.path", "check data.path")
        matches = [root] if root.is_file() else [p for p in _below(root, glob) if p.is_file()]
        chosen = [p for p in matches if not suffixes or p.suffix.lower() in suffixes]
        files = [_file(p, root) for p in chosen]
    if not files:
        ends = f" and ends in {', '.join(suffixes)}" if suffixes else ""
        what = f"no file matches {glob}{ends}" if root.is_dir() else f"the file does not end in {', '.join(suffixes)}"
        raise UserError(what, f"data.path: {shown(root)}", "check data.path and data.glob")
    return sorted(files, key=lambda file: file.name)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BufferedReader]:
    """A file to read. Raises UserError when it cannot be opened."""
    with readable(path), path.open("rb") as f:
        yield f


def mapped(path: Path, dtype: str | None, count: int = 0) -> np.ndarray:
    """A file's numbers in memory that is read when it is looked at; a .npy file (`dtype` None) says its own type.

    Raises ValueError when it is no such file.
    """
    import numpy as np

    with readable(path):
        if dtype is None:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        return np.memmap(path, dtype=dtype, mode="r", shape=(count,))


def sha256(path: Path) -> str:
    """Digest of a file's content."""
    with readable(path):
        return durable.sha256(path)


def identity(files: Sequence[File]) -> list[tuple[str, int, int]]:
    """What changes when one of the files does, without reading them."""
    return [(str(file.path), file.size, file.changed_ns) for file in files]


def _below(root: Path, glob: str) -> list[Path]:
    try:
        return list(root.glob(glob))
    except (ValueError, NotImplementedError) as e:
        raise UserError(f"data.glob is {glob!r}: {e}", "data.glob", "write a pattern below data.path") from None


def _file(path: Path, root: Path) -> File:
    seen = path.stat()
    name = path.relative_to(root if root.is_dir() else root.parent).as_posix()
    return File(path, name, seen.st_size, seen.st_mtime_ns)


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns a missing file or permission into a user's mistake; a broken disk stays the site's."""
    try:
        yield
    except (FileNotFoundError, PermissionError, IsADirectoryError) as e:
        what = f"{shown(e.filename or path)} cannot be read: {e.strerror}"
        raise UserError(what, "data.path", "check the file and who may read it") from None
