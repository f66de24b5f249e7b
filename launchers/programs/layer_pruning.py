"""Which installed sources no job needs any more, and their removal.

A layer stays while a job that has not ended uses it, and for some days after a launch last used it: the next launch of
the same source then installs nothing. What an installer that was killed left goes at once. (A job that has ended and
is retried after its layer went says so, and its source is installed anew by the next launch.)
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from launchers.errors import SiteError
from launchers.programs.layer import DESCRIPTION, STORE, lock_of
from launchers.run_folder import record

DAY_S = 24 * 3600
LAUNCHING_S = 3600
"""A launch that has just asked for a layer may not have frozen its job yet."""
BROKEN_OFF = "left by an installation that was broken off"


@dataclass(frozen=True)
class Limits:
    """How long, and how many of, the layers stay that no unfinished job uses."""

    days: float = 30.0
    """Since a launch last used one."""
    gb: float | None = None
    """Of all layers together: while they take more, those that were not used longest go. None has no limit."""


@dataclass(frozen=True)
class Kept:
    """A layer, or what is left of one."""

    path: Path
    size: int
    """Bytes, with its log."""
    used: float
    """When a launch last used it, in seconds since the epoch."""
    why: str
    """Why it stays; empty where it goes."""


def prune(runs_dir: Path, needed: Mapping[Path, str], limits: Limits, *, really: bool) -> list[Kept]:
    """Judge every layer beside these runs; with `really` those that may go are removed, each under its lock. `needed`
    are folders of modules, and the unfinished job that uses each."""
    store, now = runs_dir / STORE, time.time()
    found = [_seen(layer, needed, now) for layer in _layers(store)]
    judged = judge(found, limits, now)
    if really:
        judged = [each if each.why or _removed(each.path) else _busy(each) for each in judged]
    return judged


def judge(layers: Sequence[Kept], limits: Limits, now: float) -> list[Kept]:
    """The same layers, those that nobody needs with why they stay all the same. Pure."""
    free = sorted((each for each in layers if not each.why), key=lambda each: each.used)
    total = sum(each.size for each in layers)
    why = {}
    for each in free:
        idle_days = (now - each.used) / DAY_S
        if each.path.name.startswith("."):
            pass
        elif idle_days > limits.days or (limits.gb is not None and total > limits.gb * 1e9):
            total -= each.size
        else:
            why[each.path] = f"used {idle_days:.0f} day(s) ago"
    return [dataclasses.replace(each, why=each.why or why.get(each.path, "")) for each in layers]


def _layers(store: Path) -> Iterator[Path]:
    """Installed ones, and folders of installations that were broken off."""
    if store.is_dir():
        yield from sorted(path for path in store.iterdir() if path.is_dir())


def _seen(layer: Path, needed: Mapping[Path, str], now: float) -> Kept:
    used, why = layer.stat().st_mtime, needed.get(layer / "modules", "")
    if record.is_locked(lock_of(_owner(layer))):
        why = "being installed"
    elif not why and (layer / DESCRIPTION).exists() and now - used < LAUNCHING_S:
        why = "used within the hour"
    log = layer.with_name(f"{layer.name}.log")
    size = sum(path.lstat().st_size for path in layer.rglob("*") if not path.is_dir())
    return Kept(layer, size + (log.stat().st_size if log.exists() else 0), used, why)


def _owner(path: Path) -> Path:
    """The layer of which a folder was to become one: `.NAME-KEY.xyz` of `NAME-KEY`."""
    return path.with_name(path.name[1:].rpartition(".")[0]) if path.name.startswith(".") else path


def _removed(layer: Path) -> bool:
    """Name first, so that nobody finds one of which half is gone. The lock's empty file stays: others may wait for
    it."""
    try:
        with record.locked(lock_of(_owner(layer)), timeout_s=0):
            gone = layer
            if not layer.name.startswith("."):
                gone = Path(tempfile.mkdtemp(prefix=f".{layer.name}.", dir=layer.parent)) / "gone"
                layer.rename(gone)
            shutil.rmtree(gone if gone == layer else gone.parent)
            layer.with_name(f"{layer.name}.log").unlink(missing_ok=True)
    except (SiteError, OSError):
        return False
    return True


def _busy(layer: Kept) -> Kept:
    return dataclasses.replace(layer, why="in use, or not ours to remove")
