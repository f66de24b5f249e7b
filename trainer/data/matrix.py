"""How do rows of a table become one matrix that is mapped into memory? Read once, batch by batch, written as it comes.

features.bin  float32, row after row; NaN where a value is missing
classes.bin   int32, a class for each row: the label's place in their order
aside.bin     what the split goes by, if it goes by a column: int32 places of values, or float64 or int64 (microseconds)
Which columns these are is tabular.py's, where rows come from records.py's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from trainer.data import files, labels
from trainer.data.records import Chunk, Records, is_number
from trainer.data.splits import Labels
from trainer.data.staged import staged
from trainer.failure import UserError
from trainer.packages import needed

FEATURES, CLASSES, ASIDE = "features.bin", "classes.bin", "aside.bin"
PIECE = 1 << 20


@dataclass(frozen=True)
class Wanted:
    """Which columns, and what they are for."""

    target: str
    features: tuple[str, ...]
    """None where samples are images, whose classes alone lie here."""
    values: str | None = None
    """A column of values that samples are told apart by."""
    moments: str | None = None
    """A column of times or numbers that samples are ordered by."""
    gaps: bool = False
    """Whether a feature may lack a value."""


@dataclass(frozen=True)
class Matrix:
    """A table as it lies on the node's disk."""

    features: np.ndarray
    """float32, rows x columns."""
    classes: np.ndarray
    labels: tuple[str, ...]
    """What class 0, 1, ... is called."""
    digest: str
    values: Labels | None
    moments: np.ndarray | None


def matrix_of(records: Records, wanted: Wanted) -> Matrix:
    """All rows, in their order.

    Raises UserError for a column that is missing or not of numbers, a gap where none may be, an empty or ragged file.
    """
    folder, made = staged(("table", records.content, wanted), partial(_write, records, wanted))
    rows, width = made["rows"], len(wanted.features)
    features, aside = np.empty((rows, 0), dtype="<f4"), None
    if width:
        features = files.mapped(folder / FEATURES, "<f4", rows * width).reshape(rows, width)
    if made["aside"]:
        aside = files.mapped(folder / ASIDE, made["aside"], rows)
    return Matrix(
        features=features,
        classes=files.mapped(folder / CLASSES, "<i4", rows),
        labels=tuple(made["labels"]),
        digest=made["sha256"],
        values=Labels(aside, tuple(made["values"])) if wanted.values and aside is not None else None,
        moments=aside if wanted.moments else None,
    )


@dataclass
class Coded:
    """A column of labels, written as numbers in the order in which labels first come."""

    name: str
    out: BinaryIO
    seen: dict[str, int] = field(default_factory=dict)

    def add(self, chunk: Chunk) -> None:
        texts = texts_of(chunk, self.name).dictionary_encode()
        places = [self.seen.setdefault(label, len(self.seen)) for label in texts.dictionary.to_pylist()]
        self.out.write(np.array(places, dtype="<i4")[texts.indices.to_numpy()].tobytes())


def _write(records: Records, wanted: Wanted, folder: Path) -> Mapping[str, Any]:
    """Every batch, to its three files; then classes get their final numbers."""
    kinds = _kinds(records, wanted)
    rows, aside = 0, ""
    with ExitStack() as stack:
        features = stack.enter_context((folder / FEATURES).open("wb"))
        classes = Coded(wanted.target, stack.enter_context((folder / CLASSES).open("wb")))
        values = Coded(wanted.values or "", stack.enter_context((folder / ASIDE).open("wb")))
        for chunk in records.read(kinds):
            features.write(_numbers(chunk, wanted).tobytes())
            classes.add(chunk)
            if wanted.values:
                values.add(chunk)
                aside = "<i4"
            if wanted.moments:
                moments = _moments(chunk, wanted.moments)
                values.out.write(moments.tobytes())
                aside = moments.dtype.str
            rows += chunk.batch.num_rows
    if not rows:
        raise UserError("the table has no rows", f"{records.key}: {records.shown}", "choose data with rows")
    own = records.classes.get(wanted.target)
    ordered = (
        list(own)
        if own
        else labels.in_order(classes.seen, f"column {wanted.target!r}", f"data.target: {wanted.target}")
    )
    _renumber(folder / CLASSES, labels.final(classes.seen, ordered))
    document = {"rows": rows, "labels": ordered, "aside": aside, "values": list(values.seen)}
    return {**document, "sha256": _digest(folder, [rows, wanted.features, ordered])}


def _kinds(records: Records, wanted: Wanted) -> dict[str, Any]:
    """The type as which each column is read, as the first file has it."""
    arrow = needed("pyarrow", "pyarrow", "data.kind: table")
    there = records.types
    kinds = {name: there[name] if arrow.types.is_boolean(there[name]) else arrow.float64() for name in wanted.features}
    for name in filter(None, (wanted.target, wanted.values)):
        # Text of a CSV stays as it was written: its first lines do not say whether «1» is a number or a name.
        kinds[name] = arrow.string() if records.guessed else label_kind(there[name])
    if wanted.moments:
        kinds[wanted.moments] = _moment_kind(there[wanted.moments], wanted.moments, records)
    return kinds


def label_kind(given: Any) -> Any:
    """The type as which a column of labels is read."""
    arrow = needed("pyarrow", "pyarrow", "data.kind: table")
    types = arrow.types
    if types.is_integer(given):
        return arrow.int64()
    if types.is_floating(given) or types.is_decimal(given):
        return arrow.float64()
    return given if types.is_boolean(given) else arrow.string()


def _moment_kind(given: Any, name: str, records: Records) -> Any:
    arrow = needed("pyarrow", "pyarrow", "data.kind: table")
    if arrow.types.is_timestamp(given):
        return arrow.timestamp("us", given.tz)
    if arrow.types.is_date(given):
        return arrow.timestamp("us")
    if is_number(given):
        return arrow.float64()
    what = f"column {name!r} of {records.shown} is {given}, and a split by time wants times or numbers"
    raise UserError(what, "data.split.column", "choose another column, or write its times as ISO 8601")


def _numbers(chunk: Chunk, wanted: Wanted) -> np.ndarray:
    """The features of some rows as float32."""
    arrow = needed("pyarrow", "pyarrow", "data.kind: table")
    numbers = np.empty((chunk.batch.num_rows, len(wanted.features)), dtype="<f4")
    for place, name in enumerate(wanted.features):
        values = chunk.batch.column(name).cast(arrow.float64()).to_numpy(zero_copy_only=False)
        with np.errstate(over="ignore"):
            numbers[:, place] = values
    bad = np.isinf(numbers) if wanted.gaps else ~np.isfinite(numbers)
    if bad.any():
        row, place = np.argwhere(bad)[0]
        raise _bad_number(numbers[row, place], wanted.features[place], chunk, int(row))
    return numbers


def _bad_number(value: float, name: str, chunk: Chunk, place: int) -> UserError:
    row = chunk.first_row + place
    if np.isnan(value):
        what = f"{chunk.shown} has no value in row {row} of column {name!r}"
        return UserError(what, "data.missing: refuse", "fill it in, or choose missing: mean, or missing: zero")
    what = f"{chunk.shown} has a number in row {row} of column {name!r} that is infinite, or too large for float32"
    return UserError(what, "data.features", "correct it, or leave the column out")


def texts_of(chunk: Chunk, name: str) -> Any:
    """Labels as text, none missing. Whole numbers are written without a point."""
    arrow, compute = (needed(f"pyarrow{part}", "pyarrow", "data.kind: table") for part in ("", ".compute"))
    column = chunk.batch.column(name)
    if arrow.types.is_floating(column.type):
        whole = compute.fill_null(compute.equal(compute.floor(column), column), True)
        _refuse(compute.is_null(column, nan_is_null=True), f"has no value in column {name!r}", chunk)
        _refuse(compute.invert(whole), f"has a fraction in column {name!r}, which names a class", chunk)
        column = column.cast(arrow.int64())
    texts = column.cast(arrow.string())
    gaps = compute.or_kleene(compute.is_null(texts), compute.equal(texts, ""))
    _refuse(gaps, f"has no value in column {name!r}", chunk)
    return texts


def _moments(chunk: Chunk, name: str) -> np.ndarray:
    """float64, or int64 microseconds since 1970 in UTC."""
    arrow, compute = (needed(f"pyarrow{part}", "pyarrow", "data.kind: table") for part in ("", ".compute"))
    column = chunk.batch.column(name)
    _refuse(compute.is_null(column, nan_is_null=True), f"has no value in column {name!r}", chunk)
    if arrow.types.is_timestamp(column.type):
        return column.cast(arrow.int64()).to_numpy().astype("<i8").view("<M8[us]")
    return column.to_numpy().astype("<f8")


def _refuse(bad: Any, what: str, chunk: Chunk) -> None:
    """Raises UserError when any row is bad."""
    rows = np.flatnonzero(bad.to_numpy(zero_copy_only=False))
    if len(rows):
        said = f"{chunk.shown} {what}: row {chunk.first_row + int(rows[0])}"
        raise UserError(said, chunk.key, "correct it, leave the row out, or name another column")


def _renumber(path: Path, places: list[int]) -> None:
    """Put each label's final number in place of its first one."""
    numbers = np.memmap(path, dtype="<i4", mode="r+")
    final = np.array(places, dtype="<i4")
    for begin in range(0, len(numbers), PIECE):
        numbers[begin : begin + PIECE] = final[numbers[begin : begin + PIECE]]
    numbers.flush()


def _digest(folder: Path, said: Sequence[Any]) -> str:
    """SHA-256 of what was written: features and classes, their names and number."""
    seen = hashlib.sha256(repr(said).encode())
    for name in (FEATURES, CLASSES):
        with (folder / name).open("rb") as f:
            seen.update(hashlib.file_digest(f, "sha256").digest())
    return seen.hexdigest()
