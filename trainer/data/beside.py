"""How are samples parted that are no rows of a table? By what stands beside each of them, read as a table's columns.

So a value, a moment and a filter mean the same wherever they stand, and what is wrong with them is said alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from trainer.data import filters
from trainer.data.records import Chunk, Records, Types, known
from trainer.data.splits import Labels, Rows, Split
from trainer.failure import UserError
from trainer.packages import needed

if TYPE_CHECKING:
    import numpy as np

WHERE = "data.split"
PIECE = 1 << 16
"""Rows read at once."""


def names_of(split: Split) -> list[str]:
    """The columns that a split goes by; none where it goes by none."""
    return [split.column] if split.by in ("column", "time") and split.column else filters.columns_of(split)


def rows_of(split: Split, rows: Rows, records: Callable[[], Records]) -> Rows:
    """What is known of samples, and what the split goes by. `records` has a row for each of them, and is asked for
    where the split goes by columns.

    Raises UserError as for the rows of a table: for a column that there is not, a gap, what cannot be compared.
    """
    names = names_of(split)
    if not names:
        return rows
    from trainer.data.matrix import Wanted, matrix_of

    there = records()
    if split.by == "filter":
        return replace(rows, sides=filters.sides_of(there, split))
    name = known(there, names[0], "data.split.column")
    values, moments = (name if split.by == by else None for by in ("column", "time"))
    matrix = matrix_of(there, Wanted(None, (), values=values, moments=moments))
    return replace(rows, column=matrix.values, moments=matrix.moments)


def labels_of(records: Records, name: str, key: str) -> Labels:
    """A class for each sample, by a column that `key` names."""
    from trainer.data.matrix import Wanted, matrix_of

    matrix = matrix_of(records, Wanted(known(records, name, key), (), key=key))
    return Labels(matrix.targets, matrix.labels)


def of_arrays(shown: str, content: Any, arrays: Mapping[str, np.ndarray]) -> Records:
    """Arrays of one length as columns; rows are counted from 0, as numpy does.

    Raises UserError for an array that is no column.
    """
    for name, array in arrays.items():
        if array.ndim != 1 or array.dtype.kind not in "biufUM":
            what = f"array {name!r} of {shown} has {array.ndim} dimension(s) of {array.dtype}"
            do = "name arrays of one dimension, which have a number, a text, a time, true or false for each sample"
            raise UserError(what, WHERE, do)
    count = min(map(len, arrays.values()))

    def read(wanted: Types) -> Iterator[Chunk]:
        arrow = needed("pyarrow", "pyarrow", WHERE)
        for begin in range(0, count, PIECE):
            columns = [_as(kind, arrays[name][begin : begin + PIECE], name, shown) for name, kind in wanted.items()]
            yield Chunk(arrow.RecordBatch.from_arrays(columns, list(wanted)), shown, begin, "data.path")

    types = {name: _column(array[:1]).type for name, array in arrays.items()}
    return Records(shown, "data.path", content, types, False, read)


def _column(values: np.ndarray) -> Any:
    """Some of an array's values, for pyarrow: in this machine's order of bytes, half floats as floats, and moments in
    microseconds where they are no days."""
    import numpy as np

    dtype = values.dtype.newbyteorder("=")
    if dtype == np.float16:
        dtype = np.dtype(np.float32)
    elif dtype.kind == "M" and dtype != np.dtype("M8[D]"):
        dtype = np.dtype("M8[us]")
    return needed("pyarrow", "pyarrow", WHERE).array(values.astype(dtype))


def _as(kind: Any, values: np.ndarray, name: str, shown: str) -> Any:
    column, arrow = _column(values), needed("pyarrow", "pyarrow", WHERE)
    try:
        return column.cast(kind)
    except arrow.ArrowException as e:
        what = f"array {name!r} of {shown} is {column.type}, where {kind} is wanted: {e}"
        raise UserError(what, WHERE, "name another array, or write it with another type") from None
