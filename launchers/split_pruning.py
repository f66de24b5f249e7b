"""The verb `image prune`, as far as it is about exported splits: which of them no run has any more, and their removal.

An entry of RUNS/.splits (trainer/export_splits.py says what lies there) stays while a run folder beside it names it:
whichever of its members begins later or is tried again has to see the same rows, and they may not be had anew. As the
runs' files are links to the entry's, it takes no room of its own till then. A job that has not begun names none yet;
it exports what it needs, and holds the entry's lock meanwhile. What a process that was killed left goes at once.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from launchers import exported
from launchers.apptainer.pruning import Entry, Pruned
from launchers.errors import SiteError
from launchers.folders import folder_of
from launchers.launch import Request, checked
from launchers.run_folder import record
from launchers.run_folder.record import read_json

ASKING_S = 3600
"""Between finding an entry and naming it a job takes far less."""
PART = ".part"


def prune(request: Request, *, really: bool) -> Pruned:
    """The entries beside this site's runs; those that may go are removed if `really`, each under its lock. A kill at
    any time leaves nothing that would be taken for whole. Raises SiteError for a run's file that says nothing."""
    runs_dir = folder_of(checked(request).specs[0].site.runs_dir)
    entries = list(_judged(runs_dir / exported.STORE, _named(runs_dir)))
    if really:
        entries = [each if each.kept or _removed(each.path, runs_dir) else _busy(each) for each in entries]
    return Pruned(tuple(entries), really)


def _judged(store: Path, named: Mapping[str, str]) -> Iterator[Entry]:
    for path in sorted(store.iterdir()) if store.is_dir() else ():
        with contextlib.suppress(FileNotFoundError):  # renamed meanwhile by whoever made it, or removed it
            if path.is_dir():
                yield Entry(path, _size(path), _why_kept(path, named))


def _named(runs_dir: Path) -> Mapping[str, str]:
    """The entries that runs name, and the run."""
    found = {}
    for pin in sorted(runs_dir.glob(f"*/{exported.FOLDER}/*.json")):
        if document := read_json(pin):  # a run may be removed meanwhile
            found[str(document["entry"])] = pin.parent.parent.name
    return found


def _why_kept(path: Path, named: Mapping[str, str]) -> str:
    if record.is_locked(_lock_of(path)):
        return "being exported"
    if path.name.endswith(PART):
        return ""
    if path.name in named:
        return f"of {named[path.name]}"
    return "used within the hour" if time.time() - path.stat().st_mtime < ASKING_S else ""


def _lock_of(path: Path) -> Path:
    """As the exporter takes it, of a whole entry and of one that is being made."""
    return path.with_name(f"{path.name.removesuffix(PART)}.lock")


def _size(path: Path) -> int:
    """Bytes that go with it: a file that a run has, too, stays there."""
    states = [file.lstat() for file in path.iterdir()]
    return sum(state.st_size for state in states if state.st_nlink == 1)


def _removed(path: Path, runs_dir: Path) -> bool:
    """Name first: what is left of it then is as of an export that was killed. The lock's empty file stays, as others
    may wait for it. False where somebody has begun to use it."""
    try:
        with record.locked(_lock_of(path), timeout_s=0):
            if not path.name.endswith(PART):
                if path.name in _named(runs_dir) or time.time() - path.stat().st_mtime < ASKING_S:
                    return False
                gone = path.with_name(f"{path.name}{PART}")
                shutil.rmtree(gone, ignore_errors=True)
                path = path.rename(gone)
            shutil.rmtree(path)
    except (SiteError, OSError):
        return False
    return True


def _busy(entry: Entry) -> Entry:
    return Entry(entry.path, entry.size, "in use, or not yours to remove")
