"""What is learned, and how good is an output? For each task its loss and its metrics, as the loop asks for them.

All is per sample, so that any weighting of samples is exact. Classes and next tokens are scored here, by cross-entropy:
outputs: (batch, classes) or (batch, positions, classes)    targets: the same without classes, int64
Numbers are regression.py's, a loss of the user's own is own_loss.py's. torch is imported late: the login node reads the
names of the metrics here, and has none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainer.failure import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from trainer.sources import Shape, TaskName

CLASSES = ("train/loss", "val/loss", "val/accuracy")
METRICS: Mapping[TaskName, tuple[str, ...]] = {
    "classification": CLASSES,
    "next_token": CLASSES,
    "regression": ("train/loss", "val/loss", "val/mae", "val/rmse", "val/r2"),
}
"""What an objective may name; those of `val/` only where something is kept for validation."""
BESIDE = (
    "train/lr",
    "train/samples_per_s",
    "train/data_wait",
    "train/grad_norm",
    "train/tokens_per_s",
    "train/mfu",
    "train/memory_gb",
    "train/slowest_rank",
    "train/rank_spread",
)
"""Reported as well, and good for a search's constraints: tokens where a sample has several, mfu and
memory of cards, the last two of several ranks."""


@dataclass(frozen=True)
class Task:
    """What a run learns by, and what it reports of that."""

    total: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    """Of outputs, targets and weights: the sum of the samples' losses, each times its weight; without weights in as few
    operations as it takes."""
    losses: Callable[[Tensor, Tensor], Tensor]
    """Of outputs and targets: the loss of each sample in fp32, (batch,)."""
    sums: Callable[[Tensor, Tensor], Tensor]
    """Numbers of each sample, (numbers, batch): out of their sums the metrics are made."""
    metrics: Callable[[Sequence[float], float], dict[str, float]]
    """The metrics beside the loss, of those sums over so many samples."""
    given: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    """Outputs and targets as a loss of the user's own gets them: in fp32, and in the target's own units."""
    exported: Callable[[nn.Module], nn.Module] = lambda model: model
    """A trained model as those who use it want it."""
    unit: float = 1.0
    """A loss times this is what is reported."""

    def rows(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Of each sample its loss, 1, and its `sums`: what `measured` wants the weighted sums of."""
        import torch

        losses = self.losses(outputs, targets)
        return torch.cat([torch.stack([losses, torch.ones_like(losses)]), self.sums(outputs, targets)])

    def measured(self, part: str, totals: Sequence[float]) -> dict[str, float]:
        """Metrics of a part of the data (val, test), of its rows summed over all its samples."""
        loss, samples, *sums = totals
        found = {"loss": loss / samples * self.unit, **self.metrics(sums, samples)}
        return {f"{part}/{name}": value for name, value in found.items()}


def task_of(shape: Shape) -> Task:
    """The task that data are for, with its ordinary loss."""
    if shape.task == "regression":
        from trainer import regression

        return regression.task(shape.target_offset, shape.target_scale)
    return CLASSIFICATION


def total(outputs: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Sum of the samples' losses, as Task.total."""
    if weights is not None:
        return (losses(outputs, targets) * weights).sum()
    summed = _cross_entropy(outputs, targets, "sum")
    return summed if targets.ndim == 1 else summed * (len(targets) / targets.numel())


def losses(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each sample in nats, in fp32; the mean over its positions if it has several."""
    return _cross_entropy(outputs, targets, "none").view(len(targets), -1).mean(1)


def hits(outputs: Tensor, targets: Tensor) -> Tensor:
    """For each sample, the fraction of its positions where the best class is the right one.

    Raises UserError where outputs are no scores of classes.
    """
    if outputs.shape[:-1] != targets.shape or outputs.shape[-1] < 2:  # of one score the best is always the first
        what = f"the model gives {tuple(outputs.shape)} for targets of {tuple(targets.shape)}"
        raise UserError(what, "model", f"give a score for each class: {(*targets.shape, 'classes')}")
    return (outputs.argmax(-1) == targets).view(len(targets), -1).float().mean(1)


def _cross_entropy(outputs: Tensor, targets: Tensor, reduction: str) -> Tensor:
    from torch.nn import functional

    return functional.cross_entropy(outputs.float().flatten(0, -2), targets.flatten(), reduction=reduction)


CLASSIFICATION = Task(
    total=total,
    losses=losses,
    sums=lambda outputs, targets: hits(outputs, targets)[None],
    metrics=lambda sums, samples: {"accuracy": sums[0] / samples} if sums else {},
    given=lambda outputs, targets: (outputs.float(), targets),
)
