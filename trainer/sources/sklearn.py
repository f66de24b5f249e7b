"""The small data sets that scikit-learn carries along: nothing is downloaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from conf.bounds import group
from trainer.data import splits
from trainer.data.splits import By, Split
from trainer.packages import needed
from trainer.sources import Card, Data, Form, Preview, Shape, TensorSamples, data_of_parts

if TYPE_CHECKING:
    import numpy as np

    from trainer.data.listed import Listed
    from trainer.data.splits import Part

WAYS: tuple[By, ...] = ("stratified", "random", "end")


@group
class Options:
    """Which set, and how much of it is kept for validation."""

    set: Literal["digits", "wine", "breast_cancer", "iris"] = "digits"
    split: Split = Split(fraction=0.2)


def preview(options: Options) -> Preview:
    """Digits are images, the other sets columns."""
    form: Form = "images" if options.set == "digits" else "numbers"
    wrong = splits.mistakes(options.split, WAYS)
    return Preview(form, splits.keeps(options.split, "stratified"), wrong, rows=True)


def load(options: Options) -> Data:
    """The set in its parts. Images become 1 x height x width from 0 to 1, columns are standardised."""
    import numpy as np

    bunch = _bunch(options)
    chosen = _parts(bunch, options)
    if options.set == "digits":
        rows, columns, offset, scale = bunch.images[:, None], (), np.zeros(1), np.full(1, 16.0)
    else:
        training = bunch.data[np.asarray(chosen[0])]
        rows, columns, offset, scale = bunch.data, bunch.feature_names, training.mean(0), training.std(0)
    inputs = ((rows - offset) / scale).astype(np.float32)
    parts = [_samples(inputs[np.asarray(part)], bunch.target[np.asarray(part)]) for part in chosen]

    def card(samples: TensorSamples) -> Card:
        return Card(
            name=options.set,
            digest=samples.digest(),
            rows=len(samples),
            features=f"{'x'.join(str(n) for n in samples.inputs.shape[1:]).removeprefix('1x')} float32",
            source=f"sklearn.datasets.load_{options.set}",
            classes=tuple(str(name) for name in bunch.target_names),
            columns=tuple(columns),
            offset=tuple(offset.tolist()),
            scale=tuple(scale.tolist()),
        )

    shape = Shape("classification", inputs.shape[1:], "float32", int(bunch.target.max()) + 1)
    return data_of_parts(shape, parts, card)


def listed(options: Options) -> Listed:
    """Each sample's numbers as the set has them, and `target`, the name of its class."""
    import sklearn

    from trainer.data import listed

    bunch = _bunch(options)
    columns = {str(name): bunch.data[:, i] for i, name in enumerate(bunch.feature_names)}
    columns["target"] = bunch.target_names[bunch.target]
    content = ("sklearn", sklearn.__version__, options.set)
    return listed.of_columns(options.set, columns, lambda: _parts(bunch, options), content)


def _bunch(options: Options) -> Any:
    datasets = needed("sklearn.datasets", "scikit-learn", "data.kind: sklearn")
    return getattr(datasets, f"load_{options.set}")()


def _parts(bunch: Any, options: Options) -> tuple[Part, ...]:
    return splits.parts(options.split, splits.Rows(len(bunch.target), bunch.target), "stratified")


def _samples(inputs: np.ndarray, targets: np.ndarray) -> TensorSamples:
    import torch

    return TensorSamples(torch.from_numpy(inputs), torch.from_numpy(targets).long())
