"""Hugging Face data sets that somebody saved with `save_to_disk`: images, columns of numbers, texts or tokens.

They are mapped into memory and never copied but for the columns of numbers and tokens, once per node. Nothing is
ever fetched from the hub.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from conf.bounds import Count, Text, group
from trainer.data import files, pixels, splits, tabular, windows
from trainer.data.pixels import Look, Pictures
from trainer.data.records import known
from trainer.data.splits import By, Finding
from trainer.data.staged import staged
from trainer.data.tabular import Columns
from trainer.failure import UserError
from trainer.sources import Card, Data, Preview, Shape, data_of_parts, probed

if TYPE_CHECKING:
    import numpy as np

    from trainer.data.listed import Listed
    from trainer.data.matrix import Matrix
    from trainer.data.saved import Saved

WAYS: tuple[By, ...] = ("stratified", "random", "end", "column", "time", "filter")
TOKEN_WAYS: tuple[By, ...] = ("end", "random", "column")
TOKEN_COLUMNS = ("split",)
APART: tuple[By, ...] = ("column", "time", "filter")
"""Ways that may look at a DatasetDict's own data sets; the others would mix its test data into training."""


@group
class Options(Columns, Look):
    """Which data set, what its samples are, and which columns."""

    path: Text
    """The folder that save_to_disk wrote."""
    only: Text | None = None
    """Of a DatasetDict: the one data set to use. None: all; the column `split` then has their names."""
    form: Literal["images", "numbers", "tokens"] = "images"
    """images: one column of images. numbers: columns of numbers. tokens: one column of texts, whose bytes are read,
    or of lists of whole numbers that a tokenizer made."""
    target: Text = "label"
    """Column of the class, or of the number. Tokens have none."""
    context_length: Count = 128
    """Tokens a sample shows; each token's target is the one that follows."""
    vocabulary: Count | None = None
    """Number of different tokens; None is 256 of texts, else the highest one that occurs, and one more."""


def preview(options: Options) -> Preview:
    """What the options say."""
    wrong = _of_columns(options)
    if options.form == "tokens":
        wrong += splits.mistakes(options.split, TOKEN_WAYS, TOKEN_COLUMNS)
        return Preview("tokens", splits.keeps(options.split, "end"), wrong, task="next_token")
    table = tabular.preview_of(options, WAYS)
    wrong = (*wrong, *table.mistakes, *pixels.mistakes(options))
    rows: Literal["rows"] | None = "rows" if options.form == "numbers" else None
    return Preview(options.form, table.validation, wrong, rows, options.task)


def _of_columns(options: Options) -> tuple[Finding, ...]:
    if options.form != "numbers" and options.task == "regression":
        what = f"data.task is regression, but data.form is {options.form}, of which no numbers are predicted"
        return ((what, "data.task", "set data.form=numbers, or data.task=classification"),)
    if options.form != "numbers" and options.features is not None and len(options.features) != 1:
        what = f"data.features names {len(options.features)} columns, but data.form is {options.form}"
        return ((what, "data.features", f"name the one column of {options.form}"),)
    return ()


def load(options: Options) -> Data:
    """The rows in their parts.

    Raises UserError for a folder that holds no data set, a column that there is not, or one of the wrong type.
    """
    from trainer.data import saved

    for what, key, do in _of_columns(options):
        raise UserError(what, key, do)
    found = _opened(options)
    if options.form == "tokens":
        return _tokens(found, options)
    if options.form == "images":
        return _images(found, options)
    return tabular.data_of(saved.records_of(found), options, Path(options.path).name, options.path)


def listed(options: Options) -> Listed:
    """The rows of columns of numbers and what stands beside them. Raises UserError as `load`, and of another form."""
    from trainer.data import listed, saved

    if options.form != "numbers":
        what = f"data.form is {options.form!r}, and of these data sets numbers alone can be exported"
        raise UserError(what, "data.form", "choose form: numbers, or let the program read the data set itself")
    return listed.of_table(saved.records_of(_opened(options)), options)


def _opened(options: Options) -> Saved:
    from trainer.data import saved

    found = saved.opened(options.path, options.only)
    if len(found.parts) > 1 and options.split.by not in APART:
        names = [name for name, _ in found.parts]
        what = f"{files.shown(options.path)} has the data sets {splits.few(names)}, which data.split would mix"
        by = "{by: column, column: split, train: [...], validation: [...]}"
        do = f"choose one with data.only, or write 'data.split={by}'"
        raise UserError(what, "data.split", do)
    return found


def _contents(images: Any, rows: np.ndarray) -> Iterator[tuple[bytes, Callable[[], str]]]:
    """The files of some images, as they were saved."""
    (name,) = images.column_names
    for row, value in zip(rows, images[rows.tolist()][name].to_pylist(), strict=True):
        content = value.get("bytes") if isinstance(value, dict) else value
        if content is None:
            what = f"row {row} of the data set has no image in column {name!r}"
            raise UserError(what, "data.path", "leave the row out, and save images with their content")
        yield content, partial("row {} of the data set".format, row)


def _images(found: Saved, options: Options) -> Data:
    from trainer.data import saved

    records = saved.records_of(found)
    column = _the_one(found, options, "images")
    matrix, chosen = tabular.parted(records, options, tabular.wanted_of(records, options, ()))
    images = found.whole(column)
    _, seen = staged(("images", found.content, column, matrix.digest), partial(_looked_through, found, images, matrix))
    parts = [Pictures(partial(_contents, images), matrix.targets, part, options) for part in chosen]

    def card(part: Pictures) -> Card:
        return Card(
            name=Path(options.path).name,
            digest=splits.digest_of(f"{seen['sha256']} {options.how}", part.part),
            rows=len(part),
            features="x".join(map(str, options.shape)) + " float32",
            source=options.path,
            classes=matrix.labels,
            offset=options.mean,
            scale=options.std,
        )

    shape = Shape("classification", options.shape, "float32", len(matrix.labels))
    return pixels.augmented(data_of_parts(shape, parts, card))


def _the_one(found: Saved, options: Options, form: str) -> str:
    """The column of images, or of texts or tokens: the one named, or the only one there is."""
    from trainer.data.saved import records_of

    if options.features is not None:
        name = known(records_of(found), options.features[0], "data.features")
        if not _is_of(found.features[name], form):
            what = f"column {name!r} of {files.shown(options.path)} is {found.features[name]}, which holds no {form}"
            raise UserError(what, "data.features", "name another column, or another data.form")
        return name
    there = [name for name, feature in found.features.items() if _is_of(feature, form)]
    if len(there) != 1:
        what = f"{files.shown(options.path)} has {len(there)} columns of {form}"
        do = f"name one with data.features; the columns are {splits.few(list(found.features))}"
        raise UserError(what, "data.features", do)
    return there[0]


def _is_of(feature: Any, form: str) -> bool:
    if form == "images":
        return type(feature).__name__ == "Image" or getattr(feature, "dtype", "") in ("binary", "large_binary")
    return getattr(feature, "dtype", "") in ("string", "large_string") or _is_list(feature)


def _is_list(feature: Any) -> bool:
    return str(getattr(getattr(feature, "feature", None), "dtype", "")).startswith(("int", "uint"))


def _looked_through(found: Saved, images: Any, matrix: Matrix, folder: Path) -> Mapping[str, str]:
    """Digest of the images and their classes. Writes nothing."""
    import numpy as np

    seen = hashlib.sha256(f"{matrix.digest} {len(images)}".encode())
    for row in probed(len(images), found.size_bytes):
        ((content, _),) = _contents(images, np.array([row]))
        seen.update(hashlib.sha256(content).digest())
    return {"sha256": seen.hexdigest()}


def _tokens(found: Saved, options: Options) -> Data:
    """The rows of each data set, one after the other, cut into windows."""
    column = _the_one(found, options, "texts or tokens")
    feature = found.features[column]
    dtype = "<u4" if _is_list(feature) else "uint8"
    parts = [
        windows.gathered(("saved", found.content, name, column), dtype, partial(_pieces, part, column))
        for name, part in found.parts
    ]
    highest = max(part.highest for part in parts)
    vocabulary = options.vocabulary or (highest + 1 if _is_list(feature) else 256)
    if highest >= vocabulary:
        what = f"column {column!r} has token {highest}, but data.vocabulary is {vocabulary}"
        raise UserError(what, "data.vocabulary", f"use {highest + 1} or more")
    digest = hashlib.sha256(" ".join(part.digest for part in parts).encode()).hexdigest()
    names = tuple(name for name, _ in found.parts)
    unit = "tokens" if _is_list(feature) else "bytes"
    source = windows.Source(Path(options.path).name, digest, unit, options.path, names)
    return windows.data_of(
        [part.row for part in parts], source, options.context_length, options.split, max(1, vocabulary)
    )


def _pieces(part: Any, column: str) -> Iterator[np.ndarray]:
    """Tokens as they are; the bytes of each text, and a line break after it."""
    import numpy as np

    from trainer.data.saved import AT_ONCE

    first = 0
    for table in part.select_columns([column]).with_format("arrow").iter(AT_ONCE):
        values = table.column(column).combine_chunks()
        if values.null_count:
            row = first + int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0])
            raise UserError(f"row {row} has no value in column {column!r}", "data.features", "leave the row out")
        if hasattr(values, "flatten"):
            tokens = values.flatten().to_numpy(zero_copy_only=False)
            if len(tokens) and tokens.min() < 0:
                what = f"column {column!r} has token {int(tokens.min())}, and tokens are 0 or more"
                raise UserError(what, "data.features", "save the data set anew")
            yield tokens
        else:
            yield np.frombuffer("".join(f"{text}\n" for text in values.to_pylist()).encode(), dtype=np.uint8)
        first += len(table)
