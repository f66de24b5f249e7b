"""Data parallel: every rank holds the whole model, and gradients are averaged while they are computed.

Choose it when model, gradients and optimizer state fit one device.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from conf.bounds import Count, Positive, group
from trainer.engines import Place, must_compute
from trainer.failure import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from trainer.parallel.powersgd import PowerSGD
    from trainer.parallel.torch_engine import TorchEngine


KEPT: list[Any] = []
"""What must live for as long as the process. The destructor of DDP's Reducer waits for gloo's thread while it holds the
interpreter's lock, and the thread may be waiting for that lock, to let go of the last gradients: then a rank that has
done all its work never ends (seen with torch 2.13)."""


@group
class Options:
    """What torch's DistributedDataParallel is told."""

    bucket_mb: Positive = 25
    """Gradients travel in parcels of this size while backward goes on."""
    gradient_as_bucket_view: bool = True
    """Gradients lie in the parcels: one copy less of all gradients. False where a model's own code detaches them in
    place."""
    find_unused_parameters: bool = False
    """True where some parameters take no part in some steps; costs a walk over the graph each step."""
    static_graph: bool = False
    """True where each step uses the same parameters in the same order: spares bookkeeping, also with
    activation checkpointing. With train.accumulate the first step of an attempt exchanges once more, which is felt in
    the last bits of the weights: with train.deterministic it has no effect."""
    compression: Literal["none", "fp16", "bf16", "powersgd"] = "none"
    """What travels between ranks: gradients as they are, in half the bytes, or as two thin factors (Vogels et al.
    2019), which pays on slow networks and costs some accuracy. What powersgd remembers of its errors is saved, and
    begins anew where a run goes on with another number of ranks."""
    powersgd_rank: Count = 2
    """Width of the two factors."""


def start(
    options: Options, place: Place, model: nn.Module, optimizer_of: Callable[[nn.Module], torch.optim.Optimizer]
) -> TorchEngine:
    """The model on its device, wrapped if there is more than one rank.

    Raises UserError for a precision this engine does not have, and a compression that the network does not.
    """
    must_compute("ddp", place, "fp8")
    if options.compression == "bf16" and place.device.type == "cpu":
        raise UserError("engine.compression is bf16, which gloo cannot add up", "engine.compression", "choose fp16")
    from trainer.parallel import buffers, fp8
    from trainer.parallel.torch_engine import TorchEngine

    model = (fp8.converted(model) if place.precision == "fp8" else model).to(place.device)
    wrapped: Any
    wrapped, memory = _wrapped(options, place, model) if place.rank.world > 1 else (model, None)

    differ = counts = any(buffer.numel() for buffer in model.buffers())
    # What a static graph is torch sees in the first backward pass, which therefore has to exchange (2.13 dies of an
    # assertion else). More exchanges within a step change nothing: the average of what is equal already is itself.
    unseen = wrapped is not model and wrapped.static_graph

    narrowed = _narrowed(place)

    def called(inputs: Tensor) -> Tensor:
        nonlocal differ
        if differ and not model.training:  # in training DDP shares them; what is evaluated is what will be saved
            buffers.share(model, place.rank.world)
        differ = counts and model.training
        with narrowed:
            return (wrapped if model.training else model)(inputs)

    def exchange(last: bool) -> contextlib.AbstractContextManager[object]:
        nonlocal unseen
        at_once, unseen = last or unseen, False
        return contextlib.nullcontext() if at_once or wrapped is model else wrapped.no_sync()

    engine = TorchEngine(place, model, called, optimizer_of(model), exchange)
    engine.memory, engine.waits_in_forward = memory, counts and place.rank.world > 1
    return engine


def _narrowed(place: Place) -> contextlib.AbstractContextManager[object]:
    import torch

    from trainer.parallel.torch_engine import NARROW

    if place.precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(place.device.type, dtype=NARROW[place.precision])


def _wrapped(options: Options, place: Place, model: nn.Module) -> tuple[Any, PowerSGD | None]:
    """The model as DDP calls it, and what its exchange remembers."""
    import torch
    from torch.nn.parallel import DistributedDataParallel

    # After its first step DDP sorts the gradients into other parcels, and where an element lies decides in which order
    # three ranks or more add it up: a run that goes on would differ in the last bits from one that was never stopped.
    # It does not sort where parameters may be unused (Reducer::should_rebuild_buckets, torch 2.9 to 2.13).
    exact = torch.are_deterministic_algorithms_enabled()
    stays = place.rank.world > 2 and exact
    wrapped = DistributedDataParallel(
        model,
        device_ids=[place.device.index] if place.device.type == "cuda" else None,
        bucket_cap_mb=options.bucket_mb,
        gradient_as_bucket_view=options.gradient_as_bucket_view,
        find_unused_parameters=options.find_unused_parameters or stays,
        static_graph=options.static_graph and not exact,
    )
    KEPT.append(wrapped)
    if options.compression == "powersgd":
        from trainer.parallel.powersgd import PowerSGD

        memory = PowerSGD(model, place.rank, options.powersgd_rank)
        wrapped.register_comm_hook(memory, lambda state, bucket: state.exchange(bucket))
        return wrapped, memory
    if options.compression != "none":  # https://docs.pytorch.org/docs/stable/ddp_comm_hooks.html
        from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

        hooks = {"fp16": default_hooks.fp16_compress_hook, "bf16": default_hooks.bf16_compress_hook}
        wrapped.register_comm_hook(None, hooks[options.compression])
    return wrapped, None
