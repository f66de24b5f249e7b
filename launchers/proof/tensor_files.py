"""Are two sets of safetensors files the same, bit for bit? And if not, where, and by how much.

Reads the format itself (8 bytes length, a JSON header, data; https://github.com/huggingface/safetensors#format), so
that a login node needs no torch. Standard library only.
"""

from __future__ import annotations

import json
import math
import struct
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

NUMBERS = {"F64": "d", "F32": "f", "I64": "q", "I32": "i", "I16": "h", "I8": "b", "U8": "B", "BOOL": "B"}
"""Types of which Python's arrays know the numbers; of F16 and BF16 they are made here."""
AT_ONCE = 1 << 24
"""Bytes of a tensor that are compared, and looked at, together; a multiple of every number's size."""


@dataclass(frozen=True)
class Place:
    """Where a tensor's bytes are."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int
    length: int


@dataclass(frozen=True)
class Difference:
    """A tensor that is not the same in both."""

    name: str
    what: str
    largest: float | None = None
    """The largest difference of two numbers; None where there is no such thing."""


def tensors_of(paths: Sequence[Path]) -> dict[str, Place]:
    """All tensors of some files, by file and name: ranks have pieces of the same tensor, and random numbers each."""
    return {f"{path.name}: {name}": place for path in sorted(paths) for name, place in _tensors(path)}


def differences(ours: Mapping[str, Place], theirs: Mapping[str, Place]) -> Iterator[Difference]:
    """What differs, in order of names. Compares bytes: of a number that is not one (NaN), too."""
    for name in sorted(ours.keys() | theirs.keys()):
        if name not in ours or name not in theirs:
            yield Difference(name, "only in one of them")
        elif (ours[name].dtype, ours[name].shape) != (theirs[name].dtype, theirs[name].shape):
            yield Difference(name, f"{_kind(ours[name])} and {_kind(theirs[name])}")
        elif (found := _compared(ours[name], theirs[name])) is not None:
            yield Difference(name, _kind(ours[name]), found)


def _tensors(path: Path) -> Iterator[tuple[str, Place]]:
    with path.open("rb") as f:
        (length,) = struct.unpack("<Q", f.read(8))
        header = json.loads(f.read(length))
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            yield name, Place(path, entry["dtype"], tuple(entry["shape"]), 8 + length + begin, end - begin)


def _kind(place: Place) -> str:
    return f"{place.dtype} {list(place.shape)}"


def _compared(ours: Place, theirs: Place) -> float | None:
    """The largest difference; None where every byte is the same."""
    largest: float | None = None
    with ours.path.open("rb") as f, theirs.path.open("rb") as g:
        f.seek(ours.begin)
        g.seek(theirs.begin)
        for begin in range(0, ours.length, AT_ONCE):
            size = min(AT_ONCE, ours.length - begin)
            a, b = f.read(size), g.read(size)
            if a != b:
                largest = max(largest or 0.0, _apart(_numbers(a, ours.dtype), _numbers(b, ours.dtype)))
    return largest


def _apart(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Infinite where one is a number and the other is not."""
    gaps = (abs(a - b) for a, b in zip(ours, theirs, strict=True) if a != b)
    return float(max((math.inf if math.isnan(gap) else gap for gap in gaps), default=0.0))


def _numbers(data: bytes, dtype: str) -> Sequence[float]:
    if dtype == "BF16":  # the upper half of an F32
        return array("f", b"".join(b"\0\0" + data[i : i + 2] for i in range(0, len(data), 2)))
    if dtype == "F16":
        return struct.unpack(f"<{len(data) // 2}e", data)
    return array(NUMBERS.get(dtype, "B"), data)
