"""What must an engine do? It owns model and optimizer, and knows how gradients and state cross ranks.

Each file beside this one is a kind of engine: `Options`, and
`start(options, place, model, optimizer_of) -> Engine`. The loop knows nothing else of it, so an engine may
wrap the model (ddp), cut it in pieces before the optimizer is built (fsdp), or hand both to a library (deepspeed).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from trainer.failure import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from trainer.checkpoints.state import State, Tensors
    from trainer.rank import Rank

    Read = Callable[[Tensors], None]


@dataclass(frozen=True)
class Place:
    """Where an engine computes, and how exactly."""

    rank: Rank
    device: torch.device
    precision: str


def must_compute(engine: str, place: Place, *more: str) -> None:
    """Raises UserError for a precision other than those of all engines and of this one, and for a device without it."""
    has = ("fp32", "bf16", "fp16", *more)
    if place.precision not in has:
        what = f"engine {engine} cannot compute in {place.precision}"
        raise UserError(what, "train.precision", f"choose {', '.join(has[:-1])} or {has[-1]}")
    if place.precision == "fp8":
        from trainer.parallel import fp8

        fp8.must_be_there(place.device)


class Engine(Protocol):
    """Every method is called by all ranks in the same order."""

    module: nn.Module
    """The model whose train() and eval() count."""
    waits_in_forward: bool
    """Whether a rank may wait for the others in `forward`: where they exchange weights or running statistics."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Outputs in the run's precision, with what `backward` will need."""
        ...

    def predict(self, inputs: Tensor) -> Tensor:
        """Outputs in the run's precision, without gradients."""
        ...

    def micro_batch(self, last: bool) -> AbstractContextManager[object]:
        """Stands around forward and backward; ranks exchange gradients in the `last` of a step alone."""
        ...

    def backward(self, loss: Tensor, weight: float = 1.0) -> None:
        """Add the gradient of the *sum over ranks* of `loss * weight`, so that the caller weights samples as it
        likes."""
        ...

    def step(self, lr_factor: float, clip_norm: float | None, norm_wanted: bool = False) -> Tensor | None:
        """Change the weights and forget the gradients. Returns their norm before clipping, where it is wanted or they
        are clipped; the weights do not depend on whether it is wanted."""
        ...

    def learning_rate(self) -> float:
        """Of the step just made."""
        ...

    def state(self) -> State:
        """What a checkpoint keeps. Its tensors are the engine's own: they change with the next step."""
        ...

    def restore(self, read: Read, rest: dict[str, Any]) -> None:
        """Go on from a state that any engine wrote. `read` fills tensors with what stands under their names."""
        ...

    def weights(self) -> dict[str, Tensor]:
        """The whole model on the CPU, by torch's names; on rank 0, others may get nothing."""
        ...
