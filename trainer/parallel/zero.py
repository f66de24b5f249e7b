"""How does a model in DeepSpeed's hands train, and how does its state leave and come back, a parameter at a time?

What DeepSpeed is told stands in engines/deepspeed.py.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from deepspeed import zero
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
)
from torch import Tensor, nn

from trainer.engines import Place
from trainer.parallel import buffers
from trainer.parallel.torch_engine import NARROW

if TYPE_CHECKING:
    from trainer.checkpoints.state import State, Tensors
    from trainer.engines import Read

FLAT = ("fp32_partitioned_groups_flat", "single_partition_of_fp32_groups", "fp32_groups_flat_partition")
"""What DeepSpeed's optimizers call the flat pieces of which this rank keeps the master copy."""
READ_ELEMENTS = 2**26
"""So much of a state is read at once: 256 MB."""


class ZeroEngine:
    """An Engine (see engines/) around a DeepSpeedEngine."""

    waits_in_forward = True

    def __init__(self, place: Place, engine: Any, groups: Sequence[Mapping[str, Any]]) -> None:
        self.module: nn.Module = engine.module
        self._place, self._engine = place, engine
        self._zero = engine.optimizer
        """DeepSpeed's optimizer, around torch's."""
        self._rates = [parameters["lr"] for parameters in self._zero.param_groups]
        self._groups = groups

    def forward(self, inputs: Tensor) -> Tensor:
        buffers.share(self.module, self._place.rank.world)
        dtype = NARROW.get(self._place.precision)
        outputs: Tensor = self._engine(inputs.to(dtype) if dtype and inputs.is_floating_point() else inputs)
        return outputs

    def predict(self, inputs: Tensor) -> Tensor:
        with torch.no_grad():
            return self.forward(inputs)

    @contextlib.contextmanager
    def micro_batch(self, last: bool) -> Iterator[None]:
        self._engine.set_gradient_accumulation_boundary(last)
        yield

    def backward(self, loss: Tensor, weight: float = 1.0) -> None:
        # Gradients are averaged over ranks, and the sum is wanted.
        self._engine.backward(loss * (weight * self._place.rank.world), scale_wrt_gas=False)

    def step(self, lr_factor: float, clip_norm: float | None, norm_wanted: bool = False) -> Tensor | None:
        for parameters, rate in zip(self._zero.param_groups, self._rates, strict=True):
            parameters["lr"] = rate * lr_factor
        self._zero.clip_grad = clip_norm or 0.0
        self._engine.step()
        norm = self._engine.get_global_grad_norm()  # which DeepSpeed computes at every step
        wanted = norm_wanted or clip_norm is not None
        return torch.as_tensor(norm) if wanted and norm is not None else None

    def learning_rate(self) -> float:
        return float(self._zero.param_groups[0]["lr"])

    def state(self) -> State:
        from trainer.checkpoints.state import State

        self._link()
        tensors: Tensors = {}
        rank = self._place.rank
        for number, (name, parameter) in enumerate(self.module.named_parameters()):
            whole = self._whole(name, parameter)  # by all ranks together; each keeps its share
            if number % rank.world == rank.number:
                tensors |= whole
        if rank.first:
            tensors |= {f"model.{name}": buffer for name, buffer in self.module.named_buffers()}
        return State(tensors, {"param_groups": self._groups, "others": {}, "loss_scale": self._loss_scale()})

    def restore(self, read: Read, rest: dict[str, Any]) -> None:
        self._make_slots()
        for names in _parcels(self.module):
            parameters = {name: self.module.get_parameter(name) for name in names}
            wanted: Tensors = {}
            for name, parameter in parameters.items():
                wanted |= {key: torch.zeros_like(value) for key, value in self._whole(name, parameter).items()}
            read(wanted)
            for name, parameter in parameters.items():
                self._put(name, parameter, wanted)
        read({f"model.{name}": buffer for name, buffer in self.module.named_buffers()})
        self._scale_loss(rest["loss_scale"])

    def weights(self) -> Tensors:
        found: Tensors = {}
        for name, parameter in self.module.named_parameters():
            weight = self._weight(parameter)
            if self._place.rank.first:
                found[name] = weight
        return {**found, **{name: buffer.detach().cpu() for name, buffer in self.module.named_buffers()}}

    def _weight(self, parameter: nn.Parameter) -> Tensor:
        """A whole parameter on the CPU, in full precision where there is a master copy."""
        if parameter.requires_grad:
            return safe_get_full_fp32_param(parameter).detach().cpu()
        with zero.GatheredParameters([parameter]):
            return parameter.detach().cpu().clone()

    def _whole(self, name: str, parameter: nn.Parameter) -> Tensors:
        """All tensors of a parameter by their names in a state."""
        found = {f"model.{name}": self._weight(parameter)}
        if parameter.requires_grad:
            for slot, value in self._slots().items():
                kept = safe_get_full_optimizer_state(parameter, slot) if value.ndim else value
                found[f"optimizer.{name}.{slot}"] = kept.detach().cpu().clone()
        return found

    def _put(self, name: str, parameter: nn.Parameter, tensors: Tensors) -> None:
        weight = tensors[f"model.{name}"]
        with zero.GatheredParameters([parameter], modifier_rank=0):
            parameter.data.copy_(weight)
        if not parameter.requires_grad:
            return
        safe_set_full_fp32_param(parameter, weight.to(self._place.device))
        for slot, value in self._slots().items():
            kept = tensors[f"optimizer.{name}.{slot}"]
            if value.ndim:
                safe_set_full_optimizer_state(parameter, kept.to(self._place.device), slot)
            else:
                for slots in self._zero.optimizer.state.values():
                    slots[slot].copy_(kept)

    def _slots(self) -> dict[str, Tensor]:
        """What torch's optimizer keeps of a flat piece: values for each element, and a count of steps."""
        first: dict[str, Any] = next(iter(self._zero.optimizer.state.values()), {})
        return {name: value for name, value in first.items() if isinstance(value, Tensor)}

    def _make_slots(self) -> None:
        """Before the first step torch's optimizer keeps nothing: make it, by a step that changes nothing."""
        inner = self._zero.optimizer
        flat = next(getattr(self._zero, name) for name in FLAT if hasattr(self._zero, name))
        grads = [piece.grad for piece in flat]  # made by DeepSpeed at the start where state is on the host
        for piece in flat:
            piece.grad = torch.zeros_like(piece)
        groups = inner.param_groups
        inner.param_groups = [{**groups[0], "params": list(flat), "lr": 0.0}]
        inner.step()
        inner.param_groups = groups
        for piece, grad in zip(flat, grads, strict=True):
            piece.grad = grad
        self._link()

    def _link(self) -> None:
        """Stages 1 and 2 find a parameter's slots by links that DeepSpeed makes when the first of torch's parameter
        groups has stepped, and for that one alone (0.19): make them for all."""
        if hasattr(self._zero, "_lazy_init_hp_params_optimizer_state"):
            self._zero._hp_optimizer_states_linked = False
            self._zero._lazy_init_hp_params_optimizer_state()

    def _loss_scale(self) -> dict[str, float] | None:
        if self._place.precision != "fp16":
            return None
        scaler = self._zero.loss_scaler
        good = scaler.cur_iter - scaler.last_overflow_iter - 1
        return {"scale": scaler.cur_scale, "good_steps": good, "hysteresis": scaler.cur_hysteresis}

    def _scale_loss(self, kept: dict[str, float] | None) -> None:
        if kept and self._place.precision == "fp16":
            scaler = self._zero.loss_scaler
            scaler.cur_scale, scaler.cur_iter, scaler.last_overflow_iter = kept["scale"], kept["good_steps"], -1
            scaler.cur_hysteresis = kept.get("hysteresis", scaler.cur_hysteresis)


def _parcels(model: nn.Module) -> Iterator[list[str]]:
    """Names of parameters, so many at a time as may be read at once."""
    names, elements = list[str](), 0
    for name, parameter in model.named_parameters():
        names.append(name)
        elements += getattr(parameter, "ds_numel", parameter.numel())
        if elements > READ_ELEMENTS:
            yield names
            names, elements = [], 0
    if names:
        yield names
