"""Rows of tokens in files that are mapped into memory, cut into windows of one length: samples of a language model.

A window lies within one file. Neighbours share one token, as a target and as an input. What comes in many pieces
(texts, rows of a table) is gathered into one file first, once per node and content.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.data import files
from trainer.data.splits import Labels, Rows, Split, digest_of, parts, picked
from trainer.data.staged import staged
from trainer.failure import UserError
from trainer.sources import Card, Data, Shape, data_of_parts

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from trainer.data.splits import Part

GATHERED = "tokens.bin"
OPEN_FILES = 512
"""Most maps at once in a process; Linux allows 65,530 (vm.max_map_count), and torch needs some."""


@dataclass(frozen=True)
class Tokens:
    """One file's row of tokens. It is mapped when a window of it is read, so it costs nothing to send to a worker."""

    path: Path
    changed_ns: int
    dtype: str
    count: int
    npy: bool = False
    """Whether the file says its own type (.npy); otherwise it is the bare tokens."""


@dataclass(frozen=True)
class Windows:
    """Some windows of the files."""

    files: tuple[Tokens, ...]
    ends: np.ndarray
    """Windows in all files up to and including each."""
    length: int
    part: Part

    def __len__(self) -> int:
        return len(self.part)

    def batch(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        import numpy as np
        import torch

        windows = picked(self.part, indices)
        which = np.searchsorted(self.ends, windows, side="right")
        rows = np.empty((len(windows), self.length + 1), dtype=np.int64)
        for number in np.unique(which):
            here = which == number
            first = self.ends[number - 1] if number else 0
            begins = (windows[here] - first) * self.length
            rows[here] = mapped(self.files[number])[begins[:, None] + np.arange(self.length + 1)]
        both = torch.from_numpy(rows)
        return both[:, :-1].contiguous(), both[:, 1:].contiguous()  # else each step copies them, more than once

    @property
    def sample_bytes(self) -> int:
        """Of the inputs of one window, and of its targets."""
        return 8 * self.length


@dataclass(frozen=True)
class Source:
    """Where rows of tokens come from, and how the cards name them."""

    name: str
    digest: str
    """Of the content of all files, in order."""
    unit: str
    """`bytes` or `tokens`."""
    place: str
    names: tuple[str, ...] = ()
    """Of the files, for a split by file."""


@dataclass(frozen=True)
class Gathered:
    """One row of tokens made of many pieces, and what was seen on the way."""

    row: Tokens
    digest: str
    highest: int
    """The highest token; -1 where there is none."""


def gathered(content: Any, dtype: str, pieces: Callable[[], Iterable[np.ndarray]]) -> Gathered:
    """All pieces, one after the other, in one file. `content` names them, as for `staged`."""
    folder, made = staged((GATHERED, dtype, content), partial(_gather, dtype, pieces))
    store = folder / GATHERED
    row = Tokens(store, store.stat().st_mtime_ns, dtype, made["count"])
    return Gathered(row, made["sha256"], made["highest"])


def _gather(dtype: str, pieces: Callable[[], Iterable[np.ndarray]], folder: Path) -> Mapping[str, Any]:
    digest, count, highest = hashlib.sha256(), 0, -1
    with (folder / GATHERED).open("wb") as out:
        for piece in pieces():
            data = piece.astype(dtype, copy=False).tobytes()
            digest.update(data)
            out.write(data)
            count += len(piece)
            highest = max(highest, int(piece.max(initial=0)) if len(piece) else -1)
    return {"sha256": digest.hexdigest(), "count": count, "highest": highest}


def data_of(rows: Sequence[Tokens], source: Source, length: int, split: Split, vocabulary: int) -> Data:
    """The windows of all files in their parts.

    Raises UserError when they are too few for one window in each part.
    """
    import numpy as np

    counts = [max(0, (row.count - 1) // length) for row in rows]
    ends = np.cumsum(counts, dtype=np.int64)
    total, given = int(ends[-1]), sum(row.count for row in rows)
    if total < 2 and not (total == 1 and split.fraction == 0):
        raise UserError(
            f"{given} {source.unit} make {total} windows of {length}, too few for training and validation",
            f"data: {files.shown(source.place)}",
            "choose more files or a smaller context_length",
        )
    column = None
    if split.by == "column":
        column = Labels(np.repeat(np.arange(len(rows), dtype=np.int32), counts), source.names)
    chosen = parts(split, Rows(total, column=column), "end")

    def card(part: Windows) -> Card:
        digest = digest_of(f"{source.digest} {length}", part.part)
        return Card(source.name, digest, len(part), f"{length} {source.unit}", source.place)

    shape = Shape("next_token", (length,), "int64", vocabulary)
    return data_of_parts(shape, [Windows(tuple(rows), ends, length, part) for part in chosen], card)


@functools.lru_cache(OPEN_FILES)
def mapped(tokens: Tokens) -> np.ndarray:
    """A file's tokens."""
    return files.mapped(tokens.path, None if tokens.npy else tokens.dtype, tokens.count)
