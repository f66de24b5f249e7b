"""How do rows of a table become one matrix that is mapped into memory? Read once, batch by batch, written as it comes.

features.bin  float32, row after row; NaN where a value is missing
targets.bin   int32, a class for each row: the label's place in their order; or float64, a number for each row
aside.bin     what the split goes by, if it goes by a column: int32 places of values, or float64 or int64 (microseconds)
Which columns these are is tabular.py's, where rows come from records.py's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from trainer.data import files, labels
from trainer.data.records import Chunk, Records, is_number
from trainer.data.splits import Labels
from trainer.data.staged import staged
from trainer.data.targets import Coded, Numbers, in_their_order, label_kind, refuse
from trainer.failure import UserError
from trainer.packages import needed

FEATURES, TARGETS, ASIDE = "features.bin", "targets.bin", "aside.bin"


@dataclass(frozen=True)
class Wanted:
    """Which columns, and what they are for."""

    target: str | None
    """None where the classes lie elsewhere, too."""
    features: tuple[str, ...]
    """None where samples are images, whose classes alone lie here."""
    numbers: bool = False
    """Whether the target is a number, and not a class."""
    values: str | None = None
    """A column of values that samples are told apart by."""
    moments: str | None = None
    """A column of times or numbers that samples are ordered by."""
    gaps: bool = False
    """Whether a feature may lack a value."""
    key: str = "data.target"
    """Where the target was named."""


@dataclass(frozen=True)
class Matrix:
    """A table as it lies on the node's disk."""

    features: np.ndarray
    """float32, rows x columns."""
    targets: np.ndarray
    """A class for each row, int32, or a number, float64; empty where they lie elsewhere."""
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
        targets=_targets(folder, wanted, rows),
        labels=tuple(made["labels"]),
        digest=made["sha256"],
        values=Labels(aside, tuple(made["values"])) if wanted.values and aside is not None else None,
        moments=aside if wanted.moments else None,
    )


def _targets(folder: Path, wanted: Wanted, rows: int) -> np.ndarray:
    kind = "<f8" if wanted.numbers else "<i4"
    return files.mapped(folder / TARGETS, kind, rows) if wanted.target else np.empty(0, dtype=kind)


def _write(records: Records, wanted: Wanted, folder: Path) -> Mapping[str, Any]:
    """Every batch, to its three files; then classes get their final numbers."""
    kinds = _kinds(records, wanted)
    rows, aside = 0, ""
    with ExitStack() as stack:
        features = stack.enter_context((folder / FEATURES).open("wb"))
        targets = _target(wanted, stack.enter_context((folder / TARGETS).open("wb")))
        values = Coded(wanted.values or "", stack.enter_context((folder / ASIDE).open("wb")), labels.VALUES)
        for chunk in records.read(kinds):
            features.write(_numbers(chunk, wanted).tobytes())
            targets.add(chunk)
            values.add(chunk)
            if wanted.values:
                aside = "<i4"
            if wanted.moments:
                moments = _moments(chunk, wanted.moments)
                values.out.write(moments.tobytes())
                aside = moments.dtype.str
            rows += chunk.batch.num_rows
    if not rows:
        raise UserError("the table has no rows", f"{records.key}: {records.shown}", "choose data with rows")
    ordered = []
    if wanted.target and isinstance(targets, Coded):
        ordered = in_their_order(records, targets, wanted.key, folder / TARGETS)
    document = {"rows": rows, "labels": ordered, "aside": aside, "values": list(values.seen)}
    return {**document, "sha256": _digest(folder, [rows, wanted.features, ordered])}


def _target(wanted: Wanted, out: BinaryIO) -> Coded | Numbers:
    if wanted.numbers and wanted.target:
        return Numbers(wanted.target, out)
    return Coded(wanted.target or "", out, labels.NUMBERS if wanted.features else labels.CLASSES)


def _kinds(records: Records, wanted: Wanted) -> dict[str, Any]:
    """The type as which each column is read, as the first file has it."""
    arrow = needed("pyarrow", "pyarrow", "data.kind: table")
    there = records.types
    target = (wanted.target,) if wanted.target else ()
    numbers = (*wanted.features, *(target if wanted.numbers else ()))
    kinds = {name: there[name] if arrow.types.is_boolean(there[name]) else arrow.float64() for name in numbers}
    for name in (*(() if wanted.numbers else target), *((wanted.values,) if wanted.values else ())):
        # Text of a CSV stays as it was written: its first lines do not say whether «1» is a number or a name.
        kinds[name] = arrow.string() if records.guessed else label_kind(there[name])
    if wanted.moments:
        kinds[wanted.moments] = _moment_kind(there[wanted.moments], wanted.moments, records)
    return kinds


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


def _moments(chunk: Chunk, name: str) -> np.ndarray:
    """float64, or int64 microseconds since 1970 in UTC."""
    arrow, compute = (needed(f"pyarrow{part}", "pyarrow", "data.kind: table") for part in ("", ".compute"))
    column = chunk.batch.column(name)
    refuse(compute.is_null(column, nan_is_null=True), f"has no value in column {name!r}", chunk)
    if arrow.types.is_timestamp(column.type):
        return column.cast(arrow.int64()).to_numpy().astype("<i8").view("<M8[us]")
    return column.to_numpy().astype("<f8")


def _digest(folder: Path, said: Sequence[Any]) -> str:
    """SHA-256 of what was written: features and targets, their names and number."""
    seen = hashlib.sha256(repr(said).encode())
    for name in (FEATURES, TARGETS):
        with (folder / name).open("rb") as f:
            seen.update(hashlib.file_digest(f, "sha256").digest())
    return seen.hexdigest()
