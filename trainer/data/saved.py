"""What did Hugging Face's `save_to_disk` leave in a folder? One data set or several, mapped into memory.

Only the folder is read: nothing is asked of the hub, and no code comes with the data.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.data import files
from trainer.data.records import Chunk, Records, Types
from trainer.data.splits import few
from trainer.failure import UserError
from trainer.packages import needed

AT_ONCE = 10_000
"""Rows read at once."""
SPLIT = "split"
"""Column of the names that a DatasetDict gives its data sets."""
ENDED = b"\xff\xff\xff\xff\x00\x00\x00\x00"
"""The end mark of an Arrow stream (Arrow columnar format, «IPC Streaming Format»)."""
WHERE = "data.kind: huggingface"


@dataclass(frozen=True)
class Saved:
    """The data sets of a folder, one after the other."""

    path: str
    parts: tuple[tuple[str, Any], ...]
    """Name and datasets.Dataset; a folder of a single one gives it no name."""
    content: Any
    """Changes when a file does."""

    @property
    def features(self) -> Any:
        """What each column is."""
        return self.parts[0][1].features

    @property
    def size_bytes(self) -> int:
        return sum(size for _, size, _ in self.content[0])

    def whole(self, column: str) -> Any:
        """One column of all rows, as Arrow."""
        joined = needed("datasets", "datasets", WHERE).concatenate_datasets(
            [part.select_columns([column]) for _, part in self.parts]
        )
        return joined.with_format("arrow")


def opened(path: str, only: str | None) -> Saved:
    """The data sets at `path`; of several, `only` the one of that name.

    Raises UserError when there is none, when a file is damaged or cut, or when their columns differ.
    """
    datasets = needed("datasets", "datasets", WHERE)
    if not Path(path).is_dir():
        what = f"there is no folder at {files.shown(path)}"
        raise UserError(what, "data.path", "give the folder on this file system that save_to_disk wrote")
    datasets.disable_progress_bars()
    with _in_words(path):
        found = datasets.load_from_disk(path, keep_in_memory=False)
    parts = dict(found.items()) if isinstance(found, dict) else {"": found}
    if only is not None and only not in parts:
        there = few(list(parts)) if isinstance(found, dict) else "one data set that has no name"
        raise UserError(f"{files.shown(path)} has no data set {only!r}", "data.only", f"there is: {there}")
    if only is not None:
        parts = {only: parts[only]}
    _alike(path, parts)
    written = [file for file in files.found(path, "**/*") if file.path.suffix in (".arrow", ".json")]
    for file in written:
        _whole(file)
    return Saved(path, tuple(parts.items()), (files.identity(written), only))


def records_of(saved: Saved) -> Records:
    """The rows as a table's; classes by their names, and the column `split` where there are several data sets."""
    arrow = needed("pyarrow", "pyarrow", WHERE)
    kinds = dict(zip(saved.features.arrow_schema.names, saved.features.arrow_schema.types, strict=True))
    classes = {name: tuple(f.names) for name, f in saved.features.items() if type(f).__name__ == "ClassLabel"}
    kinds |= {name: arrow.string() for name in classes}
    if _has_split(saved):
        kinds[SPLIT] = arrow.string()

    def read(wanted: Types) -> Iterator[Chunk]:
        for name, part in saved.parts:
            row = 0
            own = [column for column in wanted if column in part.features] or part.column_names[:1]
            for table in part.select_columns(own).with_format("arrow").iter(AT_ONCE):
                yield Chunk(_batch(table, name, wanted, classes), _shown(saved, name), row, "data.path")
                row += len(table)

    return Records(files.shown(saved.path), "data.path", saved.content, kinds, False, read, classes)


def _batch(table: Any, name: str, wanted: Types, classes: dict[str, tuple[str, ...]]) -> Any:
    """Some rows with the columns wanted, each as the type given."""
    arrow = needed("pyarrow", "pyarrow", WHERE)
    columns = []
    for column, kind in wanted.items():
        if column not in table.column_names:
            columns.append(arrow.array([name] * len(table), arrow.string()))
            continue
        values = table.column(column).combine_chunks()
        if column in classes:
            values = arrow.DictionaryArray.from_arrays(_places(values, classes[column]), list(classes[column]))
        columns.append(_cast(values, column, kind))
    return arrow.RecordBatch.from_arrays(columns, list(wanted))


def _cast(values: Any, column: str, kind: Any) -> Any:
    arrow = needed("pyarrow", "pyarrow", WHERE)
    try:
        return values.cast(kind)
    except arrow.ArrowException:
        what = f"column {column!r} is {values.type}, where {kind} is wanted"
        raise UserError(what, "data", "name another column, or save the data set with another type") from None


def _places(numbers: Any, names: tuple[str, ...]) -> Any:
    """A ClassLabel's numbers; -1, and what has no name, is no class."""
    compute = needed("pyarrow.compute", "pyarrow", WHERE)
    good = compute.and_(compute.greater_equal(numbers, 0), compute.less(numbers, len(names)))
    return compute.if_else(good, numbers, None).cast("int32")


def _has_split(saved: Saved) -> bool:
    return saved.parts[0][0] != "" and SPLIT not in saved.features


def _shown(saved: Saved, name: str) -> str:
    return files.shown(f"{saved.path}/{name}") if name else files.shown(saved.path)


def _alike(path: str, parts: dict[str, Any]) -> None:
    first = next(iter(parts), None)
    if first is None:
        raise UserError(f"{files.shown(path)} holds no data set", "data.path", "save one that has rows")
    for name, part in parts.items():
        if part.features != parts[first].features:
            what = f"the data sets {first!r} and {name!r} of {files.shown(path)} have different columns"
            raise UserError(what, "data.path", "choose one with data.only")


def _whole(file: files.File) -> None:
    """Arrow takes a stream that ends between two batches for a whole one; its writer leaves a mark."""
    if file.path.suffix != ".arrow":
        return
    with files.opened(file.path) as f:
        f.seek(max(0, file.size - len(ENDED)), os.SEEK_SET)
        if f.read() != ENDED:
            raise UserError(f"{file.shown} is cut: its end mark is missing", "data.path", "save the data set anew")


@contextlib.contextmanager
def _in_words(path: str) -> Iterator[None]:
    """Turns what cannot be read into a user's mistake."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError) as e:
        reason = str(e).partition("\n")[0] or type(e).__name__
        what = f"{files.shown(path)} cannot be read as a Hugging Face data set: {reason}"
        raise UserError(what, "data.path", "give a folder that save_to_disk wrote, or save it anew") from None
