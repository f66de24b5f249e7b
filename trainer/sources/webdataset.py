"""Tar shards as webdataset writes them: the files of a sample lie side by side under one name (a.jpg, a.cls).

Shards are read at random, not as a stream: where each sample lies is found once per node. So the order is that of
every other source, and a run goes on exactly on another number of ranks. Shards must be plain, uncompressed .tar.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from conf.bounds import Count, Text, group
from trainer.data import beside, files, pixels, splits, windows
from trainer.data.pixels import Look, Pictures
from trainer.data.records import Chunk, Records, Types
from trainer.data.splits import By, Finding, Split
from trainer.failure import UserError
from trainer.packages import needed
from trainer.sources import Card, Data, Form, Preview, Shape, data_of_parts

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from trainer.data.files import File
    from trainer.data.shards import Index
    from trainer.data.splits import Part

WAYS: tuple[By, ...] = ("stratified", "random", "end", "column", "time", "filter")
TEXT_WAYS: tuple[By, ...] = ("end", "random")
OWN: Mapping[str, Callable[[str], str]] = {"shard": str, "folder": lambda name: name.partition("/")[0]}
"""What a split can go by beside the fields of a .json: a shard's name below `path`, or its first folder, as in
path/train/0001.tar. A field of such a name is not seen."""
IMAGES, ARRAYS, TEXTS = ("jpg", "jpeg", "png", "webp"), ("npy",), ("txt",)
TARGETS = ("cls", "txt", "json")
PICKLES = ("pyd", "pickle", "pkl", "pth", "pt")


@group
class Options(Look):
    """Which shards, and which parts of a sample."""

    path: Text
    """Folder of the shards, or one of them."""
    glob: Text = "**/*.tar"
    input: tuple[Text, ...] = ("jpg", "jpeg", "png", "webp")
    """Extensions of the input, of which each sample has one: images (.jpg, .jpeg, .png, .webp), arrays of numbers
    (.npy), or texts (.txt), whose bytes a language model reads. `left.png` is the extension of a.left.png."""
    target: Text = "cls"
    """Extension of the class, which is the whole text of a .cls or .txt, or a field of a .json. Texts have none."""
    field: Text | None = None
    """Of a .json target: the name of the class in it."""
    context_length: Count = 128
    """Of texts: bytes a sample shows; each byte's target is the one that follows."""
    split: Split = Split()
    """By column, time and filter: `shard`, `folder`, and the fields of the .json that each sample then has."""


def preview(options: Options) -> Preview:
    """Images or bytes; what arrays are, only they say."""
    form = _form(options)
    ways = TEXT_WAYS if form == "tokens" else WAYS
    wrong = (*_of_parts(options), *splits.mistakes(options.split, ways), *pixels.mistakes(options))
    return Preview(form, splits.keeps(options.split, ways[0]), wrong)


def _form(options: Options) -> Form | None:
    known = {_kind(name) for name in options.input}
    return "tokens" if known == set(TEXTS) else None if known == set(ARRAYS) else "images"


def _kind(extension: str) -> str:
    return extension.lower().rpartition(".")[2]


def _of_parts(options: Options) -> tuple[Finding, ...]:
    """What is wrong with the parts that are named."""
    named = {"input": [_kind(name) for name in options.input], "target": [_kind(options.target)]}
    for key, kinds in named.items():
        if pickled := [kind for kind in kinds if kind in PICKLES]:
            what = f"data.{key} names .{pickled[0]}, a pickled object, which can run any code when it is read"
            return ((what, f"data.{key}", "write the shards with .npy, .json, .txt or images"),)
    if not any(named["input"] and set(named["input"]) <= set(group) for group in (IMAGES, ARRAYS, TEXTS)):
        what = f"data.input is {list(options.input)}, which is not all images, all arrays or all texts"
        do = f"name extensions that end in one of: {', '.join(IMAGES)}; or in npy; or in txt"
        return ((what, "data.input", do),)
    if named["target"][0] not in TARGETS:
        what = f"data.target is {options.target!r}, which is no part that holds a class"
        return ((what, "data.target", f"name an extension that ends in one of: {', '.join(TARGETS)}"),)
    if (named["target"][0] == "json") != (options.field is not None):
        what = f"data.target is {options.target!r} and data.field is {options.field!r}"
        return ((what, "data.field", "name the class's field of a .json, and only of a .json"),)
    return ()


@dataclass(frozen=True)
class Arrays:
    """Some arrays of the shards, all of one shape, with their classes."""

    read: Callable[[np.ndarray], Iterable[tuple[bytes, Callable[[], str]]]]
    classes: np.ndarray
    part: Part
    shape: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.part)

    def batch(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        import numpy as np
        import torch

        rows = splits.picked(self.part, indices)
        arrays = []
        for content, shown in self.read(rows):
            arrays.append(_array(content, shown))
            if arrays[-1].shape != self.shape:
                what = f"{shown()} has the shape {arrays[-1].shape}, but the first array has {self.shape}"
                raise UserError(what, "data.input", "write arrays of one shape")
        return torch.from_numpy(np.stack(arrays)), torch.from_numpy(self.classes[rows]).long()


def load(options: Options) -> Data:
    """The samples of all shards in their parts.

    Raises UserError with all that is wrong with the shards.
    """
    from trainer.data import shards

    for what, key, do in _of_parts(options):
        raise UserError(what, key, do)
    found = files.found(options.path, options.glob, (".tar",))
    inputs = tuple(name.lower() for name in options.input)
    if _form(options) == "tokens":
        return _texts(options, found, shards.index_of(found, shards.Wanted(inputs, None)))
    aside = tuple(name for name in beside.names_of(options.split) if name not in OWN)
    index = shards.index_of(found, shards.Wanted(inputs, options.target.lower(), options.field, aside))
    known = splits.Rows(len(index.classes), index.classes)
    rows = beside.rows_of(options.split, known, partial(_records, options.path, found, index))
    chosen = splits.parts(options.split, rows, "stratified")
    read = partial(_contents, found, index)
    shape = options.shape if _form(options) == "images" else _array(*next(read([0]))).shape

    def samples(part: Part) -> Pictures | Arrays:
        if _form(options) == "images":
            return Pictures(read, index.classes, part, options)
        return Arrays(read, index.classes, part, shape)

    def card(part: Pictures | Arrays) -> Card:
        return Card(
            name=Path(options.path).name,
            digest=splits.digest_of(f"{index.digest} {options.how}", part.part),
            rows=len(part),
            features="x".join(map(str, shape)) + " float32",
            source=f"{options.path}/{options.glob}",
            classes=index.labels,
            offset=options.mean,
            scale=options.std,
        )

    whole = Shape("classification", shape, "float32", len(index.labels))
    return pixels.augmented(data_of_parts(whole, list(map(samples, chosen)), card))


def _records(path: str, found: Sequence[File], index: Index) -> Records:
    """What stands beside the samples, shard by shard."""
    import numpy as np

    arrow = needed("pyarrow", "pyarrow", beside.WHERE)
    numbers, offsets = index.places[:, 0], index.places[:, 1]
    ends = np.searchsorted(numbers, np.arange(len(found) + 1)).tolist()

    def read(wanted: Types) -> Iterator[Chunk]:
        fields = index.fields.read({name: kind for name, kind in wanted.items() if name not in OWN})
        for file, begin, end in zip(found, ends, ends[1:], strict=False):
            shown = file.name.encode(errors="replace").decode()
            own = {name: arrow.repeat(of(shown), end - begin) for name, of in OWN.items()}
            columns = [own[name] if name in OWN else fields[name][begin:end] for name in wanted]
            batch = arrow.RecordBatch.from_arrays(columns, list(wanted))
            yield Chunk(batch, file.shown, begin, "data.path", partial(_sample, file, offsets[begin:end]))

    types = index.fields.types() | dict.fromkeys(OWN, arrow.string())
    return Records(files.shown(path), "data.path", (files.identity(found), index.digest), types, False, read)


def _sample(shard: File, offsets: np.ndarray, row: int) -> str:
    from trainer.data import shards

    return f"sample {shards.key_at(shard, int(offsets[row]))!r}"


def _texts(options: Options, found: Sequence[File], index: Index) -> Data:
    """All texts, one after the other, cut into windows."""
    made = windows.gathered(index.digest, "uint8", partial(_bytes, found, index))
    source = windows.Source(Path(options.path).name, made.digest, "bytes", f"{options.path}/{options.glob}")
    return windows.data_of([made.row], source, options.context_length, options.split, 256)


def _bytes(found: Sequence[File], index: Index) -> Iterator[np.ndarray]:
    import numpy as np

    for content, _ in _contents(found, index, range(len(index.places))):
        yield np.frombuffer(content, dtype=np.uint8)


def _contents(found: Sequence[File], index: Index, rows: Iterable[int]) -> Iterator[tuple[bytes, Callable[[], str]]]:
    """Each sample's input, and what tells its name: finding that reads headers, so only a message does."""
    from trainer.data import shards

    for row in rows:
        number, offset, size = index.places[row].tolist()
        yield shards.read(found[number], offset, size), partial(_shown, found[number], offset)


def _shown(shard: File, offset: int) -> str:
    from trainer.data import shards

    return f"{shard.shown}: {files.shown(shards.name_at(shard, offset))}"


def _array(content: bytes, shown: Callable[[], str]) -> np.ndarray:
    """A .npy as float32; never with pickled objects."""
    import numpy as np

    try:
        array = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
        if array.dtype.kind not in "biuf":
            raise ValueError(f"it has no numbers but {array.dtype}")
    except (ValueError, EOFError, OSError) as e:
        raise UserError(f"{shown()} cannot be read as .npy: {e}", "data.input", "write it with numpy.save") from None
    return array.astype(np.float32)
