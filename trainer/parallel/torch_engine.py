"""What do torch's own ways of sharing a model have in common? Loss scaling, clipping, the optimizer's step, the state.

How gradients cross ranks is the model's that is called: engines/ddp.py wraps it, engines/fsdp.py cuts it in pieces.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from trainer.engines import Place
from trainer.parallel import buffers, hyperparameters

if TYPE_CHECKING:
    from trainer.checkpoints.state import State, Tensors
    from trainer.engines import Read


class Memory(Protocol):
    """What the exchange of gradients remembers from step to step."""

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """This rank's tensors, and what is no tensor."""
        ...

    def restore(self, read: Read, rest: Mapping[str, Any] | None) -> None:
        """Go on from a state; None is one without such a memory."""
        ...


Exchange = Callable[[bool], contextlib.AbstractContextManager[object]]
"""Stands around a micro-batch, and is told whether it is the last of its step."""
NARROW = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp8": torch.bfloat16}
"""What a precision computes in; fp8 concerns some products alone (fp8.py)."""


class TorchEngine:
    """An Engine (see engines/) over a model whose `backward` leaves gradients that are averaged over ranks."""

    def __init__(
        self,
        place: Place,
        module: nn.Module,
        called: Callable[[Tensor], Tensor],
        optimizer: torch.optim.Optimizer,
        exchange: Exchange,
    ) -> None:
        self.module, self.optimizer = module, optimizer
        self.memory: Memory | None = None
        self.waits_in_forward = False
        self.micro_batch = exchange
        self._place, self._called = place, called
        self._given = hyperparameters.of(optimizer)
        self._rates = [parameters["lr"] for parameters in optimizer.param_groups]
        self._learning = [one for parameters in optimizer.param_groups for one in parameters["params"]]
        # Does nothing unless enabled: only fp16 has too small a range for gradients.
        self._scaler = torch.amp.GradScaler(place.device.type, enabled=place.precision == "fp16")

    def forward(self, inputs: Tensor) -> Tensor:
        return self._called(inputs)

    def predict(self, inputs: Tensor) -> Tensor:
        with torch.no_grad():
            return self._called(inputs)

    def backward(self, loss: Tensor, weight: float = 1.0) -> None:
        # Gradients are averaged over ranks, and the sum is wanted. The weight goes in from behind: a product would be
        # one more operation forth and back.
        self._scaler.scale(loss).backward(torch.full_like(loss, weight * self._place.rank.world))

    def step(self, lr_factor: float, clip_norm: float | None, norm_wanted: bool = False) -> Tensor | None:
        norm: Any = None
        for parameters, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            parameters["lr"] = rate * lr_factor
        if clip_norm is not None:
            self._scaler.unscale_(self.optimizer)
            norm = torch.nn.utils.clip_grad_norm_(self.module.parameters(), clip_norm)
        elif norm_wanted:  # of the scaled gradients: what they are must not depend on a look at them
            grads = [parameter.grad for parameter in self._learning if parameter.grad is not None]
            norm = torch.nn.utils.get_total_norm(grads) / self._scaler.get_scale()
        self._scaler.step(self.optimizer)
        self._scaler.update()
        for parameter in self._learning:  # zero_grad does the same in 20 microseconds more
            parameter.grad = None
        return norm.full_tensor() if hasattr(norm, "full_tensor") else norm

    def learning_rate(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    def state(self) -> State:
        from trainer.checkpoints import state

        found = state.of(self.module, self.optimizer)
        tensors = found.tensors if self._place.rank.first else buffers.without(self.module, found.tensors)
        rest = {**found.rest, "loss_scale": self._loss_scale(), "given": self._given}
        if self.memory is not None:
            remembered, rest["memory"] = self.memory.state()
            tensors = {**tensors, **remembered}
        return state.State(tensors, rest)

    def restore(self, read: Read, rest: dict[str, Any]) -> None:
        from trainer.checkpoints import state

        tensors = state.of(self.module, self.optimizer).tensors
        read(tensors)
        state.put(self.module, self.optimizer, state.State(tensors, rest))
        hyperparameters.renew(self.optimizer, rest.get("given"), self._given)
        if self.memory is not None:
            self.memory.restore(read, rest.get("memory"))
        if rest["loss_scale"] and self._scaler.is_enabled():
            own = self._scaler.state_dict()
            scale, good = rest["loss_scale"]["scale"], rest["loss_scale"]["good_steps"]
            self._scaler.load_state_dict({**own, "scale": scale, "_growth_tracker": good})

    def weights(self) -> Tensors:
        from trainer.checkpoints import state

        return state.weights(self.module)

    def _loss_scale(self) -> dict[str, float] | None:
        if not self._scaler.is_enabled():
            return None
        own = self._scaler.state_dict()
        return {"scale": own["scale"], "good_steps": own["_growth_tracker"]}
