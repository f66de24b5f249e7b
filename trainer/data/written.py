"""How do rows become shards of JSON lines or CSV? One pass over a source, each row into the files of its part.

    training-00000-of-00002.csv  training-00001-of-00002.csv  validation-00000-of-00001.csv  ...

In a file the rows keep the source's order. Text is UTF-8. CSV is as RFC 4180 has it, the first line of every file the
columns' names; a missing value is an empty field, a NaN `nan`. In JSON lines both are null, an infinite number is
refused (JSON has none), times and decimals are texts, as BigQuery's export has them, and a structure is an object.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

from trainer.data import listed
from trainer.data.listed import Format, Listed
from trainer.data.records import Chunk
from trainer.failure import UserError
from trainer.packages import needed

PARTS = ("training", "validation", "test")
SHARD_BYTES = 64_000_000
"""A file that has so many is full: large enough for a disk, small enough to share out among workers."""
PIECE = 8192
"""Rows written at once."""
WHERE = "job.data_format"


def write(rows: Listed, form: Format, folder: Path) -> dict[str, Any]:
    """Write every part that there is, at least one file of each, and say what was written. All is on disk then.

    Raises UserError for what cannot be written, saying where it is.
    """
    arrow, compute = (needed(f"pyarrow{part}", "pyarrow", WHERE) for part in ("", ".compute"))
    kinds, parts = listed.plain_types(rows, form), rows.parted()
    sides, begin = listed.sides(parts), 0
    with ExitStack() as stack:
        schema = arrow.schema(list(kinds.items()))
        outs = [stack.enter_context(Shards(folder, name, form, schema)) for name in PARTS[: len(parts)]]
        for chunk in rows.records.read(kinds):
            batch = chunk.batch.select(list(kinds))
            here = arrow.array(sides[begin : begin + batch.num_rows])
            begin += batch.num_rows
            batch = batch.slice(0, len(here))  # without rows behind the last of any part
            for number, out in enumerate(outs, 1):
                mine = batch.filter(compute.equal(here, number))
                for first in range(0, mine.num_rows, PIECE):
                    out.add(mine.slice(first, PIECE), chunk)
        files = [file for out in outs for file in out.named()]
    counts = {out.name: sum(file["rows"] for file in files if file["part"] == out.name) for out in outs}
    return {"format": form, "columns": list(rows.columns), "rows": counts, "files": files}


class Shards:
    """The files of one part, begun anew where one is full. The first is there also where the part has no rows."""

    def __init__(self, folder: Path, name: str, form: Format, schema: Any) -> None:
        self.name = name
        self._folder, self._form, self._schema = folder, form, schema
        self._file: BinaryIO | None = None
        self._csv: Any = None
        self._rows: list[int] = []

    def __enter__(self) -> Shards:
        self._next()
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, batch: Any, chunk: Chunk) -> None:
        """Write rows of a chunk."""
        assert self._file is not None
        if self._file.tell() >= SHARD_BYTES:
            self._next()
        self._rows[-1] += batch.num_rows
        if self._csv is not None:
            self._csv.write_batch(batch)
        else:
            self._file.write(_lines(batch, chunk))

    def named(self) -> list[dict[str, Any]]:
        """End the last file, and name all by how many there are."""
        self._end()
        made = []
        for number, rows in enumerate(self._rows):
            path = self._path(number)
            final = path.with_name(f"{self.name}-{number:05d}-of-{len(self._rows):05d}.{self._form}")
            with path.open("rb") as f:
                digest = hashlib.file_digest(f, "sha256").hexdigest()
            path.chmod(0o400)
            path.rename(final)
            size = final.stat().st_size
            made.append({"name": final.name, "part": self.name, "rows": rows, "bytes": size, "sha256": digest})
        return made

    def _path(self, number: int) -> Path:
        return self._folder / f"{self.name}-{number}.part"

    def _next(self) -> None:
        if self._file is not None:
            self._end()
        self._file = self._path(len(self._rows)).open("wb")
        self._rows.append(0)
        if self._form == "csv":
            csv = needed("pyarrow.csv", "pyarrow", WHERE)
            self._csv = csv.CSVWriter(self._file, self._schema)

    def _end(self) -> None:
        assert self._file is not None
        if self._csv is not None:
            self._csv.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


def _lines(batch: Any, chunk: Chunk) -> bytes:
    """Rows as JSON, each on a line of its own."""
    columns: Mapping[str, list[Any]] = {
        name: _values(batch.column(name), name, chunk).to_pylist() for name in batch.schema.names
    }
    rows = zip(*columns.values(), strict=True)
    names = list(columns)
    return "".join(
        json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False, allow_nan=False) + "\n" for row in rows
    ).encode()


def _values(column: Any, name: str, chunk: Chunk) -> Any:
    """A column whose values JSON has."""
    arrow, compute = (needed(f"pyarrow{part}", "pyarrow", WHERE) for part in ("", ".compute"))
    kind = column.type
    if arrow.types.is_struct(kind):
        names = [field.name for field in kind]
        fields = [field.cast(listed.plain(field.type, "jsonl")) for field in column.flatten()]
        inner = [_values(field, f"{name}.{of}", chunk) for of, field in zip(names, fields, strict=True)]
        return arrow.StructArray.from_arrays(inner, names=names, mask=column.is_null())
    if arrow.types.is_temporal(kind) or arrow.types.is_decimal(kind):
        return column.cast(arrow.string())
    if not arrow.types.is_floating(kind):
        return column
    if compute.any(compute.is_inf(column)).as_py():
        what = f"{chunk.shown} has an infinite number in column {name!r}, and JSON has none"
        do = "leave the column out" if "." in name else "use job.data_format=csv, or leave the column out"
        raise UserError(what, "job.data_format: jsonl", do)
    return compute.if_else(compute.is_nan(column), None, column)
