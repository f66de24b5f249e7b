"""How do columns come out of a table's file? CSV, JSON lines and Parquet, batch by batch, only those asked for.

A row's number in a message is the record's: in CSV the header is row 1, elsewhere the first record is.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from trainer.data import files
from trainer.data.files import File
from trainer.data.records import Chunk, Records, Types
from trainer.data.splits import few
from trainer.failure import UserError
from trainer.packages import needed

SEPARATORS = {".csv": ",", ".tsv": "\t"}
SUFFIXES = (*SEPARATORS, ".jsonl", ".ndjson", ".parquet")
CSV_ERROR = re.compile(r"In CSV column #(?P<column>\d+): (?:Row #(?P<row>\d+): )?(?P<what>.*)", re.DOTALL)
CSV_RAGGED = re.compile(r"CSV parse error: (?:Row #(?P<row>\d+): )?Expected (?P<wanted>\d+) columns, got (?P<got>\d+)")


def types(file: File) -> dict[str, Any]:
    """The file's columns, as Parquet declares them or as the first records of a text look."""
    with _in_words(file, {}), files.opened(file.path) as f:
        if file.path.suffix.lower() == ".parquet":
            schema = _arrow("parquet").ParquetFile(f).schema_arrow
        elif file.path.suffix.lower() in SEPARATORS:
            schema = _csv(f, file, None).schema
        else:
            schema = _json(f, None).schema
        found = dict(zip(schema.names, schema.types, strict=True))
        if len(found) < len(schema.names):
            twice = sorted({name for name in schema.names if schema.names.count(name) > 1})
            raise UserError(f"{file.shown} has more than one column called {few(twice)}", "data.path", "rename one")
        return found


def records_of(found: Sequence[File]) -> Records:
    """The rows of all files, one after the other; the first file says which columns there are."""
    first = found[0]

    def read(wanted: Types) -> Iterator[Chunk]:
        for file in found:
            row = first_row(file)
            for batch in batches(file, wanted):
                yield Chunk(batch, file.shown, row, "data.path")
                row += batch.num_rows

    text = first.path.suffix.lower() in SEPARATORS
    return Records(first.shown, "data.path", files.identity(found), types(first), text, read)


def batches(file: File, wanted: Types) -> Iterator[Any]:
    """The wanted columns as pyarrow record batches, each column as the type given."""
    with _in_words(file, wanted), files.opened(file.path) as f:
        if file.path.suffix.lower() == ".parquet":
            yield from _cast(file, _arrow("parquet").ParquetFile(f).iter_batches(columns=list(wanted)), wanted)
        elif file.path.suffix.lower() in SEPARATORS:
            yield from _csv(f, file, wanted)
        else:
            yield from _cast(file, _json(f, wanted), wanted)


def first_row(file: File) -> int:
    """The number of a file's first record, for messages."""
    return 2 if file.path.suffix.lower() in SEPARATORS else 1


def _arrow(part: str) -> Any:
    return needed(f"pyarrow.{part}", "pyarrow", "data.kind: table")


def _csv(f: Any, file: File, wanted: Types | None) -> Any:
    csv = _arrow("csv")
    # One thread, because only then does an error say its row.
    reading = csv.ReadOptions(use_threads=False)
    parsing = csv.ParseOptions(delimiter=SEPARATORS[file.path.suffix.lower()], newlines_in_values=True)
    converting = csv.ConvertOptions(
        include_columns=list(wanted) if wanted else None, column_types=dict(wanted) if wanted else None
    )
    return csv.open_csv(f, reading, parsing, converting)


def _json(f: Any, wanted: Types | None) -> Any:
    arrow, reader = needed("pyarrow", "pyarrow", "data.kind: table"), _arrow("json")
    if not wanted:
        return reader.open_json(f)
    schema = arrow.schema(list(wanted.items()))
    return reader.open_json(
        f, parse_options=reader.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    )


def _cast(file: File, read: Iterator[Any], wanted: Types) -> Iterator[Any]:
    arrow = needed("pyarrow", "pyarrow", "data.kind: table")
    for batch in read:
        if missing := sorted(set(wanted) - set(batch.schema.names)):
            what = f"{file.shown} has no column {few(missing)}, which an earlier file has"
            raise UserError(what, "data.path", "leave the file out, or choose other columns")
        columns = []
        for name, wanted_type in wanted.items():
            column = batch.column(name)
            if not (column.type == wanted_type or _fits(column.type, wanted_type)):
                what = f"column {name!r} of {file.shown} is {column.type}, where {wanted_type} is wanted"
                raise UserError(what, "data", "choose other columns, or convert the file")
            columns.append(column.cast(wanted_type))
        yield arrow.RecordBatch.from_arrays(columns, names=list(wanted))


def _fits(given: Any, wanted: Any) -> bool:
    """Whether values of a type can be taken as another without reading text as numbers, or the other way round."""
    arrow = needed("pyarrow", "pyarrow", "data.kind: table").types
    if arrow.is_null(given):
        return True
    if arrow.is_dictionary(given):
        return _fits(given.value_type, wanted) or given.value_type == wanted
    for kinds in (("is_floating", "is_integer", "is_decimal", "is_boolean"), ("is_string", "is_large_string")):
        if any(getattr(arrow, kind)(wanted) for kind in kinds):
            return any(getattr(arrow, kind)(given) for kind in kinds)
    return bool(arrow.is_temporal(given) and arrow.is_temporal(wanted))


@contextlib.contextmanager
def _in_words(file: File, wanted: Types) -> Iterator[None]:
    """Turns what pyarrow cannot read into a user's mistake that says the file, and the row and column if known."""
    if not file.size:
        raise UserError(f"{file.shown} is empty", "data.path", "leave it out, or write it anew")
    arrow = needed("pyarrow", "pyarrow", "data.kind: table")
    try:
        yield
    except (arrow.ArrowInvalid, arrow.ArrowKeyError, arrow.ArrowNotImplementedError, arrow.ArrowTypeError) as e:
        raise UserError(_what(file, wanted, str(e).partition("\n")[0]), "data.path", "correct the file") from None


def _what(file: File, wanted: Types, error: str) -> str:
    if ragged := CSV_RAGGED.match(error):
        row = f" in row {ragged['row']}" if ragged["row"] else ""
        return f"{file.shown} has {ragged['got']} values{row}, but {ragged['wanted']} columns"
    if found := CSV_ERROR.match(error):
        name = list(types(file))[int(found["column"])]
        row = f" in row {found['row']}" if found["row"] else ""
        return f"{file.shown} has no {wanted.get(name, 'text')}{row} of column {name!r}: {found['what']}"
    if file.path.suffix.lower() in (".jsonl", ".ndjson"):
        return _bad_line(file, wanted) or f"{file.shown}: {error}"
    if "include_columns" in error:
        missing = sorted(set(wanted) - set(types(file)))
        return f"{file.shown} has no column {few(missing)}, which an earlier file has"
    return f"{file.shown}: {error}"


def _bad_line(file: File, wanted: Types) -> str | None:
    """pyarrow counts the rows of JSON within a block; this looks again, line by line, for the first that is wrong: not
    as wanted, or where nothing is, unlike the column's first value."""
    first: dict[str, Any] = {}
    with files.opened(file.path) as f:
        for number, line in enumerate(f, 1):
            try:
                record = json.loads(line) if line.strip() else {}
            except ValueError as e:
                return f"{file.shown} has no JSON in line {number}: {e}"
            if not isinstance(record, dict):
                return f"{file.shown} has no JSON object in line {number}"
            for name, value in record.items():
                kind = wanted.get(name) if wanted else _kind_of(first.setdefault(name, value))
                if kind is not None and not _is_of(value, kind):
                    return f"{file.shown} has {value!r} in line {number} of column {name!r}, where {kind} is wanted"
                first[name] = value if first.get(name) is None else first[name]
    return None


def _kind_of(value: Any) -> Any:
    """The type of a first value; None of null, lists and objects."""
    arrow = needed("pyarrow", "pyarrow", "data.kind: table")
    if isinstance(value, bool):
        return arrow.bool_()
    return arrow.float64() if isinstance(value, int | float) else arrow.string() if isinstance(value, str) else None


def _is_of(value: Any, kind: Any) -> bool:
    """Whether a value of JSON can be read as a type; null can be any."""
    types = needed("pyarrow", "pyarrow", "data.kind: table").types
    if value is None:
        return True
    if types.is_boolean(kind):
        return isinstance(value, bool)
    if types.is_floating(kind) or types.is_integer(kind):
        whole = not types.is_integer(kind) or isinstance(value, int)
        return isinstance(value, int | float) and not isinstance(value, bool) and whole
    return isinstance(value, str)
