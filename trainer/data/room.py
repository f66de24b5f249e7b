"""Which staged data leave a node's disk when others need the room? Those that nobody holds, the longest unused first.

<key>/        an entry: its files, and index.json that names them
<key>.part/   one that is being made, or whose maker died
<key>.lock    held by who makes or removes it; says how many bytes it will take
<key>.use     shared by those who read it; its time is that of the last use
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trainer.data import node

PART = ".part"


@dataclass(frozen=True)
class Entry:
    """Something below a node's folder that takes room."""

    key: str
    bytes: int
    used: float
    """When somebody last began to use it, in seconds since the epoch."""


def make_room(top: Path, wanted: int, mine: str) -> int:
    """Remove entries until `wanted` bytes fit: below what staged data may take, and on the disk.

    Returns how many bytes are still missing. `mine` is the key of whoever asks, which stays; what is written of it
    needs no room any more.
    """
    most, have = node.most_bytes(top), written(top, mine)
    others = _others(top, mine)
    taken = sum(entry.bytes for entry in others)

    def missing() -> int:
        return max(0, taken + max(wanted, have) - most, wanted - have - shutil.disk_usage(top).free)

    for entry in others:
        if missing() == 0:
            break
        if removed(top, entry.key):
            taken -= entry.bytes
    return missing()


def clear(top: Path, mine: str) -> bool:
    """Remove every entry but `mine` that nobody holds; whether there was any."""
    return any([removed(top, entry.key) for entry in _others(top, mine)])


def entries(top: Path) -> Iterator[Entry]:
    """All of them. One that is being made counts as much as it will take."""
    keys = {path.name.removesuffix(PART) for path in top.iterdir() if path.is_dir()}
    for key in sorted(keys):
        with contextlib.suppress(FileNotFoundError):  # its last user may be removing it
            uses = [path.stat().st_mtime for path in (top / f"{key}.use", top / f"{key}.lock") if path.exists()]
            yield Entry(key, max(written(top, key), _promised(top, key)), max(uses, default=0.0))


def promise(top: Path, key: str, count: int) -> None:
    """Say how many bytes an entry will take; its lock is held."""
    (top / f"{key}.lock").write_text(str(count))


def removed(top: Path, key: str) -> bool:
    """Remove an entry unless somebody makes or holds it. Returns whether it is gone."""
    with node.alone_at_once(top / f"{key}.lock") as mine, node.alone_at_once(top / f"{key}.use") as unused:
        if not (mine and unused):
            return False
        promise(top, key, 0)
        for path in (top / key, top / f"{key}{PART}"):
            shutil.rmtree(path, ignore_errors=True)
        return not (top / key).exists()


def written(top: Path, key: str) -> int:
    """Bytes of an entry that are on the disk, also while it is made."""
    return sum(_size(path) for path in (top / key, top / f"{key}{PART}"))


def _others(top: Path, mine: str) -> list[Entry]:
    """The longest unused first."""
    return sorted((entry for entry in entries(top) if entry.key != mine), key=lambda entry: entry.used)


def _promised(top: Path, key: str) -> int:
    """What its maker said, while it is there."""
    lock = top / f"{key}.lock"
    with node.alone_at_once(lock) as idle:
        text = "" if idle else lock.read_text()
    return int(text) if text.isdigit() else 0


def _size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # renamed when it was whole
                total += Path(where, name).lstat().st_size
    return total
