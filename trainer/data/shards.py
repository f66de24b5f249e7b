"""Which samples do tar shards hold, and where in them? Looked through once per node, then read at random.

The convention is webdataset's: members that follow each other and whose names agree up to the first dot of the base
name are one sample; what comes after the dot says which part of it. Members that are no files, hidden ones and those
named __like this__ are passed over.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import tarfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data import fields, files, labels
from trainer.data.fields import Fields, Stored
from trainer.data.files import File
from trainer.data.splits import few
from trainer.data.staged import staged
from trainer.failure import UserError
from trainer.sources import probed

NAME = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)")
META = re.compile(r"__[^/]*__($|/)")
PLACES, CLASSES = "places.bin", "classes.bin"
END = bytes(tarfile.BLOCKSIZE)
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstandard"}
OPEN_SHARDS = 256
"""Most shards that a process keeps open at once; a process may have 1,024 files (ulimit -n)."""
SHOWN = 8


@dataclass(frozen=True)
class Wanted:
    """Which parts of a sample are used."""

    inputs: tuple[str, ...]
    """Extensions, of which a sample has exactly one."""
    target: str | None
    """Extension of the class's part."""
    field: str | None = None
    """Of a .json target: the name of the class's value in it."""
    beside: tuple[str, ...] = ()
    """Fields of each sample's .json that the split goes by."""


@dataclass(frozen=True)
class Sample:
    """A sample's parts in one shard: extension -> offset and size in bytes."""

    key: str
    parts: Mapping[str, tuple[int, int]]


@dataclass
class Problems:
    """What is wrong with the shards: the first ones in words, all of them counted."""

    words: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, file: File, what: str) -> None:
        self.count += 1
        if len(self.words) < SHOWN:
            self.words.append(f"{file.shown} {what}")

    def refuse(self) -> None:
        """Raises UserError when there are any."""
        if self.count:
            more = f"; and {self.count - SHOWN} more" if self.count > SHOWN else ""
            do = "write the shards anew, take them out, or name other parts (data.input, data.target, data.split)"
            raise UserError("; ".join(self.words) + more, "data.path", do)


@dataclass(frozen=True)
class Index:
    """Where each sample's input lies: shard, offset and size in bytes, and its class."""

    places: np.ndarray
    classes: np.ndarray
    labels: tuple[str, ...]
    digest: str
    fields: Stored
    """What stands beside the samples, in their order."""


def index_of(found: Sequence[File], wanted: Wanted) -> Index:
    """All samples of the shards, in order.

    Raises UserError with all that is wrong: shards that are damaged, cut or compressed, samples that lack a part.
    """
    folder, made = staged(("shards", files.identity(found), wanted), partial(_look_through, found, wanted))
    return Index(
        places=files.mapped(folder / PLACES, "<i8", 3 * made["count"]).reshape(-1, 3),
        classes=files.mapped(folder / CLASSES, "<i4", made["count"]),
        labels=tuple(made["labels"]),
        digest=made["sha256"],
        fields=Stored(folder / fields.STORE, tuple(made["there"]), made["times"]),
    )


def read(file: File, offset: int, size: int) -> bytes:
    """Bytes of a shard. Raises UserError when it has fewer."""
    content = os.pread(_opened(file).number, size, offset)
    if len(content) < size:
        what = f"{file.shown} has fewer bytes than when it was looked through"
        raise UserError(what, "data.path", "leave shards as they are while a run reads them, and start again")
    return content


def key_at(file: File, offset: int) -> str:
    """The name of the sample whose input begins at an offset, likewise."""
    name = name_at(file, offset)
    named = NAME.fullmatch(name)
    return named[1] if named else name


def name_at(file: File, offset: int) -> str:
    """The name of the member whose content begins at an offset, for a message."""
    with files.opened(file.path) as f, tarfile.open(fileobj=f, mode="r:") as tar:
        return next((info.name for info in _members(tar) if info.offset_data == offset), f"offset {offset}")


@dataclass(frozen=True)
class Opened:
    """A file that is closed when nobody needs it any more."""

    number: int

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        close(self.number)  # bound here: modules go before caches do when a process ends


@functools.lru_cache(OPEN_SHARDS)
def _opened(file: File) -> Opened:
    with files.readable(file.path):
        return Opened(os.open(file.path, os.O_RDONLY))


def _look_through(found: Sequence[File], wanted: Wanted, folder: Path) -> Mapping[str, Any]:
    """Headers of all members, and the contents of the targets and of what stands beside them."""
    problems, seen, beside = Problems(), dict[str, int](), Fields(wanted.beside)
    places, classes = array("q"), array("i")
    for number, file in enumerate(found):
        for sample in _samples(file, problems):
            chosen = [sample.parts[name] for name in wanted.inputs if name in sample.parts]
            if len(chosen) != 1:
                problems.add(file, _not_one(sample, wanted.inputs, len(chosen)))
            label = _label(file, sample, wanted, problems)
            if wanted.beside:
                _gather(file, sample, beside, problems)
            if len(chosen) == 1 and label is not None:
                places.extend((number, *chosen[0]))
                classes.append(seen.setdefault(label, len(seen)))
    if not places and not problems.count:
        problems.add(found[0], "and the other shards hold no samples" if len(found) > 1 else "holds no samples")
    problems.refuse()
    ordered = labels.in_order(seen, f"the shards' .{wanted.target}", f"data.target: {wanted.target}")
    final = np.array(labels.final(seen, ordered), dtype="<i4")[np.array(classes)]
    table = np.array(places, dtype="<i8").reshape(-1, 3)
    table.tofile(folder / PLACES)
    final.tofile(folder / CLASSES)
    digest = _digest(found, table, [ordered[number] for number in final])
    return {"count": len(table), "labels": ordered, "sha256": digest, **beside.write(folder)}


def _samples(file: File, problems: Problems) -> Iterator[Sample]:
    """The samples of one shard, whole ones only; what is wrong with it is added to the problems."""
    key: str | None = None
    parts: dict[str, tuple[int, int]] = {}
    for info in _regular(file, problems):
        named = NAME.fullmatch(info.name)
        if named is None or META.match(info.name):
            continue
        if named[1] != key and key is not None:
            yield Sample(key, parts)
        if named[1] != key:
            key, parts = named[1], {}
        extension = named[2].lower()
        if extension in parts:
            problems.add(file, f"has {info.name!r} twice")
        elif info.issparse():
            problems.add(file, f"has the sparse file {info.name!r}, which cannot be read at random")
        parts[extension] = info.offset_data, info.size
    if key is not None:
        yield Sample(key, parts)


def _regular(file: File, problems: Problems) -> Iterator[tarfile.TarInfo]:
    """The files in a shard, up to where it is damaged."""
    with files.opened(file.path) as f:
        head = f.read(tarfile.BLOCKSIZE)
        if kind := next((kind for magic, kind in COMPRESSED.items() if head.startswith(magic)), None):
            problems.add(file, f"is compressed ({kind}): it cannot be read at random; unpack it to a plain .tar")
            return
        f.seek(0)
        try:
            with tarfile.open(fileobj=f, mode="r:") as tar:
                for info in _members(tar):
                    if info.offset_data + info.size > file.size:
                        raise tarfile.ReadError(f"{info.name!r} is not all there")
                    if info.isreg():
                        yield info
        except (tarfile.TarError, UnicodeError, ValueError) as e:
            problems.add(file, f"is no tar file, or is damaged or cut: {e}")
            return
        f.seek(tar.offset)
        if (mark := f.read(tarfile.BLOCKSIZE)) != END:
            what = "is damaged: there is no header" if mark else "is cut: its end mark is missing"
            problems.add(file, f"{what} at byte {tar.offset}")
        elif any(map(any, iter(lambda: f.read(1 << 16), b""))):
            problems.add(file, f"goes on after its end at byte {tar.offset} (tar files joined by cat are not one)")


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Without keeping them: a shard may have a million."""
    while (info := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]
        yield info


def _not_one(sample: Sample, extensions: Iterable[str], count: int) -> str:
    wanted = " or ".join(f".{name}" for name in extensions)
    there = f"(it has {few([f'.{name}' for name in sample.parts])})"
    return f"has {'more than one' if count else 'no'} {wanted} for sample {sample.key!r} {there}"


def _label(file: File, sample: Sample, wanted: Wanted, problems: Problems) -> str | None:
    """A sample's class; "" where no class is wanted, None where it is wanted and missing."""
    if wanted.target is None:
        return ""
    if wanted.target not in sample.parts:
        problems.add(file, _not_one(sample, [wanted.target], 0))
        return None
    offset, size = sample.parts[wanted.target]
    try:
        text = read(file, offset, size).decode()
        value = text.strip() if wanted.field is None else json.loads(text)[wanted.field]
        if isinstance(value, str | int) and str(value):
            return str(value).lower() if isinstance(value, bool) else str(value)
        why = f"{value!r} is no class"
    except (UnicodeDecodeError, json.JSONDecodeError) as e:
        why = str(e)
    except (KeyError, TypeError, IndexError):
        why = f"it has no {wanted.field!r}"
    problems.add(file, f"has a .{wanted.target} without a class for sample {sample.key!r}: {why}")
    return None


def _gather(file: File, sample: Sample, beside: Fields, problems: Problems) -> None:
    """What stands beside a sample."""
    if fields.PART not in sample.parts:
        problems.add(file, _not_one(sample, [fields.PART], 0))
    elif wrong := beside.add(read(file, *sample.parts[fields.PART])):
        problems.add(file, f"has a .{fields.PART} that no split can go by for sample {sample.key!r}: {wrong}")


def _digest(found: Sequence[File], places: np.ndarray, classes: Sequence[str]) -> str:
    """SHA-256 of the samples' inputs and classes, whatever shards they lie in."""
    chosen = probed(len(places), int(places[:, 2].sum()))
    seen = hashlib.sha256()
    for row, (number, offset, size) in enumerate(places.tolist()):
        content = hashlib.sha256(read(found[number], offset, size)).hexdigest() if row in chosen else ""
        seen.update(repr((classes[row], size, content)).encode())
    return seen.hexdigest()
