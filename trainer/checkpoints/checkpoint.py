"""How does a run survive? Checkpoints that are either whole or not there, and the way back to the newest.

    checkpoints/step-120/             manifest.json names every file with size and digest
    checkpoints/step-140.tmp.2/       attempt 2 was writing this when it ended
    checkpoints/step-160.damaged/     did not match its manifest; put aside when found, deleted after the next save
    checkpoints/step-180.unread/      could not be read, and the run went on from an older one; tried again by the next
                                      attempt if nothing has been saved by then, else deleted
    checkpoints/step-160.lost/        was damaged as all others were, and the run began anew; kept for its user

What stands in the files is the caller's.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from trainer.durable import sha256, sync, write_json
from trainer.parallel.group import Group

T = TypeVar("T")
log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
DAMAGED, UNREAD, LOST = ".damaged", ".unread", ".lost"
"""What follows the name of one that was put aside."""
FORMAT = 2
AGAIN_S = (1, 5, 15, 30)
"""Pauses between tries to read what is there: storage that many nodes share has bad minutes."""


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of a member. Every rank calls every method; rank 0 alone renames and deletes."""

    folder: Path
    attempt: str
    keep: int
    group: Group

    def save(self, step: int, write: Callable[[Path], list[Path]], best: int | None = None) -> Path:
        """Commit what `write` puts into a folder on each rank (it returns the files this rank wrote). The checkpoint
        of step `best` outlives newer ones.

        After it returns the checkpoint is on disk under its final name, whatever happens next.
        Raises OSError on all ranks if one of them could not write; nothing is committed then, and older
        checkpoints are untouched.
        """
        aside = self.folder / f"step-{step}.tmp.{self.attempt}"
        final = self.folder / f"step-{step}"
        try:
            self._on_first(lambda: _emptied(aside))
            parts = self.group.together(lambda: _written(aside, write(aside)))
            self._on_first(lambda: self._commit(aside, final, {k: v for part in parts for k, v in part.items()}))
            self._on_first(lambda: self._retain(final, best))
        except OSError:
            if self.group.rank == 0:  # a disk that is full needs the room
                shutil.rmtree(aside, ignore_errors=True)
            raise
        return final

    def newest(self) -> Path | None:
        """The newest checkpoint that matches its manifest, the same on all ranks; None if there is none.

        Each rank reads its share of the files. Newer checkpoints that do not match are put aside, and what earlier
        attempts left unfinished is deleted. One that cannot be read is passed over, until this attempt has saved: a run
        never jumps to what was not there when newer work began. Raises OSError on all ranks when there is one that may
        be whole and could not be read, and none that is: a run does not begin anew because its storage has a bad
        minute. Where all are damaged they are kept, as `lost` says.
        """
        try:
            steps = self.group.together(lambda: _patiently(self._found) if self.group.rank == 0 else [])[0]
        except OSError as e:
            raise OSError(errno.EIO, str(e), str(self.folder)) from e  # the site's, whichever it was (failure.py)
        unread = dict[Path, str]()
        for path in (self.folder / f"step-{step}" for step in steps):
            said = self.group.gather(_looked_at(path, self.group.rank, self.group.world))
            damaged = next((reason for reason, _ in said if reason), None)
            unreadable = next((error for _, error in said if error), None)
            if not damaged and not unreadable:
                for passed_over in unread:
                    self._on_first(partial(_put_aside_if_allowed, passed_over, UNREAD))
                return path
            if self.group.rank == 0:
                log.warning("checkpoint %s skipped: %s", path.name, damaged or f"it cannot be read ({unreadable})")
            if damaged:
                self._on_first(partial(_put_aside_if_allowed, path, DAMAGED))
            else:
                unread[path] = f"{path.name} cannot be read ({unreadable})"
        if unread:
            raise OSError(errno.EIO, "; ".join(unread.values()), str(self.folder))
        self._on_first(self._keep_damaged)
        return None

    def lost(self) -> list[str]:
        """What is kept of checkpoints that were all damaged when the run began anew: names, the newest first."""
        with contextlib.suppress(OSError):
            return [path.name for path in sorted(self.folder.glob(f"step-*{LOST}"), key=_step_aside, reverse=True)]
        return []

    def _on_first(self, action: Callable[[], None]) -> None:
        self.group.together(lambda: action() if self.group.rank == 0 else None)

    def _commit(self, aside: Path, final: Path, files: dict[str, Any]) -> None:
        step = step_of(final)
        body = {"format": FORMAT, "step": step, "world": self.group.world, "files": files}
        write_json(aside / MANIFEST, {**body, "sha256": _own_digest(body)})
        for folder in {(aside / name).parent for name in files} | {aside}:  # the names of files are in their folders
            sync(folder)
        if final.exists():
            # Only a checkpoint that `newest` passed over can be here: this step was computed again.
            _put_aside(final, DAMAGED)
        for path in self.folder.glob(f"step-*{UNREAD}"):  # from now on there is newer work
            with contextlib.suppress(OSError):
                path.rename(path.with_name(f"{path.name}.tmp.deleted"))
        aside.rename(final)
        sync(self.folder)

    def _retain(self, newest: Path, best: int | None) -> None:
        """Delete all but the newest `keep`, which always include the one just committed, and the best."""
        kept = [newest, *(path for path in committed(self.folder) if path != newest)][: self.keep]
        kept.append(self.folder / f"step-{best}")
        for path in committed(self.folder):
            if path not in kept:
                _delete(path)
        for leftover in (f"step-*{DAMAGED}", "step-*.tmp.*"):  # those of saves that failed, where even deleting did
            for path in self.folder.glob(leftover):
                _delete(path)

    def _found(self) -> list[int]:
        """Steps of the checkpoints that are there, newest first."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in self.folder.glob("step-*.tmp.*"):
            _delete(path)
        for path in self.folder.glob(f"step-*{UNREAD}"):  # nothing was saved since: it may be read by now
            with contextlib.suppress(OSError):
                path.rename(path.with_suffix(""))
        return [step_of(path) for path in committed(self.folder)]

    def _keep_damaged(self) -> None:
        """There is nothing to go back to: what was put aside is all that is left of the run's work."""
        for path in self.folder.glob(f"step-*{DAMAGED}"):
            _put_aside_if_allowed(path, LOST)
        if lost := self.lost():
            log.warning("begins anew: all checkpoints were damaged; they are kept as %s", ", ".join(lost))


def committed(folder: Path) -> list[Path]:
    """Checkpoints under their final names, newest first; they may be damaged. [] where there is no such folder.
    Raises OSError where it cannot be read."""
    try:
        there = list(folder.iterdir())  # glob takes a folder that cannot be read for an empty one
    except (FileNotFoundError, NotADirectoryError):
        return []
    found = [p for p in there if p.name.startswith("step-") and p.name.removeprefix("step-").isdigit()]
    return sorted(found, key=step_of, reverse=True)


def step_of(path: Path) -> int:
    """The step in the name of a committed checkpoint."""
    return int(path.name.removeprefix("step-"))


def damage(path: Path, share: int = 0, shares: int = 1) -> str | None:
    """Why a checkpoint cannot be trusted, or None if every file is as its manifest says. Of several `shares` each reads
    as many files; what is not there, the first alone says: another host may not see yet what is.

    Raises OSError where nobody can tell: a file is there and cannot be read.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        if manifest["format"] != FORMAT:
            return f"its format is {manifest['format']}, and this program reads {FORMAT}"
        if manifest.pop("sha256") != _own_digest(manifest):
            return f"{MANIFEST} has another digest than when it was written"
        for number, (name, expected) in enumerate(sorted(manifest["files"].items())):
            size = (path / name).stat().st_size if share == 0 else expected["size"]
            if size != expected["size"]:
                return f"{name} has {size} bytes instead of {expected['size']}"
            if number % shares == share and sha256(path / name) != expected["sha256"]:
                return f"{name} has another digest than when it was written"
        if share == 0 and (strange := _strange(path, manifest["files"])):
            return f"{strange} is not in its {MANIFEST}"
    except (FileNotFoundError, NotADirectoryError) as e:
        if share:
            raise
        return f"{Path(e.filename).name} is missing"
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        return f"{MANIFEST} cannot be read ({type(e).__name__})"
    return None


def why_not_whole(path: Path) -> str | None:
    """As `damage`, with patience for storage that has a bad minute, and in words also where it stays so."""
    damaged, unreadable = _looked_at(path, 0, 1)
    return damaged or (f"it cannot be read ({unreadable})" if unreadable else None)


def _looked_at(path: Path, rank: int, world: int) -> tuple[str | None, str | None]:
    """Why a checkpoint is damaged, as far as this rank's share tells; or why that cannot be told."""
    try:
        return _patiently(lambda: damage(path, rank, world)), None
    except OSError as e:
        return None, str(e)


def _patiently(read: Callable[[], T]) -> T:
    for pause_s in AGAIN_S:
        try:
            return read()
        except OSError as e:
            log.warning("checkpoints cannot be read (%s): another try in %d s", e, pause_s)
            time.sleep(pause_s)
    return read()


def _strange(path: Path, known: Mapping[str, Any]) -> str | None:
    """A file of tensors that somebody put there: it would be read with the others."""
    names = (found.relative_to(path).as_posix() for found in path.rglob("*.safetensors"))
    return next((name for name in names if name not in known), None)


def world_of(path: Path) -> int:
    """How many ranks wrote a checkpoint."""
    return int(json.loads((path / MANIFEST).read_text())["world"])


def _emptied(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _written(folder: Path, files: list[Path]) -> dict[str, Any]:
    """Sizes and digests of this rank's files, once they are on disk."""
    for path in files:
        sync(path)
    return {str(path.relative_to(folder)): {"size": path.stat().st_size, "sha256": sha256(path)} for path in files}


def _own_digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _put_aside_if_allowed(path: Path, why: str) -> None:
    """A folder that nobody may write in keeps its name: it is passed over again."""
    with contextlib.suppress(OSError):
        _put_aside(path, why)


def _put_aside(path: Path, why: str) -> None:
    aside = path.with_suffix(why)
    shutil.rmtree(aside, ignore_errors=True)
    path.rename(aside)


def _step_aside(path: Path) -> int:
    return step_of(path.with_suffix(""))


def _delete(path: Path) -> None:
    """Out of the name first, so that a kill in between leaves no half checkpoint under a good name."""
    aside = path if ".tmp." in path.name else path.rename(path.with_name(f"{path.name}.tmp.deleted"))
    shutil.rmtree(aside, ignore_errors=True)
