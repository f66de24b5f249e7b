"""What is in a column of targets, or of values that rows are told apart by? Labels as numbers of their own, or numbers.

Both are written as they come, chunk by chunk: int32 places of labels in the order in which these first come, which
`in_their_order` then puts right, or float64.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from trainer.data import labels
from trainer.data.records import Chunk, Records
from trainer.failure import UserError
from trainer.packages import needed

PIECE = 1 << 20
CORRECT = "correct it, leave the row out, or name another column"


@dataclass
class Coded:
    """A column of labels, written as numbers in the order in which labels first come."""

    name: str
    """Empty where there is no such column."""
    out: BinaryIO
    do: str
    """What to do about fractions."""
    seen: dict[str, int] = field(default_factory=dict)

    def add(self, chunk: Chunk) -> None:
        if not self.name:
            return
        texts = texts_of(chunk, self.name, self.do).dictionary_encode()
        places = [self.seen.setdefault(label, len(self.seen)) for label in texts.dictionary.to_pylist()]
        self.out.write(np.array(places, dtype="<i4")[texts.indices.to_numpy()].tobytes())


@dataclass
class Numbers:
    """A column of numbers, none missing, that float32 can hold."""

    name: str
    out: BinaryIO

    def add(self, chunk: Chunk) -> None:
        arrow, compute = (needed(f"pyarrow{part}", "pyarrow", "data.kind: table") for part in ("", ".compute"))
        column = chunk.batch.column(self.name).cast(arrow.float64())
        refuse(compute.is_null(column, nan_is_null=True), f"has no value in column {self.name!r}", chunk)
        values = column.to_numpy(zero_copy_only=False)
        with np.errstate(over="ignore"):
            endless = arrow.array(~np.isfinite(values.astype("<f4")))
        refuse(endless, f"has a number in column {self.name!r} that is infinite, or too large for float32", chunk)
        self.out.write(values.astype("<f8").tobytes())


def label_kind(given: Any) -> Any:
    """The type as which a column of labels is read."""
    arrow = needed("pyarrow", "pyarrow", "data.kind: table")
    types = arrow.types
    if types.is_integer(given):
        return arrow.int64()
    if types.is_floating(given) or types.is_decimal(given):
        return arrow.float64()
    return given if types.is_boolean(given) else arrow.string()


def texts_of(chunk: Chunk, name: str, do: str) -> Any:
    """Labels as text, none missing. Whole numbers are written without a point."""
    arrow, compute = (needed(f"pyarrow{part}", "pyarrow", "data.kind: table") for part in ("", ".compute"))
    column = chunk.batch.column(name)
    if arrow.types.is_floating(column.type):
        whole = compute.fill_null(compute.equal(compute.floor(column), column), True)
        refuse(compute.is_null(column, nan_is_null=True), f"has no value in column {name!r}", chunk)
        refuse(compute.invert(whole), f"has a fraction in column {name!r}, which has labels", chunk, do)
        column = column.cast(arrow.int64())
    texts = column.cast(arrow.string())
    gaps = compute.or_kleene(compute.is_null(texts), compute.equal(texts, ""))
    refuse(gaps, f"has no value in column {name!r}", chunk)
    return texts


def refuse(bad: Any, what: str, chunk: Chunk, do: str = CORRECT) -> None:
    """Raises UserError when any row is bad."""
    rows = np.flatnonzero(bad.to_numpy(zero_copy_only=False))
    if len(rows):
        said = f"{chunk.shown} {what}: {chunk.row(int(rows[0]))}"
        raise UserError(said, chunk.key, do)


def in_their_order(records: Records, written: Coded, key: str, path: Path) -> list[str]:
    """All labels of a column of targets, which `key` names, in the order of their numbers, which the file has from then
    on."""
    own, where = records.classes.get(written.name), f"{key}: {written.name}"
    ordered = list(own or labels.in_order(written.seen, f"column {written.name!r}", where, written.do))
    final = np.array(labels.final(written.seen, ordered), dtype="<i4")
    numbers = np.memmap(path, dtype="<i4", mode="r+")
    for begin in range(0, len(numbers), PIECE):
        numbers[begin : begin + PIECE] = final[numbers[begin : begin + PIECE]]
    numbers.flush()
    return ordered
