"""How do the rows of a table become data? Columns of numbers that a model sees, and a column of targets.

For every source of tables: files, a query, a Hugging Face data set. Only the columns that are used are read: once per
node and content, into a matrix of float32 that is mapped into memory and that all ranks share.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from conf.bounds import Text, group
from trainer.data import filters, moments, splits
from trainer.data.records import is_number, known
from trainer.data.splits import By, Rows, Split
from trainer.data.staged import staged
from trainer.failure import UserError
from trainer.sources import Card, Data, Preview, RowTask, Shape, data_of_parts

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np
    from torch import Tensor

    from trainer.data.matrix import Matrix, Wanted
    from trainer.data.records import Records
    from trainer.data.splits import Part


@group
class Columns:
    """Which columns, and what becomes of gaps: options of every source of tables."""

    task: RowTask = "classification"
    """What is learned of a row: a class, or (regression) a number."""
    target: Text
    """Column of the class, text or whole numbers; or of the number."""
    features: tuple[Text, ...] | None = None
    """Columns a model sees, in this order. None: every other column of numbers that there is (in a text file, by the
    first megabyte of the first one)."""
    missing: Literal["refuse", "mean", "zero"] = "refuse"
    """A feature without a value is an error, the column's mean over the training part, or 0."""
    standardise: bool = False
    """Take each feature's mean away and divide by its standard deviation, both of the training part."""
    standardise_target: bool = True
    """The model of a regression learns its target so. Losses, metrics and predictions are in the target's own units all
    the same. False is for a loss of your own that makes something else of the outputs (train.loss)."""
    split: Split = Split()


def preview_of(options: Columns, ways: tuple[By, ...]) -> Preview:
    """Columns of numbers."""
    own = splits.own_way(options.task)
    wrong = splits.mistakes(options.split, splits.ways_of(options.task, ways))
    by = splits.way(options.split, own)
    used = [*(options.features or ()), options.target]
    for name in sorted({name for name in used if used.count(name) > 1}):
        wrong += (
            (f"data names column {name!r} twice", "data.features", "name each column once, and the target apart"),
        )
    if by in ("column", "time") and options.split.column in used:
        what = f"data.split.column is {options.split.column!r}, which is the target or a feature"
        wrong += ((what, "data.split.column", "split by another column"),)
    return Preview("numbers", splits.keeps(options.split, own), wrong, export="rows", task=options.task)


@dataclass(frozen=True)
class Prepared:
    """What becomes of the numbers: a gap is filled, then offset and scale."""

    fill: np.ndarray
    offset: np.ndarray
    scale: np.ndarray


@dataclass(frozen=True)
class Table:
    """Some rows of a matrix."""

    matrix: Matrix
    part: Part
    prepared: Prepared
    shape: Shape

    def __len__(self) -> int:
        return len(self.part)

    def batch(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        import torch

        rows = splits.picked(self.part, indices)
        inputs = moments.filled(self.matrix.features[rows], self.prepared.fill)
        inputs = ((inputs - self.prepared.offset) / self.prepared.scale).astype("float32")
        targets = self.matrix.targets[rows]
        if self.shape.task == "regression":
            targets = moments.scaled(targets, self.shape.target_offset, self.shape.target_scale)
            return torch.from_numpy(inputs), torch.from_numpy(targets)
        return torch.from_numpy(inputs), torch.from_numpy(targets).long()


def data_of(records: Records, options: Columns, name: str, source: str) -> Data:
    """The rows in their parts; `name` and `source` are what the cards call them.

    Raises UserError for what is wrong with the rows, saying where.
    """
    wanted = wanted_of(records, options, options.features)
    if not wanted.features:
        what = f"{records.shown} has no column of numbers beside {options.target!r}"
        raise UserError(what, "data.features", f"there is: {splits.few(list(records.types))}")
    matrix, chosen = parted(records, options, wanted)
    prepared = _prepared(matrix, chosen[0], options, wanted.features)
    shape = _shape(matrix, chosen[0], options)

    def card(part: Table) -> Card:
        how = f"{matrix.digest} {options.missing} {options.standardise}"
        how += f" {options.standardise_target}" if options.task == "regression" else ""
        return Card(
            name=name,
            digest=splits.digest_of(how, part.part),
            rows=len(part),
            features=f"{len(wanted.features)} float32",
            source=source,
            classes=matrix.labels,
            columns=wanted.features,
            offset=tuple(prepared.offset.tolist()) if options.standardise else (),
            scale=tuple(prepared.scale.tolist()) if options.standardise else (),
            fill=tuple(prepared.fill.tolist()) if options.missing != "refuse" else (),
        )

    return data_of_parts(shape, [Table(matrix, part, prepared, shape) for part in chosen], card)


def _shape(matrix: Matrix, train: Part, options: Columns) -> Shape:
    form = (matrix.features.shape[1],)
    if options.task == "classification":
        return Shape("classification", form, "float32", len(matrix.labels))
    return Shape(
        "regression", form, "float32", 1, *moments.of_target(matrix.targets, train, options.standardise_target)
    )


def parted(records: Records, options: Columns, wanted: Wanted) -> tuple[Matrix, tuple[Part, ...]]:
    """The wanted columns, and which rows are in which part: the same rows whichever features are wanted."""
    from trainer.data.matrix import matrix_of

    matrix = matrix_of(records, wanted)
    sides = filters.sides_of(records, options.split)
    classes = matrix.targets if options.task == "classification" else None
    rows = Rows(len(matrix.targets), classes, matrix.values, matrix.moments, sides)
    return matrix, splits.parts(options.split, rows, splits.own_way(options.task))


def wanted_of(records: Records, options: Columns, features: tuple[str, ...] | None) -> Wanted:
    """The columns, all there; of features None stands for all that are left."""
    from trainer.data.matrix import Wanted

    by = splits.way(options.split, splits.own_way(options.task))
    known(records, options.target, "data.target")
    if options.task == "regression" and not _holds_numbers(records, options.target):
        what = f"column {options.target!r} of {records.shown} is {records.types[options.target]}, and"
        do = "name a column of numbers, or set data.task=classification"
        raise UserError(f"{what} data.task is regression, which is of numbers", "data.target", do)
    aside = options.split.column if by in ("column", "time") else None
    if aside is not None:
        known(records, aside, "data.split.column")
    if features is None:
        filtered = filters.columns_of(options.split)
        others = {n: kind for n, kind in records.types.items() if n not in {options.target, aside, *filtered}}
        features = tuple(name for name, kind in others.items() if is_number(kind))
    for name in features:
        known(records, name, "data.features")
        if not (records.guessed or _holds_numbers(records, name)):
            what = f"column {name!r} of {records.shown} is {records.types[name]}, and features are numbers"
            raise UserError(what, "data.features", "name columns of numbers")
    return Wanted(
        target=options.target,
        features=features,
        numbers=options.task == "regression",
        values=aside if by == "column" else None,
        moments=aside if by == "time" else None,
        gaps=options.missing != "refuse",
    )


def _holds_numbers(records: Records, name: str) -> bool:
    """By its type; a column without a value may be of any."""
    return is_number(records.types[name]) or str(records.types[name]) == "null"


def _prepared(matrix: Matrix, train: Part, options: Columns, names: tuple[str, ...]) -> Prepared:
    """Means and deviations of the training part, taken once per node and content where they are needed."""
    import numpy as np

    width = len(names)
    fill, offset, scale = np.zeros(width), np.zeros(width), np.ones(width)
    if options.missing == "mean" or options.standardise:
        content = ("moments", splits.digest_of(matrix.digest, train), options.missing)
        _, seen = staged(content, partial(_moments, matrix, train, options.missing))
        if None in seen["mean"]:
            what = f"column {names[seen['mean'].index(None)]!r} has no value in the training part, so it has no mean"
            raise UserError(what, "data.missing: mean", "leave the column out, or choose missing: zero")
        if options.missing == "mean":
            fill = np.array(seen["mean"])
        if options.standardise:
            offset, scale = np.array(seen["mean"]), np.array(seen["deviation"])
    return Prepared(fill, offset, scale)


def _moments(matrix: Matrix, train: Part, missing: str, folder: Path) -> Mapping[str, Any]:
    """Mean and standard deviation of each feature, None where it has none. Writes nothing."""
    mean, deviation = moments.of_columns(matrix.features, train, missing)
    return {"mean": _plain(mean), "deviation": _plain(deviation)}


def _plain(numbers: np.ndarray) -> list[float | None]:
    return [None if number != number else number for number in numbers.tolist()]
