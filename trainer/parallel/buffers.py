"""What of a model is not learned but counted, such as running means? Rank 0's counts for all, as torch's DDP has it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch.distributed as dist
from torch import nn

if TYPE_CHECKING:
    from trainer.checkpoints.state import Tensors

PARCEL_BYTES = 250 * 2**20


def without(model: nn.Module, tensors: Tensors) -> Tensors:
    """A state's tensors but the buffers: for ranks other than the first, whose own count for nothing."""
    names = {f"model.{name}" for name, _ in model.named_buffers()}
    return {name: tensor for name, tensor in tensors.items() if name not in names}


def share(model: nn.Module, world: int) -> None:
    """Make every rank's buffers rank 0's."""
    found = [buffer for buffer in model.buffers() if buffer.numel()]
    if world > 1 and found:
        everybody: Any = dist.group.WORLD
        dist._broadcast_coalesced(everybody, found, PARCEL_BYTES, 0)  # type: ignore[attr-defined]
