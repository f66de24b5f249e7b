"""What does PowerSGD remember from step to step, and how does that outlive a restart?

Gradients travel as two thin factors; what that leaves out is added to the next step's gradients on the rank that left
it out, and the factors of one step are the first guess of the next (Vogels et al. 2019, arXiv:1905.13727). torch keeps
both by bucket (https://docs.pytorch.org/docs/stable/ddp_comm_hooks.html#powersgd-communication-hook), and which
parameters share a bucket changes after a process's first step. Here they are known by parameter:

    powersgd.error.<rank>.<name>     of the parameter's shape, each rank's own
    powersgd.factor.<name>           the right factor, the same on all ranks
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook

if TYPE_CHECKING:
    from trainer.checkpoints.state import Tensors
    from trainer.engines import Read
    from trainer.rank import Rank

PLAIN_STEPS = 10
"""The first steps of a run send gradients as they are: they are rough, and torch needs two."""
WORTH = 2
"""A matrix is sent as factors where these are smaller by this much."""
SETTLED = 3
"""Steps of a process after which parameters stay in their buckets."""
EPSILON = 1e-8
"""Keeps a gradient that is zero from becoming NaN."""

log = logging.getLogger(__name__)


class PowerSGD:
    """A communication hook of DDP's, with a memory that can be saved."""

    def __init__(self, model: nn.Module, rank: Rank, width: int) -> None:
        self._names = {id(parameter): name for name, parameter in model.named_parameters()}
        self._parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._rank, self._width = rank, width
        self._torch = powerSGD_hook.PowerSGDState(
            process_group=None,
            matrix_approximation_rank=width,
            start_powerSGD_iter=PLAIN_STEPS,
            min_compression_rate=WORTH,
            orthogonalization_epsilon=EPSILON,
        )
        self._buckets: dict[int, list[str]] = {}
        """Parameters in each bucket, in order."""
        self._kept: Tensors = {}
        """What waits to be put into buckets."""
        self._steps = 0

    def exchange(self, bucket: Any) -> torch.futures.Future[Tensor]:
        """What DDP calls with each bucket, in the same order at each step."""
        if bucket.index() == 0:
            self._steps += 1
            if self._steps <= SETTLED:
                self._empty()
        if bucket.index() not in self._buckets:
            self._buckets[bucket.index()] = names = [self._names[id(p)] for p in bucket.parameters()]
            self._fill(bucket.index(), names)
        sent = powerSGD_hook.powerSGD_hook(self._torch, bucket)
        if bucket.buffer().device.type == "cpu":
            sent.wait()  # torch waits in gloo's two threads: with two buckets under way they wait for ever
        return sent

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """This rank's tensors, and what is no tensor."""
        tensors = {name: tensor.clone() for name, tensor in {**self._kept, **self._collected()}.items()}
        return tensors, {"steps": self._torch.iter, "ranks": self._rank.world, "width": self._width}

    def restore(self, read: Read, rest: Mapping[str, Any] | None) -> None:
        """Go on from a state. It begins anew where that is of another number of ranks, or of another kind of run."""
        if rest is None or (rest["ranks"], rest["width"]) != (self._rank.world, self._width):
            log.info("what PowerSGD remembers begins anew: the checkpoint has none for this layout")
            return
        self._torch.iter = rest["steps"]
        if rest["steps"] <= PLAIN_STEPS:
            return
        for name, parameter in self._parameters.items():
            self._kept[self._error(name)] = torch.zeros_like(parameter)
            if self._is_compressed(name):
                self._kept[_factor(name)] = parameter.new_zeros(self._size(name))
        read(self._kept)

    def _collected(self) -> Tensors:
        """What stands in the buckets, by parameter."""
        found: Tensors = {}
        for index, errors in self._torch.error_dict.items():
            names = self._buckets[index]
            sizes = [self._parameters[name].numel() for name in names]
            for name, error in zip(names, errors.split(sizes), strict=True):
                found[self._error(name)] = error.view_as(self._parameters[name])
            matrices = self._matrices(names)
            factors = self._torch.q_memory_dict[index].split([self._size(name) for name in matrices])
            found |= {_factor(name): factor for name, factor in zip(matrices, factors, strict=True)}
        return found

    def _empty(self) -> None:
        """Take everything out of the buckets."""
        self._kept |= self._collected()
        self._buckets = {}
        for memory in (self._torch.error_dict, self._torch.p_memory_dict, self._torch.q_memory_dict):
            memory.clear()

    def _fill(self, index: int, names: Sequence[str]) -> None:
        """Put what is known of these parameters into a bucket."""
        if self._error(names[0]) not in self._kept:
            return
        matrices = self._matrices(names)
        errors = [self._kept.pop(self._error(name)).flatten() for name in names]
        factors = [self._kept.pop(_factor(name)) for name in matrices]
        self._torch.error_dict[index] = torch.cat(errors)
        self._torch.q_memory_dict[index] = torch.cat([errors[0][:0], *factors])
        lefts = sum(self._parameters[name].shape[0] * self._width_of(name) for name in matrices)
        self._torch.p_memory_dict[index] = errors[0].new_empty(lefts)

    def _matrices(self, names: Sequence[str]) -> list[str]:
        """Those that are sent as factors, in torch's order: shape by shape."""
        by_shape: dict[tuple[int, int], list[str]] = {}
        for name in names:
            if self._is_compressed(name):
                by_shape.setdefault(self._shape(name), []).append(name)
        return [name for alike in by_shape.values() for name in alike]

    def _is_compressed(self, name: str) -> bool:
        rows, columns = self._shape(name)
        return (rows + columns) * self._width_of(name) * WORTH < rows * columns

    def _shape(self, name: str) -> tuple[int, int]:
        parameter = self._parameters[name]
        return parameter.shape[0], parameter.numel() // parameter.shape[0]

    def _width_of(self, name: str) -> int:
        return min(*self._shape(name), self._width)

    def _size(self, name: str) -> int:
        """Numbers in the right factor."""
        return self._shape(name)[1] * self._width_of(name)

    def _error(self, name: str) -> str:
        return f"powersgd.error.{self._rank.number}.{name}"


def _factor(name: str) -> str:
    return f"powersgd.factor.{name}"
