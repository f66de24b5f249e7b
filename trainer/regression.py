"""How good is a prediction of numbers? A regression's loss and metrics, and what becomes of the target's units.

outputs, targets: (batch,) or (batch, ...), with as many numbers for each sample
A model learns targets as the source gives them: with an offset taken away, and divided by a scale (Shape.target_scale).
What is reported and exported, and what a loss of the user's own sees, is in the target's own units. Metrics are as
scikit-learn's: https://scikit-learn.org/stable/modules/model_evaluation.html#regression-metrics
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.failure import UserError
from trainer.score import Task

CONSTANT = 1e-12
"""Targets whose squares' sum has no larger share of variance do not vary: there is no R² of them."""


def task(offset: float, scale: float) -> Task:
    """A regression of targets that are (number - offset) / scale: by the mean squared error."""
    is_own = (offset, scale) == (0.0, 1.0)
    return Task(
        total=total,
        losses=losses,
        sums=sums,
        metrics=partial(metrics, scale),
        given=_as_they_are if is_own else partial(_in_own_units, offset, scale),
        exported=(lambda model: model) if is_own else partial(InOwnUnits, offset=offset, scale=scale),
        unit=scale**2,
    )


class InOwnUnits(nn.Module):
    """A model whose outputs are the target's numbers. Offset and scale are no weights: nothing narrows them."""

    def __init__(self, model: nn.Module, offset: float, scale: float) -> None:
        super().__init__()
        self.model, self.offset, self.scale = model, offset, scale

    def forward(self, inputs: Tensor) -> Tensor:
        return self.model(inputs).float() * self.scale + self.offset


def total(outputs: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Sum of the samples' losses, as Task.total."""
    if weights is not None:
        return (losses(outputs, targets) * weights).sum()
    summed = functional.mse_loss(fitted(outputs, targets), targets, reduction="sum")
    return summed if targets.ndim == 1 else summed * (len(targets) / targets.numel())


def losses(outputs: Tensor, targets: Tensor) -> Tensor:
    """Squared error of each sample in fp32; the mean over its numbers if it has several."""
    return (fitted(outputs, targets) - targets).square().view(len(targets), -1).mean(1)


def fitted(outputs: Tensor, targets: Tensor) -> Tensor:
    """The outputs in fp32 and in the shape of the targets: (batch, 1) and (batch,) would be subtracted each from each.

    Raises UserError where they are not as many.
    """
    if outputs.shape != targets.shape:
        if not _are_one_each(outputs, targets):
            what = f"the model gives {tuple(outputs.shape)} for targets of {tuple(targets.shape)}"
            raise UserError(what, "model", "give as many numbers for each sample as its target has")
        outputs = outputs.reshape(targets.shape)
    return outputs.float()


def sums(outputs: Tensor, targets: Tensor) -> Tensor:
    """Of each sample the absolute error, and of each of its numbers the squared error, the target and its square. In
    fp64: what is left of the squares when the mean is taken away may be small."""
    given = targets.view(len(targets), -1).double()
    errors = fitted(outputs, targets).view(len(targets), -1).double() - given
    return torch.cat([errors.abs().mean(1)[None], errors.T.square(), given.T, given.T.square()])


def metrics(scale: float, summed: Sequence[float], samples: float) -> dict[str, float]:
    """MAE and RMSE in the target's own units, over all its numbers, and the mean of their R²: not a number where one
    does not vary. Nothing where nothing was summed."""
    if not summed:
        return {}
    absolute, *rest = summed
    count = len(rest) // 3
    squared, first, second = (rest[i * count : (i + 1) * count] for i in range(3))
    found = [_r2(*each, samples) for each in zip(squared, first, second, strict=True)]
    mse = math.fsum(squared) / count / samples
    return {"mae": absolute / samples * scale, "rmse": math.sqrt(mse) * scale, "r2": math.fsum(found) / count}


def _r2(squared: float, first: float, second: float, samples: float) -> float:
    varies = second - first * first / samples
    return 1 - squared / varies if varies > second * CONSTANT else math.nan


def _as_they_are(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs that are as many as the targets have the same shape; others may mean more, such as a variance."""
    return (fitted(outputs, targets) if _are_one_each(outputs, targets) else outputs.float()), targets


def _are_one_each(outputs: Tensor, targets: Tensor) -> bool:
    """Whether they have the same shape but for dimensions of one."""
    same = [n for n in outputs.shape[1:] if n > 1] == [n for n in targets.shape[1:] if n > 1]
    return same and outputs.shape[:1] == targets.shape[:1]


def _in_own_units(offset: float, scale: float, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    try:
        outputs = fitted(outputs, targets)
    except UserError as e:
        do = "set data.standardise_target=false: then the model's outputs are what you make of them"
        raise UserError(f"{e.what}, so they cannot be turned into the target's units", "train.loss", do) from None
    return outputs * scale + offset, targets * scale + offset
