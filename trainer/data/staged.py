"""What is made of data once per node and content, on the node's disk, for all ranks, members and later attempts.

An entry is whole or not there: it is made aside and renamed. What was swept away, cut or changed since is made again.
Those that use one share a lock on it until they end, so that it is not removed to make room (room.py).
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from trainer import durable
from trainer.data import node, room
from trainer.durable import write_json
from trainer.failure import UserError

INDEX = "index.json"
DIGESTS = "digests"
"""Key of a document under which `make` may say the sha256 of each file."""
Make = Callable[[Path], Mapping[str, Any]]


def staged(content: Any, make: Make, needs: int = 0, resumes: bool = False) -> tuple[Path, dict[str, Any]]:
    """The folder with the files that `make` wrote, and the document it returned.

    `content` names what is made: anything with a repr that is the same for the same content. Ranks of a node wait for
    the one that makes it. `needs` is how many bytes it will take, where that is known; `make` gets what a maker that
    was killed has left, if it `resumes`. Raises OSError when the disk has no room even without the entries that nobody
    uses, and UserError when it is more than may ever be staged.
    """
    key = hashlib.sha256(repr(content).encode(errors="surrogateescape")).hexdigest()[:32]
    top = node.folder()
    with node.alone(top / f"{key}.lock"):
        known = _whole(top / key)
        if known is None:
            known = _made(top, key, make, resumes, needs)
        node.hold(top / f"{key}.use")
    return top / key, known


def _made(top: Path, key: str, make: Make, resumes: bool, needs: int) -> dict[str, Any]:
    """Made aside first: somebody may still read an old one, and this process may die on the way."""
    shutil.rmtree(top / key, ignore_errors=True)
    room.promise(top, key, needs)
    _must_fit(top, key, needs)
    aside = top / f"{key}{room.PART}"
    try:
        document = _filled(aside, make, resumes)
    except OSError as e:
        if e.errno != errno.ENOSPC or not room.clear(top, key):
            raise
        document = _filled(aside, make, resumes)  # those that nobody used have left
    aside.replace(top / key)
    durable.sync(top)
    room.make_room(top, room.written(top, key), key)
    return document


def _must_fit(top: Path, key: str, needs: int) -> None:
    """Before an hour of copying, and not after it."""
    missing = room.make_room(top, needs, key)
    if not missing or not needs:
        return
    most = node.most_bytes(top)
    if needs > most:
        what = f"the data need {needs / 1e9:.3g} GB on the node, and staged data may take {most / 1e9:.3g} GB there"
        do = "raise site.stage_gb, choose a site.scratch_dir on a larger disk, or fewer data (data.glob)"
        raise UserError(what, f"{top} on {socket.gethostname()}", do)
    what = f"staged data need {missing / 1e9:.3g} GB more than others leave on {socket.gethostname()}"
    raise OSError(errno.ENOSPC, what, str(top))


def _filled(aside: Path, make: Make, resumes: bool) -> dict[str, Any]:
    """Everything in `aside`, on the disk. A maker that fails leaves only what another can go on from."""
    if not resumes:
        shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(mode=0o700, exist_ok=True)
    try:
        document = dict(make(aside))
        (aside / INDEX).unlink(missing_ok=True)
        seen = {path.relative_to(aside).as_posix(): _seen(path) for path in files_below(aside)}
        write_json(aside / INDEX, {"files": seen, "document": document})
    except BaseException:
        if not resumes:
            shutil.rmtree(aside, ignore_errors=True)
        raise
    return document


def _whole(folder: Path) -> dict[str, Any] | None:
    """The document, if every file is still there as it was made. Reads those alone whose time has changed."""
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        document: dict[str, Any] = index["document"]
        for name, (size, changed_ns) in index["files"].items():
            now = _seen(folder / name)
            if now[0] != size:
                return None
            if now[1] != changed_ns and durable.sha256(folder / name) != document.get(DIGESTS, {}).get(name):
                return None
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return None
    return document


def files_below(folder: Path) -> Iterator[Path]:
    """Every file, in any order."""
    return (Path(where, name) for where, _, names in os.walk(folder) for name in names)


def _seen(path: Path) -> list[int]:
    """Size, and when it was changed."""
    seen = path.stat()
    return [seen.st_size, seen.st_mtime_ns]
