"""The small data sets that scikit-learn carries along: nothing is downloaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from conf.bounds import group
from trainer.data import carried, splits
from trainer.data.splits import By, Split
from trainer.sources import Card, Data, Form, Preview, Shape, TensorSamples, data_of_parts

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
    """Digits are images, the other sets columns."""
    form: Form = "images" if options.set == "digits" else "numbers"
    wrong = splits.mistakes(options.split, WAYS)
    return Preview(form, splits.keeps(options.split, "stratified"), wrong, export="rows")


def load(options: Options) -> Data:
    """The set in its parts. Images become 1 x height x width from 0 to 1, columns are standardised."""
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
    parts = [_samples(inputs[np.asarray(part)], found.target[np.asarray(part)]) for part in chosen]

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

    shape = Shape("classification", inputs.shape[1:], "float32", int(found.target.max()) + 1)
    return data_of_parts(shape, parts, card)


def listed(options: Options) -> Listed:
    """Each sample's numbers as the set has them, and `target`, the name of its class, or the digit."""
    import importlib.metadata

    import numpy as np

    from trainer.data import listed

    found = carried.read(options.set)
    columns = {name: found.rows[:, i] for i, name in enumerate(found.columns)}
    columns["target"] = found.target if options.set == "digits" else np.array(found.classes)[found.target]
    content = ("sklearn", importlib.metadata.version("scikit-learn"), options.set)
    return listed.of_columns(options.set, columns, lambda: _parts(found.target, options), content)


def _parts(target: np.ndarray, options: Options) -> tuple[Part, ...]:
    return splits.parts(options.split, splits.Rows(len(target), target), "stratified")


def _samples(inputs: np.ndarray, targets: np.ndarray) -> TensorSamples:
    import torch

    return TensorSamples(torch.from_numpy(inputs), torch.from_numpy(targets).long())
