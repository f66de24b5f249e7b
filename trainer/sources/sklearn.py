"""The small data sets that scikit-learn carries along: nothing is downloaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from conf.bounds import group
from trainer.data import carried, moments, splits
from trainer.data.splits import By, Split
from trainer.sources import Card, Data, Form, Preview, RowTask, Shape, TensorSamples, data_of_parts

if TYPE_CHECKING:
    import numpy as np

    from trainer.data.listed import Listed
    from trainer.data.splits import Part

WAYS: tuple[By, ...] = ("stratified", "random", "end")


@group
class Options:
    """Which set, and how much of it is kept for validation."""

    set: carried.Name = "digits"
    split: Split = Split(fraction=0.2)


def preview(options: Options) -> Preview:
    """Digits are images, the other sets columns; diabetes has no classes."""
    task = _task(options)
    form: Form = "images" if options.set == "digits" else "numbers"
    wrong = splits.mistakes(options.split, splits.ways_of(task, WAYS))
    return Preview(form, splits.keeps(options.split, splits.own_way(task)), wrong, export="rows", task=task)


def load(options: Options) -> Data:
    """The set in its parts. Images become 1 x height x width from 0 to 1, columns are standardised, and so is what a
    model learns of numbers to be predicted."""
    import numpy as np

    found = carried.read(options.set)
    chosen = _parts(found.target, options)
    columns: tuple[str, ...] = ()
    if options.set == "digits":
        rows, offset, scale = found.rows.reshape(-1, 1, *carried.IMAGE), np.zeros(1), np.full(1, 16.0)
    else:
        training = found.rows[np.asarray(chosen[0])]
        rows, columns, offset, scale = found.rows, found.columns, training.mean(0), training.std(0)
    inputs = ((rows - offset) / scale).astype(np.float32)
    shape, targets = _learned(found.target, chosen[0], inputs.shape[1:], _task(options))
    parts = [_samples(inputs[np.asarray(part)], targets[np.asarray(part)]) for part in chosen]

    def card(samples: TensorSamples) -> Card:
        return Card(
            name=options.set,
            digest=samples.digest(),
            rows=len(samples),
            features=f"{'x'.join(str(n) for n in samples.inputs.shape[1:]).removeprefix('1x')} float32",
            source=f"sklearn.datasets.load_{options.set}",
            classes=found.classes,
            columns=columns,
            offset=tuple(offset.tolist()),
            scale=tuple(scale.tolist()),
        )

    return data_of_parts(shape, parts, card)


def listed(options: Options) -> Listed:
    """Each sample's numbers as the set has them, and `target`: the name of its class, the digit, or the number."""
    import importlib.metadata

    import numpy as np

    from trainer.data import listed

    found = carried.read(options.set)
    columns = {name: found.rows[:, i] for i, name in enumerate(found.columns)}
    is_number = options.set == "digits" or not found.classes
    columns["target"] = found.target if is_number else np.array(found.classes)[found.target]
    content = ("sklearn", importlib.metadata.version("scikit-learn"), options.set)
    return listed.of_columns(options.set, columns, lambda: _parts(found.target, options), content)


def _parts(target: np.ndarray, options: Options) -> tuple[Part, ...]:
    task = _task(options)
    rows = splits.Rows(len(target), target if task == "classification" else None)
    return splits.parts(options.split, rows, splits.own_way(task))


def _task(options: Options) -> RowTask:
    return "regression" if options.set == "diabetes" else "classification"


def _learned(target: np.ndarray, train: Part, form: tuple[int, ...], task: RowTask) -> tuple[Shape, np.ndarray]:
    """What a model learns: int64 classes, or float32 numbers."""
    if task == "classification":
        return Shape(task, form, "float32", int(target.max()) + 1), target.astype("int64")
    shape = Shape(task, form, "float32", 1, *moments.of_target(target, train, wanted=True))
    return shape, moments.scaled(target, shape.target_offset, shape.target_scale)


def _samples(inputs: np.ndarray, targets: np.ndarray) -> TensorSamples:
    import torch

    return TensorSamples(torch.from_numpy(inputs), torch.from_numpy(targets))
