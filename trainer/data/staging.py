"""The declared step that brings data to the node's disk, once per node: then every source reads them as files.

An address always is brought, a path when the spec asks for it (staging.copy). Ranks ask each other every second here,
so that no node gives up on one whose data take an hour.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from conf.locations import is_remote
from conf.schema import Component, Spec
from trainer import components
from trainer.data import locations, patience, transfer
from trainer.data.locations import Location, Remote
from trainer.data.staged import DIGESTS, staged
from trainer.failure import RendezvousError, UserError
from trainer.insight.heartbeat import Beat
from trainer.insight.spool import Ledger
from trainer.sources import Data

if TYPE_CHECKING:
    from trainer.parallel.group import Group

T = TypeVar("T")

log = logging.getLogger(__name__)

FILES = "files"
LISTINGS = 3
"""How often files are listed that change while they are brought."""
ASK_S = 1.0


@dataclass(frozen=True)
class Brought:
    """Data on this rank's node."""

    path: str
    came_from: str
    """Without secrets."""
    files: int
    bytes: int
    brought_bytes: int
    """What crossed the network now, over all nodes; 0 where everything was there."""
    seconds: float

    @property
    def rate_mb_s(self) -> float:
        return self.brought_bytes / 1e6 / max(self.seconds, 1e-3)

    @property
    def metrics(self) -> dict[str, float]:
        return {
            "data/staged_mb": self.bytes / 1e6,
            "data/brought_mb": self.brought_bytes / 1e6,
            "data/staging_s": self.seconds,
        }

    def named(self, data: Data) -> Data:
        """Data whose cards name where they come from, and not the disk of a node."""
        cards = {
            name: dataclasses.replace(card, source=card.source.replace(self.path, self.came_from))
            for name in ("train_card", "validation_card", "test_card")
            if (card := getattr(data, name))
        }
        return dataclasses.replace(data, **cards)


def is_wanted(spec: Spec) -> bool:
    """Whether the data of a run have to be brought."""
    path = spec.data.options.get("path")
    return isinstance(path, str) and spec.data.kind != components.TARGET and (spec.staging.copy or is_remote(path))


class OneProcess:
    """What ranks say to each other where there is one, and no torch."""

    rank = 0

    def any(self, flag: bool) -> bool:
        return flag

    def gather(self, value: T) -> list[T]:
        return [value]


def brought_alone(spec: Spec) -> Component:
    """The data of a spec as they are on this node, for a process that is no rank."""
    return brought(spec, OneProcess(), Ledger(None, Beat(None)))[0]


def brought(spec: Spec, ranks: Group | OneProcess, ledger: Ledger) -> tuple[Component, Brought]:
    """The data of a spec as they are on this node, and what it took. All ranks call it.

    Raises UserError for a location that cannot be read, OSError for a disk that is full, RendezvousError where that
    happened to another rank.
    """
    begun = time.monotonic()
    ledger.mark("staging_begin")
    where = _location(spec)
    for _ in range(LISTINGS):
        listing = _together(ranks, ledger, partial(_listed, where, spec, ranks.rank))[0]
        parts = _together(ranks, ledger, partial(_on_this_node, where, listing))
        if all(part is not None for part in parts):
            break
        log.warning("%s changed while it was brought", where.shown)
    else:
        what = f"{where.shown} changed {LISTINGS} times while it was brought to the node"
        raise UserError(what, "data.path", "launch again when nobody writes there")
    path, known = parts[ranks.rank] or ("", {})
    crossed = sum(part[1]["brought"] for part in parts if part)
    done = Brought(path, where.shown, len(listing), known["bytes"], crossed, time.monotonic() - begun)
    ledger.mark("staging_end", bytes=done.bytes, brought_bytes=done.brought_bytes)
    _say(done)
    return dataclasses.replace(spec.data, options={**spec.data.options, "path": path}), done


def _say(done: Brought) -> None:
    size = f"{done.files} file(s), {done.bytes / 1e6:.1f} MB"
    if done.brought_bytes:
        log.info("data: brought %s in %.1f s (%.1f MB/s)", size, done.seconds, done.rate_mb_s)
    else:
        log.info("data: %s, on the node already", size)


def _location(spec: Spec) -> Location:
    path = str(spec.data.options["path"])
    _, options = components.part("data", spec.data)
    glob = getattr(options, "glob", "**/*")
    if is_remote(path):
        return locations.location(path, glob, spec.staging.options)
    return locations.on_the_network(path, glob)


def _listed(where: Location, spec: Spec, rank: int) -> list[Remote]:
    """One rank lists: all must mean the same files."""
    return locations.listed(where, spec.staging.sums) if rank == 0 else []


def _on_this_node(where: Location, listing: Sequence[Remote]) -> tuple[str, Mapping[str, Any]] | None:
    """Path and document of the entry; None where a file has changed since it was listed."""
    made: list[int] = []
    base = FILES if where.is_file(listing) else f"{FILES}/{where.name}"

    def make(aside: Path) -> Mapping[str, Any]:
        digests, count = transfer.brought(where, listing, aside / base)
        made.append(count)
        total = sum((aside / base / name).stat().st_size for name in digests)
        return {DIGESTS: {f"{base}/{name}": digest for name, digest in digests.items()}, "bytes": total}

    content = ("location", where.shown, base, [_identity(remote) for remote in listing])
    try:
        folder, known = staged(content, make, needs=sum(r.size or 0 for r in listing), resumes=True)
    except patience.Changed:
        return None
    path = folder / base / listing[0].name if base == FILES else folder / base
    return str(path), {"bytes": known["bytes"], "brought": sum(made)}


def _identity(remote: Remote) -> tuple[object, ...]:
    """Where the server does not say what changes with a file, no later attempt can know."""
    known = remote.sha256 or remote.version or os.environ.get("FAIRLEAD_ATTEMPT_DIR", "")
    return remote.name, remote.size, known


def _together(ranks: Group | OneProcess, ledger: Ledger, action: Callable[[], T]) -> list[T]:
    """Every rank's result of what may take long and fail on one of them, as `brought` says."""
    work: Future[T] = Future()
    threading.Thread(target=_do, args=(action, work), daemon=True).start()
    pause_s = 0.01
    while ranks.any(not work.done()):
        ledger.beat.at("staging")
        wait([work], timeout=pause_s)
        pause_s = min(ASK_S, 2 * pause_s)
    error = work.exception()
    failed = [rank for rank, has in enumerate(ranks.gather(error is not None)) if has]
    if error is not None:
        raise error
    if failed:
        raise RendezvousError(f"rank {failed[0]} could not bring its data")
    return ranks.gather(work.result())


def _do(action: Callable[[], T], work: Future[T]) -> None:
    try:
        work.set_result(action())
    except BaseException as error:
        work.set_exception(error)
