"""Each file beside this one is a kind of optimizer: `Options`, and `build(options, model)`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The parameters that learn, in two groups: biases and scales (one dimension) are never decayed."""
    learning = [p for p in model.parameters() if p.requires_grad]
    parts = ([p for p in learning if p.ndim > 1], weight_decay), ([p for p in learning if p.ndim <= 1], 0.0)
    return [{"params": params, "weight_decay": decay} for params, decay in parts if params]
