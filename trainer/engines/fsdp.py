"""Fully sharded: each rank holds a piece of weights, gradients and optimizer state, and fetches the rest when needed.

Choose it when the model does not fit one device whole (16 bytes a parameter with AdamW, divided by the ranks).
torch's FSDP2: https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from conf.bounds import Count, NotNegative, group
from trainer.engines import Place, ddp, must_compute
from trainer.failure import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from trainer.parallel.torch_engine import TorchEngine


@group
class Options:
    """How a model is cut."""

    shard_ranks: Count | None = None
    """Ranks that share one copy of the model; further ranks hold further copies (hybrid sharding: one copy per
    node keeps the fetching inside the node). None is all ranks."""
    unit_parameters: NotNegative = 100_000
    """Elements of a model's lists and sequences (a transformer's blocks) with at least so many parameters are
    fetched and freed each on their own; the rest of the model is fetched as one."""
    reshard_after_forward: bool = True
    """Frees a unit between forward and backward: less memory, half as much traffic again."""


def start(
    options: Options, place: Place, model: nn.Module, optimizer_of: Callable[[nn.Module], torch.optim.Optimizer]
) -> TorchEngine:
    """The model in pieces, on its device.

    Raises UserError for a precision this engine does not have, and for ranks that `shard_ranks` does not divide.
    """
    must_compute("fsdp", place, "fp8")
    if place.rank.world == 1:  # nobody to share with
        return ddp.start(ddp.Options(), place, model, optimizer_of)
    from trainer.parallel import buffers, fp8
    from trainer.parallel.torch_engine import TorchEngine

    model = (fp8.converted(model) if place.precision == "fp8" else model).to(place.device)
    sharded = _sharded(options, place, model)

    def called(inputs: Tensor) -> Tensor:
        buffers.share(model, place.rank.world)
        return sharded(inputs)

    @contextlib.contextmanager
    def exchange(last: bool) -> Iterator[None]:
        sharded.set_requires_gradient_sync(last)
        yield

    engine = TorchEngine(place, sharded, called, optimizer_of(sharded), exchange)
    engine.waits_in_forward = True
    return engine


def _sharded(options: Options, place: Place, model: nn.Module) -> Any:
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    from trainer.parallel.torch_engine import NARROW
    from trainer.parallel.units import counting, units

    # Gradients are summed in full precision, as ddp sums them.
    policy = MixedPrecisionPolicy()
    if place.precision != "fp32":
        import torch

        policy = MixedPrecisionPolicy(param_dtype=NARROW[place.precision], reduce_dtype=torch.float32)
    how: dict[str, Any] = {
        "mesh": _mesh(options, place),
        "mp_policy": policy,
        "reshard_after_forward": options.reshard_after_forward,
    }
    norms = list(counting(model).values()) if place.precision != "fp32" else []
    if norms:  # one unit of their own, with weights as wide as their statistics; they take narrow inputs
        fully_shard(norms, **{**how, "mp_policy": MixedPrecisionPolicy(cast_forward_inputs=False)})
    for unit in units(model, options.unit_parameters):
        if unit not in norms:
            fully_shard(unit, **how)
    return fully_shard(model, **how)


def _mesh(options: Options, place: Place) -> Any:
    from torch.distributed.device_mesh import init_device_mesh

    world, shard = place.rank.world, options.shard_ranks or place.rank.world
    if world % shard:
        raise UserError(
            f"engine.shard_ranks is {shard}, which does not divide the run's {world} ranks",
            "engine.shard_ranks",
            f"choose a divisor of {world}, such as the ranks of a node ({place.rank.local_world})",
        )
    if shard == world:
        return init_device_mesh(place.device.type, (world,), mesh_dim_names=("shard",))
    return init_device_mesh(place.device.type, (world // shard, shard), mesh_dim_names=("replicate", "shard"))
