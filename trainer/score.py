"""How good is an output? Loss and accuracy per sample, so that any weighting of samples is exact.

outputs: (batch, classes) or (batch, positions, classes)    targets: the same without classes, int64
torch is imported late: the login node reads the names of the metrics here, and has none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

METRICS = ("train/loss", "val/loss", "val/accuracy")
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


def total(outputs: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Sum of the samples' losses, each times its weight; without weights in as few operations as it takes."""
    if weights is not None:
        return (losses(outputs, targets) * weights).sum()
    summed = _cross_entropy(outputs, targets, "sum")
    return summed if targets.ndim == 1 else summed * (len(targets) / targets.numel())


def losses(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each sample in nats, in fp32; the mean over its positions if it has several."""
    return _cross_entropy(outputs, targets, "none").view(len(targets), -1).mean(1)


def hits(outputs: Tensor, targets: Tensor) -> Tensor:
    """For each sample, the fraction of its positions where the best class is the right one."""
    return (outputs.argmax(-1) == targets).view(len(targets), -1).float().mean(1)


def _cross_entropy(outputs: Tensor, targets: Tensor, reduction: str) -> Tensor:
    from torch.nn import functional

    return functional.cross_entropy(outputs.float().flatten(0, -2), targets.flatten(), reduction=reduction)
