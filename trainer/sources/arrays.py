"""Arrays that numpy wrote, inputs and targets: a .npz file, or .npy files in a folder. Nothing pickled is read.

Inputs are mapped into memory, never copied whole: those of a .npz file are unpacked once per node, on its own disk.
"""

from __future__ import annotations

import difflib
import hashlib
import shutil
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from conf.bounds import Text, group
from trainer.data import beside, files, moments, splits
from trainer.data.splits import By, Split
from trainer.data.staged import staged
from trainer.failure import UserError
from trainer.sources import Card, Data, Preview, RowTask, Shape, data_of_parts, probed

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from trainer.data.records import Records
    from trainer.data.splits import Part

WAYS: tuple[By, ...] = ("stratified", "random", "end", "column", "time", "filter")
KEPT = ("validation", "test")
PIECE_BYTES = 1 << 26


@group
class Options:
    """Which arrays. Inputs of unsigned bytes become 0 to 1, all others stay the numbers that they are."""

    task: RowTask = "classification"
    """What is learned of a sample: a class, or (regression) a number."""
    path: Text
    """A .npz file, or a folder of .npy files."""
    inputs: Text = "x"
    """Name of the array of inputs: `x` of a .npz file's members, or the file x.npy."""
    targets: Text = "y"
    """Name of the array of classes, which are whole numbers from 0, or of the numbers of a regression; it may have one
    more dimension of one."""
    standardise_target: bool = True
    """The model of a regression learns its target with the mean of the training part taken away, and divided by its
    deviation. Losses, metrics and predictions are in the target's own units all the same. False is for a loss of your
    own that makes something else of the outputs (train.loss)."""
    validation: tuple[Text, Text] | None = None
    """Names of inputs and targets that are kept apart already; None parts by `split`."""
    test: tuple[Text, Text] | None = None
    """Likewise, of a final test."""
    form: Literal["numbers", "images"] = "numbers"
    """numbers: samples x features. images: samples x height x width, of one channel, or samples x channels x height x
    width."""
    channels_last: bool = False
    """Images are samples x height x width x channels, as TensorFlow has them."""
    split: Split = Split(fraction=0.1)
    """By column, time and filter: any array that lies beside, of one dimension, with a value for each sample."""


@dataclass(frozen=True)
class Named:
    """An array on this node, and what it is called."""

    path: Path
    shown: str

    def mapped(self) -> np.ndarray:
        """Its numbers, read when they are looked at."""
        try:
            return files.mapped(self.path, None)
        except (ValueError, EOFError) as e:
            what = f"{self.shown} cannot be read as an array: {e}"
            raise UserError(what, "data.path", "write it with numpy.save, as numbers and not as objects") from None


@dataclass(frozen=True)
class Rows:
    """Samples of a pair of arrays."""

    inputs: np.ndarray
    targets: np.ndarray
    chosen: np.ndarray
    """Which rows of the arrays."""
    channels_last: bool
    scaled: tuple[float, float] | None = None
    """Of a regression: what is taken from a target, and what it is divided by then."""

    def __len__(self) -> int:
        return len(self.chosen)

    def batch(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        import numpy as np
        import torch

        rows = self.chosen[indices]
        found = self.inputs[rows]
        numbers = found.astype(np.float32, copy=False)
        if found.dtype == np.uint8:
            numbers /= 255
        targets = self.targets[rows]
        learned = moments.scaled(targets, *self.scaled) if self.scaled else targets.astype(np.int64)
        return torch.from_numpy(self._formed(numbers)), torch.from_numpy(learned)

    def digest(self) -> str:
        """SHA-256 of the samples, or of some at equal distances where they are large."""
        import numpy as np

        learned = "" if self.scaled is None else f" standardised: {self.scaled != (0.0, 1.0)}"
        seen = hashlib.sha256(f"{len(self)} {self.inputs.dtype} {self.inputs.shape[1:]}{learned}".encode())
        count, each = len(self), self.inputs[:1].nbytes + self.targets[:1].nbytes
        wanted = self.chosen[np.asarray(probed(count, count * each), dtype=np.int64)]
        step = max(1, PIECE_BYTES // max(1, each))
        for begin in range(0, len(wanted), step):
            rows = wanted[begin : begin + step]
            seen.update(self.inputs[rows].tobytes())
            seen.update(self.targets[rows].tobytes())
        return seen.hexdigest()

    def _formed(self, numbers: np.ndarray) -> np.ndarray:
        import numpy as np

        if numbers.ndim == 3:
            return numbers[:, None]
        return (
            np.ascontiguousarray(np.moveaxis(numbers, -1, 1)) if numbers.ndim == 4 and self.channels_last else numbers
        )


def preview(options: Options) -> Preview:
    """Images or numbers."""
    wrong = splits.mistakes(options.split, splits.ways_of(options.task, WAYS))
    if splits.tests(options.split) and (options.validation or options.test):
        do = "leave the split's test out, and name the arrays of the test: data.test=[x_test,y_test]"
        wrong = (*wrong, ("parts of data are kept apart already, and the split keeps a test", "data.split", do))
    kept = options.validation is not None or splits.keeps(options.split, splits.own_way(options.task))
    return Preview(options.form, kept, wrong, task=options.task)


def load(options: Options) -> Data:
    """The samples in their parts.

    Raises UserError for arrays that are not there, do not fit each other, or hold no numbers or classes.
    """
    import numpy as np

    there = _there(options, _keys(options))
    pairs = _pairs(options, there)
    inputs, targets = pairs["train"]
    parts = _parts(options, targets, there)
    scaled = None
    if options.task == "regression":
        scaled = moments.of_target(targets, parts[0], options.standardise_target)
    rows = [Rows(inputs, targets, np.asarray(part), options.channels_last, scaled) for part in parts]
    kept = [pairs[name] for name in KEPT if name in pairs]
    apart = [Rows(*pair, np.arange(len(pair[1])), options.channels_last, scaled) for pair in kept]
    if options.validation:
        rows = [rows[0], *apart]
    elif options.test:
        rows = [*rows[:2], *apart]
    form = tuple(rows[0].batch(np.zeros(1, dtype=np.int64))[0].shape[1:])

    def card(part: Rows) -> Card:
        is_bytes = inputs.dtype.name == "uint8"
        return Card(
            name=Path(options.path).stem,
            digest=part.digest(),
            rows=len(part),
            features=f"{'x'.join(map(str, form))} {inputs.dtype.name}",
            source=options.path,
            offset=(0.0,) if is_bytes else (),
            scale=(255.0,) if is_bytes else (),
        )

    if scaled:
        return data_of_parts(Shape("regression", form, "float32", 1, *scaled), rows, card)
    classes = 1 + max(int(labels.max()) for _, labels in pairs.values() if len(labels))
    return data_of_parts(Shape("classification", form, "float32", classes), rows, card)


def _parts(options: Options, targets: np.ndarray, there: Mapping[str, Named]) -> tuple[Part, ...]:
    if options.validation:
        return (range(len(targets)),)
    aside = {name: there[name] for name in beside.names_of(options.split)}
    known = splits.Rows(len(targets), targets if options.task == "classification" else None)
    rows = beside.rows_of(options.split, known, partial(_records, options, aside, len(targets)))
    return splits.parts(options.split, rows, splits.own_way(options.task))


def _records(options: Options, aside: Mapping[str, Named], count: int) -> Records:
    """The arrays that the split goes by, as columns."""
    arrays = {name: named.mapped() for name, named in aside.items()}
    for name, array in arrays.items():
        if array.ndim == 1 and len(array) != count:
            what = f"{aside[name].shown} has {len(array)} values, and there are {count} samples"
            raise UserError(what, "data.split", "name an array of these samples, with a value for each")
    seen = [file for named in aside.values() for file in files.found(str(named.path), "")]
    return beside.of_arrays(files.shown(options.path), (list(aside), files.identity(seen)), arrays)


def _keys(options: Options) -> dict[str, str]:
    """Each array that is used, and the option that names it."""
    found = {} if options.validation else dict.fromkeys(beside.names_of(options.split), "data.split")
    found |= {name: f"data.{part}" for part in KEPT for name in getattr(options, part) or ()}
    return found | {options.targets: "data.targets", options.inputs: "data.inputs"}


def _pairs(options: Options, there: Mapping[str, Named]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Inputs and targets of what trains, and of each part that is kept apart already."""
    targets_of = _labels if options.task == "classification" else _numbers
    names = {"train": (options.inputs, options.targets), "validation": options.validation, "test": options.test}
    wanted = {part: pair for part, pair in names.items() if pair}
    pairs = {part: (there[x].mapped(), targets_of(there[y])) for part, (x, y) in wanted.items()}
    shape = pairs["train"][0].shape[1:]
    for part, (inputs, labels) in pairs.items():
        x, y = (there[name].shown for name in wanted[part])
        _must_be_inputs(inputs, x, shape, options.form)
        if len(inputs) != len(labels) or not len(labels):
            what = f"{x} has {len(inputs)} samples, and {y} has {len(labels)}"
            raise UserError(what, "data.targets", "name the targets of these inputs, one for each")
    return pairs


def _must_be_inputs(inputs: np.ndarray, shown: str, shape: tuple[int, ...], form: str) -> None:
    dimensions = (2,) if form == "numbers" else (3, 4)
    if inputs.dtype.kind not in "fiu" or inputs.ndim not in dimensions:
        what = f"{shown} has {inputs.ndim} dimension(s) of {inputs.dtype}, and data.form is {form!r}"
        do = "numbers are samples x features; images samples x height x width, or with channels: data.form=images"
        raise UserError(what, "data.inputs", do)
    if inputs.shape[1:] != shape:
        what = f"samples of {shown} are {list(inputs.shape[1:])}, and those that train {list(shape)}"
        raise UserError(what, "data.validation", "name arrays of samples of one shape")


def _labels(named: Named) -> np.ndarray:
    labels = _one_each(named)
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or (len(labels) and int(labels.min()) < 0):
        low = f", the lowest {labels.min()}" if labels.ndim == 1 and labels.dtype.kind in "iu" else ""
        what = f"{named.shown} has {labels.ndim} dimension(s) of {labels.dtype}{low}"
        do = "classes are one row of whole numbers from 0; numbers are predicted with data.task=regression"
        raise UserError(what, "data.targets", do)
    return labels


def _numbers(named: Named) -> np.ndarray:
    """The targets of a regression."""
    import numpy as np

    found = _one_each(named)
    if found.ndim != 1 or found.dtype.kind not in "fiu":
        what = f"{named.shown} has {found.ndim} dimension(s) of {found.dtype}"
        raise UserError(what, "data.targets", "a regression's targets are one row of numbers")
    with np.errstate(over="ignore"):
        bad = np.flatnonzero(~np.isfinite(found.astype(np.float32)))
    if len(bad):
        what = f"{named.shown} has {found[bad[0]]} at {bad[0]}, and float32 holds numbers of at most 3.4e38"
        raise UserError(what, "data.targets", "correct it, or leave the sample out")
    return found


def _one_each(named: Named) -> np.ndarray:
    found = named.mapped()
    return found[:, 0] if found.ndim == 2 and found.shape[1] == 1 else found


def _there(options: Options, keys: Mapping[str, str]) -> dict[str, Named]:
    """Each array as a .npy file on this node."""
    root, names = Path(options.path), sorted(keys)
    with files.readable(root):
        if root.is_dir():
            return {name: Named(_file_of(root, name, keys), files.shown(root / f"{name}.npy")) for name in names}
        (archive,) = files.found(options.path, "", (".npz",))
        content = ("arrays", files.identity([archive]), names)
        folder, _ = staged(content, partial(_unpacked, archive.path, keys))
    return {name: Named(folder / f"{number}.npy", f"{name} of {archive.shown}") for number, name in enumerate(names)}


def _file_of(folder: Path, name: str, keys: Mapping[str, str]) -> Path:
    path = folder / f"{name}.npy"
    if not path.is_file():
        raise _no_array(name, keys, files.shown(folder), sorted(p.stem for p in folder.glob("*.npy")))
    return path


def _unpacked(archive: Path, keys: Mapping[str, str], folder: Path) -> Mapping[str, Any]:
    """The members by their numbers: a name may be any text."""
    try:
        with zipfile.ZipFile(archive) as members:
            for number, name in enumerate(sorted(keys)):
                if f"{name}.npy" not in members.namelist():
                    known = [known.removesuffix(".npy") for known in members.namelist()]
                    raise _no_array(name, keys, files.shown(archive), known)
                with members.open(f"{name}.npy") as packed, (folder / f"{number}.npy").open("wb") as out:
                    shutil.copyfileobj(packed, out, PIECE_BYTES)
    except (zipfile.BadZipFile, zlib.error, EOFError) as e:
        what = f"{files.shown(archive)} cannot be read as .npz: {e}"
        raise UserError(what, "data.path", "write it with numpy.savez") from None
    return {}


def _no_array(name: str, keys: Mapping[str, str], where: str, known: list[str]) -> UserError:
    near = difflib.get_close_matches(name, known, n=1)
    do = f"did you mean {near[0]!r}?" if near else "name one that it has"
    return UserError(f"{where} has no array {name!r} (it has: {splits.few(known) or 'none'})", keys[name], do)
