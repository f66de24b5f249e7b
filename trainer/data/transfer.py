"""How do files come whole onto this disk? In pieces, with patience, and only as they were when they were listed.

A file has its name when it is whole and on the disk. What was brought of one whose transfer broke is gone on from,
unless it has changed meanwhile.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from trainer import durable
from trainer.data import patience
from trainer.data.locations import AT_ONCE, Location, Remote, now
from trainer.failure import UserError

PIECE = 1 << 24
"""Bytes asked for at once, of each file."""
UNFINISHED = ".unfinished"


def brought(where: Location, remotes: Sequence[Remote], folder: Path) -> tuple[dict[str, str], int]:
    """Every file below `folder`: its sha256 by name, and how many bytes crossed the network for them.

    Raises Changed when one is not what was listed any more, UserError when it cannot be read or has another digest
    than the list says, OSError when the disk is full.
    """
    for parent in sorted({folder / remote.name for remote in remotes}):
        parent.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with ThreadPoolExecutor(AT_ONCE, "staging") as pool:
        work = [pool.submit(_one, where, remote, folder) for remote in remotes]
        try:
            done = [each.result() for each in work]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return {r.name: digest for r, (digest, _) in zip(remotes, done, strict=True)}, sum(count for _, count in done)


def _one(where: Location, remote: Remote, folder: Path) -> tuple[str, int]:
    """Bring one file, unless an earlier attempt has. Returns its digest and the bytes that were asked for."""
    path = folder / remote.name
    shown = f"{where.shown.rstrip('/')}/{remote.name}" if where.address != remote.path else where.shown
    if path.exists():
        digest, crossed = durable.sha256(path), 0
    else:
        aside = path.with_name(path.name + UNFINISHED)
        before = _size(aside)
        digest = patience.patiently(shown, partial(_filled, where, remote, aside), progress=partial(_size, aside))
        crossed = _size(aside) - before
        aside.replace(path)
        durable.sync(path.parent)
    if remote.sha256 and digest != remote.sha256:
        path.unlink()
        what = f"{shown} has the digest sha256:{digest}, and the list of digests says sha256:{remote.sha256}"
        raise UserError(what, "staging.sums", "bring the list up to date, or the file")
    return digest, crossed


def _filled(where: Location, remote: Remote, path: Path) -> str:
    """Write what is missing of a file, sync it, and read it back from the disk. Returns its digest.

    Raises Broken or Changed.
    """
    with path.open("a+b") as out:
        seen = hashlib.sha256()
        out.seek(0)
        while chunk := out.read(PIECE):
            seen.update(chunk)
        begin = out.tell()
        if remote.size is None or begin > remote.size:
            begin = _anew(out)
            seen = hashlib.sha256()
        for piece in _pieces(where, remote, begin):
            if piece is None:  # the server begins at the beginning
                _anew(out)
                seen = hashlib.sha256()
                continue
            out.write(piece)
            seen.update(piece)
        out.flush()
        os.fsync(out.fileno())
        os.posix_fadvise(out.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        size = out.tell()
    if now(where, remote) != remote:
        path.unlink()
        raise patience.Changed(remote.name)
    if remote.size is not None and size < remote.size:
        raise patience.Broken(f"it ended after {size} of {remote.size} bytes")
    if (remote.size is not None and size > remote.size) or durable.sha256(path) != seen.hexdigest():
        path.unlink()
        raise patience.Broken("what is on the disk is not what was sent")
    return seen.hexdigest()


def _anew(out: Any) -> int:
    out.seek(0)
    out.truncate()
    return 0


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _pieces(where: Location, remote: Remote, begin: int) -> Iterator[bytes | None]:
    """A file's bytes from `begin` on; None first where the server sends all of it instead."""
    if where.is_http:
        yield from _streamed(where, remote, begin)
        return
    size = remote.size or 0
    while begin < size:
        piece: bytes = where.system.cat_file(remote.path, start=begin, end=min(begin + PIECE, size))
        if not piece:
            return
        begin += len(piece)
        yield piece


def _streamed(where: Location, remote: Remote, begin: int) -> Iterator[bytes | None]:
    """By one request, whether the server knows ranges or not; it is never asked for a whole file at once."""
    if begin and begin == remote.size:
        return
    said = where.system.kwargs.get("headers", {})  # those of the request would stand in their place
    headers = {**said, "Accept-Encoding": "identity", **({"Range": f"bytes={begin}-"} if begin else {})}
    with closing(where.system.open(remote.path, "rb", block_size=0, size=remote.size or 1, headers=headers)) as f:
        if begin and f.r.status != 206:
            yield None
        while piece := f.read(1 << 20):
            yield piece
