"""Files of tokens that somebody's tokenizer has made, cut into windows for predicting the next token.

The files are mapped into memory and never copied. Before the first start on a node they are read once, for their
digest and to see that every token is in the vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from conf.bounds import Count, Text, group
from trainer.data import files, splits
from trainer.data.files import File
from trainer.data.splits import By, Split
from trainer.data.staged import staged
from trainer.data.windows import Source, Tokens, data_of, mapped
from trainer.failure import UserError
from trainer.sources import Data, Preview

if TYPE_CHECKING:
    import numpy as np

WAYS: tuple[By, ...] = ("end", "random", "column")
COLUMNS = ("file",)
"""What a split by column can go by: a file's name below `path`."""
PIECE = 1 << 24
"""Tokens looked through at once."""


@group
class Options:
    """Which files, and how they are cut."""

    path: Text
    """Folder of the files, or one file."""
    glob: Text = "**/*"
    """Which files below the folder; of these, those that end in .bin or .npy."""
    dtype: Literal["uint8", "uint16", "uint32"] = "uint16"
    """Type of the tokens in .bin files, little-endian and nothing else. A .npy file says its own."""
    context_length: Count = 128
    """Tokens a sample shows; each token's target is the one that follows."""
    vocabulary: Count | None = None
    """Number of different tokens; None is the highest one that occurs, and one more."""
    split: Split = Split()


def preview(options: Options) -> Preview:
    """Rows of tokens."""
    wrong = splits.mistakes(options.split, WAYS, COLUMNS)
    return Preview("tokens", splits.keeps(options.split, "end"), wrong, task="next_token")


def load(options: Options) -> Data:
    """The windows of all files in their parts; none reaches over the end of a file.

    Raises UserError for files that hold anything but tokens of the vocabulary, or too few of them.
    """
    found = files.found(options.path, options.glob, (".bin", ".npy"))
    rows = [_row(file, options.dtype) for file in found]
    named = [(*known, row.dtype) for known, row in zip(files.identity(found), rows, strict=True)]
    _, seen = staged(("tokens", named), partial(_looked_through, list(zip(found, rows, strict=True))))
    vocabulary = options.vocabulary or seen["highest"] + 1
    if seen["highest"] >= vocabulary:
        file = found[seen["of"]]
        what = f"{file.shown} has token {seen['highest']}, but data.vocabulary is {vocabulary}"
        raise UserError(what, "data.vocabulary", f"use {seen['highest'] + 1} or more, or check data.dtype")
    source = Source(
        Path(options.path).name,
        seen["sha256"],
        "tokens",
        f"{options.path}/{options.glob}",
        tuple(file.name for file in found),
    )
    return data_of(rows, source, options.context_length, options.split, vocabulary)


def _row(file: File, dtype: str) -> Tokens:
    """How the tokens lie in a file. Reads no more than its head."""
    if file.path.suffix.lower() == ".npy":
        return _npy(file)
    wide = int(dtype.removeprefix("uint")) // 8
    if file.size % wide:
        what = f"{file.shown} has {file.size} bytes, which is no whole number of tokens of {wide} bytes"
        raise UserError(what, f"data.dtype: {dtype}", "check data.dtype, and that the file was written to its end")
    return Tokens(file.path, file.changed_ns, f"<u{wide}", file.size // wide)


def _npy(file: File) -> Tokens:
    try:
        array = files.mapped(file.path, None)
    except ValueError as e:
        raise UserError(f"{file.shown} cannot be read as .npy: {e}", "data.path", "write it with numpy.save") from None
    if array.ndim != 1 or array.dtype.kind not in "iu":
        what = f"{file.shown} has {array.ndim} dimension(s) of {array.dtype}"
        raise UserError(what, "data.path", "tokens are one row of whole numbers")
    return Tokens(file.path, file.changed_ns, array.dtype.str, len(array), npy=True)


def _looked_through(rows: Sequence[tuple[File, Tokens]], folder: Path) -> Mapping[str, object]:
    """Digest of all tokens, the highest of them, and the number of the file that has it. Writes nothing."""
    digest, highest, of = hashlib.sha256(), -1, 0
    for number, (file, row) in enumerate(rows):
        digest.update(f"{row.dtype} {row.count} ".encode())
        for piece in _pieces(row):
            if int(piece.min()) < 0:
                what = f"{file.shown} has token {int(piece.min())}, and tokens are 0 or more"
                raise UserError(what, "data.path", "write the files anew")
            if int(piece.max()) > highest:
                highest, of = int(piece.max()), number
            digest.update(piece.tobytes())
    return {"sha256": digest.hexdigest(), "highest": highest, "of": of}


def _pieces(row: Tokens) -> Iterator[np.ndarray]:
    for begin in range(0, row.count, PIECE):
        yield mapped(row)[begin : begin + PIECE]
