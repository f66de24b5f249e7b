"""What is said of the images in a folder? By metadata.csv or .jsonl beside them, as Hugging Face's imagefolder has it.

https://huggingface.co/docs/datasets/image_dataset: a line for each image, whose `file_name` is its path below the
folder that the metadata lie in. An image that no line names has gaps, as null is, and so has one whose file lacks the
column; a line of no image is passed over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from trainer.data import columns, files
from trainer.data.files import File
from trainer.data.records import Chunk, Records, Types
from trainer.failure import UserError
from trainer.packages import needed

NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
KEY = "file_name"
WHERE = "data.split"


def metadata_of(root: Path, names: Sequence[str]) -> list[File]:
    """The metadata of the images with these names below a folder: in their folders, and in all above up to it."""
    folders = {parent for name in names for parent in PurePosixPath(name).parents}
    there = (root / folder / name for folder in sorted(folders) for name in NAMES)
    found = [files.found(str(path), "")[0] for path in there if path.is_file()]
    return [File(f.path, f.path.relative_to(root).as_posix(), f.size, f.changed_ns) for f in found]


def records_of(shown: str, names: Sequence[str], own: Mapping[str, Sequence[str]], metadata: Sequence[File]) -> Records:
    """What is known of each image, in the order of their names: what is said of it, and texts of our `own`.

    Raises UserError for metadata that do not say which image they are of.
    """
    arrow = needed("pyarrow", "pyarrow", WHERE)
    kinds: dict[str, Any] = {}
    typed = [(file, columns.types(file)) for file in metadata]
    for file, types in typed:
        if KEY not in types:
            do = "write each image's path below the folder of this file into it"
            raise UserError(f"{file.shown} has no column {KEY!r}", "data.path", do)
        kinds = {name: kind for name, kind in types.items() if name != KEY} | kinds

    def read(wanted: Types) -> Iterator[Chunk]:
        said = _said(names, typed, {name: kind for name, kind in wanted.items() if name not in own})
        texts = {name: arrow.array(own[name], arrow.string()) for name in wanted if name in own}
        batch = arrow.RecordBatch.from_arrays([texts.get(name, said.get(name)) for name in wanted], list(wanted))
        yield Chunk(batch, shown, 0, "data.path", partial(_named, names))

    guessed = any(file.path.suffix == ".csv" for file in metadata)
    types = kinds | dict.fromkeys(own, arrow.string())
    return Records(shown, "data.path", (list(names), files.identity(metadata)), types, guessed, read)


def _said(names: Sequence[str], metadata: Sequence[tuple[File, Types]], wanted: Types) -> dict[str, Any]:
    """Of each wanted column a value for each image, or a gap."""
    if not wanted:
        return {}
    arrow = needed("pyarrow", "pyarrow", WHERE)
    kinds = {KEY: arrow.string(), **wanted}
    rows, batches = dict[str, int](), []
    for file, there in metadata:
        folder = PurePosixPath(file.name).parent
        for batch in columns.batches(file, {name: kind for name, kind in kinds.items() if name in there}):
            for text in batch.column(KEY).to_pylist():
                name = (folder / (text or "")).as_posix()
                if name in rows:
                    what = f"{file.shown} names {files.shown(name)!r}, of which a line before says something already"
                    raise UserError(what, "data.path", "write one line for each image")
                rows[name] = len(rows)
            gaps = {name: arrow.nulls(len(batch), kind) for name, kind in kinds.items() if name not in there}
            own = [gaps[name] if name in gaps else batch.column(name) for name in kinds]
            batches.append(arrow.RecordBatch.from_arrays(own, list(kinds)))
    chosen = arrow.array([rows.get(name) for name in names], arrow.int64())
    table = arrow.Table.from_batches(batches, arrow.schema(list(kinds.items()))).combine_chunks().take(chosen)
    return {name: table.column(name).combine_chunks() for name in wanted}


def _named(names: Sequence[str], row: int) -> str:
    return f"image {files.shown(names[row])!r}"
