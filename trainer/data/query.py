"""Which rows does a query give? Fetched once per node and run, sorted, and laid down as an Arrow file.

A database gives rows in any order: they are sorted by all columns, the first one first, so that the same rows are the
same data. What the URL says of names and passwords stands in no file and in no message.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from trainer.data import files
from trainer.data.records import Chunk, Records, Types
from trainer.data.splits import few
from trainer.data.staged import staged
from trainer.failure import UserError
from trainer.packages import needed

ROWS = "rows.arrow"
PIECE = 1 << 16
"""Rows fetched, and written, at once."""
SHOWN = "the query"
WHERE = "data.kind: sql"


def records_of(url_env: str, query: str) -> Records:
    """The rows of a query as a table's.

    Raises UserError when the database or the query refuses, and for a column that is twice or has no type.
    """
    folder, made = staged(("sql", _run(), url_env, query), partial(_fetch, url_env, query))
    store = folder / ROWS
    arrow = needed("pyarrow", "pyarrow", WHERE)
    with files.opened(store) as f:
        schema = arrow.ipc.open_file(f).schema

    def read(wanted: Types) -> Iterator[Chunk]:
        row = 1
        with files.opened(store) as f:
            stored = arrow.ipc.open_file(f)
            for number in range(stored.num_record_batches):
                batch = stored.get_batch(number).select(list(wanted)).cast(arrow.schema(list(wanted.items())))
                yield Chunk(batch, SHOWN, row, "data.query")
                row += batch.num_rows

    kinds = dict(zip(schema.names, schema.types, strict=True))
    return Records(SHOWN, "data.query", (made["sha256"], query), kinds, False, read)


def _run() -> str:
    """What the rows are kept for: a run's members and attempts on this node see the same ones, another run does not."""
    member = os.environ.get("FAIRLEAD_MEMBER_DIR")
    return str(Path(member).parent) if member else f"process {os.getpid()}"


def _fetch(url_env: str, query: str, folder: Path) -> Mapping[str, Any]:
    arrow = needed("pyarrow", "pyarrow", WHERE)
    table = _sorted(_answer(url_env, query))
    with arrow.ipc.new_file(str(folder / ROWS), table.schema) as out:
        out.write_table(table, max_chunksize=PIECE)
    return {"rows": len(table), "sha256": files.sha256(folder / ROWS)}


def _answer(url_env: str, query: str) -> Any:
    """All rows as an Arrow table, in the order in which they come. Nothing is ever committed."""
    alchemy = needed("sqlalchemy", "SQLAlchemy", WHERE)
    said = os.environ.get(url_env)
    if not said:
        do = f"export {url_env}=dialect://user:password@host/database where you launch; its value goes into no file"
        raise UserError(f"the environment variable {url_env} is not set", "data.url_env", do)
    with _in_words(said, url_env):
        engine = alchemy.create_engine(said, poolclass=alchemy.pool.NullPool)
        try:
            with engine.connect().execution_options(stream_results=True, no_parameters=True) as connection:
                result = connection.exec_driver_sql(query)
                if not result.returns_rows:
                    raise UserError("the query gives no rows", "data.query", "write a SELECT")
                names = list(result.keys())
                pieces = [_table(names, rows) for rows in result.partitions(PIECE)]
        finally:
            engine.dispose()
    return _joined(names, pieces)


def _table(names: Sequence[str], rows: Sequence[Any]) -> Any:
    """Some rows, each column with the type that its values have."""
    arrow = needed("pyarrow", "pyarrow", WHERE)
    if twice := sorted({name for name in names if names.count(name) > 1}):
        what = f"the query has more than one column called {few(twice)}"
        raise UserError(what, "data.query", "rename one: SELECT a.id AS a_id, b.id AS b_id")
    columns = []
    for name, values in zip(names, zip(*rows, strict=True), strict=True):
        try:
            columns.append(arrow.array(values))
        except (arrow.ArrowException, OverflowError) as e:
            raise _no_type(name, e) from None
    return arrow.table(columns, names=list(names))


def _joined(names: Sequence[str], pieces: Sequence[Any]) -> Any:
    arrow = needed("pyarrow", "pyarrow", WHERE)
    if not pieces:
        raise UserError("the query gives no rows", "data.query", "write one that finds some")
    try:
        return arrow.concat_tables(pieces, promote_options="permissive")
    except arrow.ArrowException as e:
        raise _no_type(few(list(names)), e) from None


def _sorted(table: Any) -> Any:
    """By all columns, the first one first; rows that are alike are the same wherever they stand."""
    arrow = needed("pyarrow", "pyarrow", WHERE)
    try:
        return table.sort_by([(name, "ascending") for name in table.column_names]).combine_chunks()
    except (arrow.ArrowException, TypeError) as e:
        kinds = ", ".join(f"{name} ({kind})" for name, kind in zip(table.column_names, table.schema.types, strict=True))
        raise _no_type(kinds, e) from None


def _no_type(columns: str, error: Exception) -> UserError:
    reason = str(error).partition("\n")[0]
    what = f"the query's values have no common type that can be sorted: {columns}: {reason}"
    return UserError(what, "data.query", "leave the column out, or CAST it to numbers, text or times")


@contextlib.contextmanager
def _in_words(url: str, url_env: str) -> Iterator[None]:
    """Turns what a database or its driver says into a user's mistake, without anything that the URL says."""
    alchemy = needed("sqlalchemy", "SQLAlchemy", WHERE)
    where = f"data.url_env: {url_env}"
    try:
        yield
    except (alchemy.exc.ArgumentError, alchemy.exc.NoSuchModuleError, ValueError, TypeError):
        what = f"the value of {url_env} is no database URL that SQLAlchemy knows"
        raise UserError(what, where, "write it as dialect+driver://user:password@host/database") from None
    except ModuleNotFoundError as e:
        what = f"the driver of {url_env}'s database needs the Python package {e.name}, which is not installed here"
        raise UserError(what, where, "install it where the trainer runs, or add it to the image's lock file") from None
    except (alchemy.exc.SQLAlchemyError, OSError, RuntimeError) as e:
        said = getattr(e, "orig", None) or e
        what = f"the database refuses: {_without(url, str(said))}"
        raise UserError(what, f"{where}, data.query", "try the same with the database's own client") from None


def _without(url: str, text: str) -> str:
    """A message on one line, with nothing in it that the URL says of whoever asks."""
    parsed = needed("sqlalchemy", "SQLAlchemy", WHERE).engine.make_url(url)
    options = [value for given in parsed.query.values() for value in ([given] if isinstance(given, str) else given)]
    quoted = url.partition("://")[2].rpartition("@")[0].split(":")
    secret = {url, str(parsed.password or ""), str(parsed.username or ""), *options, *quoted} - {""}
    for word in sorted(secret, key=len, reverse=True):
        text = text.replace(word, "***")
    return " ".join(text.split())
