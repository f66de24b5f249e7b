"""Which fields do the samples of tar shards have? The top level of each one's .json, for splits to go by.

webdataset's convention: what is known of a sample beside its content stands in a .json of its name. It is read when
the shards are looked through, and only where a split goes by fields. A field that a sample lacks is a gap, like null.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.data import files
from trainer.data.records import Types
from trainer.packages import needed

PART = "json"
STORE = "fields.arrow"
WHERE = "data.split"
ZONES = ("", "UTC")
"""Of times: without a zone, and with one."""
WHOLE = range(-(1 << 63), 1 << 63)
"""Whole numbers that a column can have."""


class Fields:
    """The values of some fields, sample after sample, and the names of all that there are."""

    def __init__(self, names: Sequence[str]) -> None:
        self.values: dict[str, list[Any]] = {name: [] for name in names}
        self.kinds: dict[str, str] = {}
        """What a field has, by the first sample that has one."""
        self.there: dict[str, None] = {}

    def add(self, content: bytes) -> str:
        """Another sample, by its .json; or what is wrong with that, in words."""
        try:
            record = json.loads(content)
        except (ValueError, RecursionError) as e:
            return str(e)
        if not isinstance(record, dict):
            return "it is no object"
        self.there.update(dict.fromkeys(record))
        for name, values in self.values.items():
            value = record.get(name)
            if value is not None:
                kind = _kind(value)
                if not kind:
                    return f"{name!r} is {_short(value)}, which is no text, number, true or false"
                if kind != self.kinds.setdefault(name, kind):
                    return f"{name!r} is {_short(value)}, where others have {self.kinds[name]}"
            values.append(value)
        return ""

    def write(self, folder: Path) -> dict[str, Any]:
        """Lays the values down, and returns what `Stored` knows beside."""
        if not self.values:
            return {"there": [], "times": {}}
        arrow = needed("pyarrow", "pyarrow", WHERE)
        table = arrow.table({name: _column(values) for name, values in self.values.items() if name in self.there})
        with arrow.ipc.new_file(str(folder / STORE), table.schema) as out:
            out.write_table(table)
        zones = {name: _zone(table.column(name)) for name, kind in self.kinds.items() if kind == "text"}
        return {"there": list(self.there), "times": {name: zone for name, zone in zones.items() if zone is not None}}


@dataclass(frozen=True)
class Stored:
    """The fields of all samples as they lie on the node's disk."""

    path: Path
    there: tuple[str, ...]
    """All of them, also those that nobody asked for."""
    times: Mapping[str, str]
    """Fields of texts that all are times, and their zone."""

    def types(self) -> dict[str, Any]:
        """The type of each field, as a table's columns have it; null of those that nobody asked for."""
        arrow = needed("pyarrow", "pyarrow", WHERE)
        if not self.there:
            return {}
        with files.opened(self.path) as f:
            schema = arrow.ipc.open_file(f).schema
        found = {name: arrow.null() for name in self.there} | dict(zip(schema.names, schema.types, strict=True))
        return found | {name: arrow.timestamp("us", zone or None) for name, zone in self.times.items()}

    def read(self, wanted: Types) -> dict[str, Any]:
        """The columns asked for, each as the type given: times are texts as they were written, or moments."""
        if not wanted:
            return {}
        arrow = needed("pyarrow", "pyarrow", WHERE)
        with files.opened(self.path) as f:
            table = arrow.ipc.open_file(f).read_all().combine_chunks()
        return {name: table.column(name).cast(kind).combine_chunks() for name, kind in wanted.items()}


def _kind(value: Any) -> str:
    """What a value is, for a column has one kind of values; empty of what can stand in none."""
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, float) or (isinstance(value, int) and value in WHOLE):
        return "numbers"
    whole = isinstance(value, str) and value.encode(errors="replace").decode() == value  # "\ud800" alone is no text
    return "text" if whole else ""


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _column(values: Sequence[Any]) -> Any:
    """One kind of values: whole numbers are numbers with a fraction where any has one."""
    if any(isinstance(value, float) for value in values):
        values = [None if value is None else float(value) for value in values]
    return needed("pyarrow", "pyarrow", WHERE).array(values)


def _zone(texts: Any) -> str | None:
    """The zone of texts that all are times, as ISO 8601 writes them; None of others."""
    arrow = needed("pyarrow", "pyarrow", WHERE)
    for zone in ZONES:
        try:
            texts.cast(arrow.timestamp("us", zone or None))
            return zone
        except arrow.ArrowInvalid:
            continue
    return None
