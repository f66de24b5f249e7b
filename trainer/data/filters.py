"""Which rows does a filter take? `data.split: {by: filter, ...}` over the columns of any table.

A comparison with a missing value is neither true nor false, as in SQL, and so takes no row; nor does its `not`.
A time is compared with a text such as "2026-01-31"; without a zone both are UTC.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from functools import partial, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.data import expressions, files
from trainer.data.records import Chunk, Records, is_number, known
from trainer.data.splits import TESTS, TRAINS, VALIDATES, Split, moment_of
from trainer.data.staged import staged
from trainer.failure import UserError
from trainer.packages import needed

if TYPE_CHECKING:
    import numpy as np

SIDES = "sides.bin"
KEYS = {"train": TRAINS, "validation": VALIDATES, "test": TESTS}
"""Of a split: its filters."""
COMPARE = {ast.Lt: "less", ast.LtE: "less_equal", ast.Gt: "greater", ast.GtE: "greater_equal"} | {
    ast.Eq: "equal",
    ast.NotEq: "not_equal",
}


def columns_of(split: Split) -> list[str]:
    """Columns that a split's filters look at; none where it has no filters."""
    said = (split.train, split.validation, split.test) if split.by == "filter" else ()
    return list(dict.fromkeys(name for text in said if text for name in expressions.names(_parsed(text))))


def sides_of(records: Records, split: Split) -> np.ndarray | None:
    """For each row the part that takes it, or 0, as Rows.sides; None where the split has no filters.

    Raises UserError for a column that there is not, a comparison that cannot be, and a row that two parts take.
    """
    if split.by != "filter":
        return None
    for key in KEYS:
        for name in expressions.names(_parsed(getattr(split, key))) if getattr(split, key) else ():
            known(records, name, f"data.split.{key}")
    content = ("filter", records.content, split.train, split.validation, split.test)
    folder, made = staged(content, partial(_write, records, split))
    return files.mapped(folder / SIDES, "u1", made["rows"])


def _parsed(text: Any) -> ast.expr:
    try:
        return expressions.parsed(str(text))
    except ValueError as e:
        raise UserError(f"the filter {text!r} cannot be: {e}", "data.split", expressions.RULES) from None


def _write(records: Records, split: Split, folder: Path) -> Mapping[str, Any]:
    """A byte for each row."""
    rows = 0
    kinds = {name: _plain(records.types[name]) for name in columns_of(split)}
    with (folder / SIDES).open("wb") as out:
        for chunk in records.read(kinds):
            out.write(_sides(split, chunk).tobytes())
            rows += chunk.batch.num_rows
    return {"rows": rows}


def _sides(split: Split, chunk: Chunk) -> np.ndarray:
    """For each row of a chunk the part that takes it, or 0."""
    import numpy as np

    taken = {key: _taken(split, key, chunk) for key in KEYS if getattr(split, key)}
    if "train" not in taken:
        taken["train"] = ~np.logical_or.reduce(list(taken.values()))
    if (twice := np.flatnonzero(sum(mask.astype("u1") for mask in taken.values()) > 1)).size:
        row = f"{chunk.row(int(twice[0]))} of {chunk.shown}"
        both = [f"data.split.{key}" for key in KEYS if key in taken and taken[key][twice[0]]]
        what = f"{row} is taken by both {' and '.join(both)}"
        raise UserError(what, "data.split", "write filters that no row passes together")
    sides = np.zeros(chunk.batch.num_rows, dtype="u1")
    for key, mask in taken.items():
        sides[mask] = KEYS[key]
    return sides


def _plain(kind: Any) -> Any:
    """A type that can be compared: of a category its values' own, of a decimal float64."""
    arrow = needed("pyarrow", "pyarrow", "data.split.by: filter")
    if arrow.types.is_dictionary(kind):
        return _plain(kind.value_type)
    return arrow.float64() if arrow.types.is_decimal(kind) else kind


def _taken(split: Split, key: str, chunk: Chunk) -> np.ndarray:
    arrow = needed("pyarrow", "pyarrow", "data.split.by: filter")
    try:
        mask = _mask(_parsed(getattr(split, key)), chunk.batch)
    except (ValueError, arrow.ArrowException) as e:
        types = ", ".join(f"{name} ({chunk.batch.schema.field(name).type})" for name in chunk.batch.schema.names)
        what = f"the filter {getattr(split, key)!r} cannot be: {str(e).partition(chr(10))[0]}"
        raise UserError(what, f"data.split.{key}", f"compare what is alike; the columns are {types}") from None
    return mask.fill_null(False).to_numpy(zero_copy_only=False)


def _mask(node: ast.expr, batch: Any) -> Any:
    """True, false or null for each row."""
    compute = needed("pyarrow.compute", "pyarrow", "data.split.by: filter")
    if isinstance(node, ast.BoolOp):
        join = compute.and_kleene if isinstance(node.op, ast.And) else compute.or_kleene
        return reduce(join, (_mask(below, batch) for below in node.values))
    if isinstance(node, ast.UnaryOp):
        return compute.invert(_mask(node.operand, batch))
    if isinstance(node, ast.Name):
        if str(batch.column(node.id).type) != "bool":
            raise ValueError(f"column {node.id!r} is {batch.column(node.id).type}, and stands alone")
        return batch.column(node.id)
    assert isinstance(node, ast.Compare)  # see `parsed`
    sides = [node.left, *node.comparators]
    pairs = zip(sides, node.ops, sides[1:], strict=False)
    return reduce(compute.and_kleene, (_compared(left, op, right, batch) for left, op, right in pairs))


def _compared(left: ast.expr, op: ast.cmpop, right: ast.expr, batch: Any) -> Any:
    arrow, compute = (needed(f"pyarrow{part}", "pyarrow", "data.split.by: filter") for part in ("", ".compute"))
    if isinstance(op, ast.Is | ast.IsNot):
        missing = compute.is_null(batch.column(left.id), nan_is_null=True)  # type: ignore[attr-defined]
        return missing if isinstance(op, ast.Is) else compute.invert(missing)
    if isinstance(op, ast.In | ast.NotIn):
        column = _column(left, batch)
        values = arrow.array([_as(below, left, batch) for below in right.elts], column.type)  # type: ignore[attr-defined]
        within = compute.is_in(column, value_set=values)
        within = compute.if_else(compute.is_valid(column), within, None)
        return within if isinstance(op, ast.In) else compute.invert(within)
    first = _column(left, batch) if isinstance(left, ast.Name) else _as(left, right, batch)
    second = _column(right, batch) if isinstance(right, ast.Name) else _as(right, left, batch)
    return getattr(compute, COMPARE[type(op)])(first, second)


def _column(node: ast.expr, batch: Any) -> Any:
    """A column; times as microseconds since 1970 in UTC."""
    arrow = needed("pyarrow", "pyarrow", "data.split.by: filter")
    column = batch.column(node.id)  # type: ignore[attr-defined]
    if arrow.types.is_date(column.type):
        column = column.cast(arrow.timestamp("us"))
    if arrow.types.is_timestamp(column.type):
        return column.cast(arrow.timestamp("us", column.type.tz)).cast(arrow.int64())
    return column


def _as(node: ast.expr, beside: ast.expr, batch: Any) -> Any:
    """A constant as the column beside it has its values. Raises ValueError when it cannot be."""
    arrow = needed("pyarrow", "pyarrow", "data.split.by: filter")
    value = expressions.constant(node)
    name = beside.id  # type: ignore[attr-defined]
    kind = batch.column(name).type
    if arrow.types.is_date(kind) or arrow.types.is_timestamp(kind):
        import numpy as np

        return int(np.datetime64(moment_of(str(value)), "us").astype(np.int64))
    wanted: Any = None
    if arrow.types.is_boolean(kind):
        wanted = bool
    elif is_number(kind):
        wanted = int | float
    elif arrow.types.is_string(kind) or arrow.types.is_large_string(kind):
        wanted = str
    if wanted is None or not isinstance(value, wanted) or isinstance(value, bool) != (wanted is bool):
        raise ValueError(f"column {name!r} is {kind}, and is compared with {value!r}")
    return value
