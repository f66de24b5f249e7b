"""Where do a table's rows come from? Files, a query, a Hugging Face data set: to the rest they are batches.

So is what stands beside samples that are no rows of a table (beside.py).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from trainer.data.splits import few
from trainer.failure import UserError
from trainer.packages import needed

Types = Mapping[str, Any]
"""Name of a column -> pyarrow.DataType."""


@dataclass(frozen=True)
class Chunk:
    """Some rows that follow each other, and how a message names them."""

    batch: Any
    """pyarrow.RecordBatch."""
    shown: str
    """What they come from: a file, or the query."""
    first_row: int
    key: str
    """Option that says where they come from."""
    named: Callable[[int], str] | None = None
    """Names a row by its place here; None where rows go by their numbers."""

    def row(self, place: int) -> str:
        """One of the rows for a message."""
        return self.named(place) if self.named else f"row {self.first_row + place}"


@dataclass(frozen=True)
class Records:
    """All rows, to be read again and again."""

    shown: str
    """What tells the types: the first file, or the query."""
    key: str
    content: Any
    """Names the rows, as for `staged`: the same for the same rows."""
    types: Types
    guessed: bool
    """Whether a text's types were guessed from its first records; labels then stay as they are written."""
    read: Callable[[Types], Iterator[Chunk]]
    """The columns asked for, each as the type given."""
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Columns whose values have an order of their own: column -> all values there may be."""


def known(records: Records, name: str, key: str) -> str:
    """A column's name. Raises UserError with the nearest one when there is none of that name."""
    if name not in records.types:
        near = difflib.get_close_matches(name, records.types, n=1)
        do = f"did you mean {near[0]!r}?" if near else f"there is: {few(list(records.types))}"
        raise UserError(f"{records.shown} has no column {name!r}", key, do)
    return name


def is_number(kind: Any) -> bool:
    """Whether a pyarrow type can be a feature."""
    types = needed("pyarrow", "pyarrow", "data.kind: table").types
    return any(getattr(types, name)(kind) for name in ("is_integer", "is_floating", "is_decimal", "is_boolean"))
