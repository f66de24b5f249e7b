"""Which rows, which of their columns, and which row is in which part: data as they are exported for other programs.

A source of rows with columns has `listed(options) -> Listed` beside `load`, as has one of files, whose rows say where
each of them is: both cut by the same rule, so a row is in the same part whoever trains on it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from trainer.data import filters, tabular
from trainer.data.records import Records, known
from trainer.failure import UserError

if TYPE_CHECKING:
    import numpy as np

    from trainer.data.splits import Part
    from trainer.data.tabular import Columns


Format = Literal["jsonl", "csv"]


@dataclass(frozen=True)
class Listed:
    """Rows of which nothing but their columns has been looked at."""

    records: Records
    columns: tuple[str, ...]
    """What is exported, in this order."""
    parted: Callable[[], tuple[Part, ...]]
    """Reads what tells the parts: for training, for validation, and for a test where it is declared."""


def of_table(records: Records, options: Columns) -> Listed:
    """A table's rows: its `features` and its target, or all columns where no features are named.

    A gap stays a gap and a number as it is: what `missing` and `standardise` say is for our trainer alone. Raises
    UserError for a column that there is not.
    """
    wanted = tabular.wanted_of(records, options, ())
    named = (*(options.features or ()), options.target) if options.features else tuple(records.types)
    for name in named:
        known(records, name, "data.features")
    for name in filters.columns_of(options.split):
        known(records, name, "data.split")
    return Listed(records, named, lambda: tabular.parted(records, options, wanted)[1])


def of_columns(
    name: str, columns: dict[str, np.ndarray], parts: Callable[[], tuple[Part, ...]], content: Any
) -> Listed:
    """Rows that lie in memory."""
    from trainer.data.records import Chunk
    from trainer.packages import needed

    arrow = needed("pyarrow", "pyarrow", "job.data_format")
    batch = arrow.RecordBatch.from_arrays([arrow.array(values) for values in columns.values()], names=list(columns))
    types = dict(zip(batch.schema.names, batch.schema.types, strict=True))

    def read(wanted: Any) -> Any:
        yield Chunk(batch.select(list(wanted)), name, 0, "data.set")

    return Listed(Records(name, "data.set", content, types, False, read), tuple(columns), parts)


def plain_types(listed: Listed, form: Format) -> dict[str, Any]:
    """The type as which each column is written: a category's values as they are.

    Raises UserError for columns that are no text, number or time, nor, in JSON lines, a structure of such.
    """
    found = {name: plain(listed.records.types[name], form) for name in listed.columns}
    if odd := [name for name, kind in found.items() if kind is None]:
        said = ", ".join(f"{name!r} ({listed.records.types[name]})" for name in odd[:8])
        what = f"{listed.records.shown} has columns that cannot be written as {form}: {said}"
        do = "name the columns to export: text, numbers, times"
        can_be_lines = form == "csv" and all(plain(listed.records.types[name], "jsonl") is not None for name in odd)
        raise UserError(what, "data.features", f"{do}; or use job.data_format=jsonl" if can_be_lines else do)
    return found


def plain(kind: Any, form: Format) -> Any:
    """The type as which a type is written, a structure as it is; None where it cannot be."""
    from trainer.packages import needed

    arrow = needed("pyarrow", "pyarrow", "job.data_format")
    types = arrow.types
    if types.is_dictionary(kind):
        return plain(kind.value_type, form)
    if types.is_struct(kind):
        fields = {field.name: plain(field.type, form) for field in kind}
        return kind if form == "jsonl" and None not in fields.values() and 0 < len(fields) == kind.num_fields else None
    if types.is_null(kind):
        return arrow.string()
    if types.is_float16(kind):
        return arrow.float32()
    tells = ("is_string", "is_large_string", "is_boolean", "is_integer", "is_floating", "is_decimal", "is_date")
    others = (types.is_timestamp, types.is_time)
    return kind if any(getattr(types, tell)(kind) for tell in tells) or any(tell(kind) for tell in others) else None


def sides(parts: Sequence[Part]) -> np.ndarray:
    """For each row up to the last of any part, the number of its part counted from 1; 0 where it is in none."""
    import numpy as np

    ends = [int(part[-1]) + 1 for part in parts if len(part)]
    found = np.zeros(max(ends, default=0), dtype="u1")
    for number, part in enumerate(parts, 1):
        found[np.asarray(part, dtype=np.int64)] = number
    return found
