"""DeepSpeed's ZeRO: optimizer state (1), gradients too (2), weights too (3) are shared out; if told, kept on the host.

Choose it for its CPU offload, or where a recipe asks for it; engine fsdp does what stage 3 does with torch alone.
Its JSON is made here from our YAML, its launcher and its checkpoints are not used: the state leaves and comes back
through its own accessors (https://deepspeed.readthedocs.io/en/latest/zero3.html#debugging), so that a
checkpoint fits any stage, any number of ranks and any other engine.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal

from conf.bounds import Positive, group
from trainer.engines import Place, must_compute
from trainer.failure import UserError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from trainer.parallel.zero import ZeroEngine


@group
class Options:
    """What DeepSpeed is told. https://www.deepspeed.ai/docs/config-json/#zero-optimizations-for-fp16-training"""

    stage: Literal[1, 2, 3] = 2
    offload_optimizer: bool = False
    """Keeps optimizer state in the host's memory, where the step is then made. Of no use on a CPU, where it changes
    neither the weights nor where anything is."""
    offload_weights: bool = False
    """Keeps weights in the host's memory (stage 3 alone); on a CPU likewise."""
    overlap_communication: bool = True
    bucket_mb: Positive = 200
    """Gradients travel in parcels of this size."""


def start(
    options: Options, place: Place, model: nn.Module, optimizer_of: Callable[[nn.Module], torch.optim.Optimizer]
) -> ZeroEngine:
    """The model in DeepSpeed's hands.

    Raises UserError for a precision or an offload that it does not have, and where it is not installed.
    """
    must_compute("deepspeed", place)
    if options.offload_weights and options.stage != 3:
        what = f"engine.offload_weights needs stage 3, and engine.stage is {options.stage}"
        raise UserError(what, "engine.offload_weights", "set engine.stage=3, or leave the weights on the device")
    _must_have_kernels(place, model)
    deepspeed = _imported(place)
    _must_be_supported(place, deepspeed)
    from trainer.parallel.zero import ZeroEngine

    _alone(place)
    model = model.to(place.device)
    optimizer = optimizer_of(model)
    groups = _named(model, optimizer)
    with _silent():
        engine, *_ = deepspeed.initialize(
            model=model, optimizer=optimizer, config=document(options, place), dist_init_required=False
        )
    return ZeroEngine(place, engine, groups)


def _must_be_supported(place: Place, deepspeed: Any) -> None:
    """DeepSpeed asks for instructions (AVX512-FP16 on a CPU) that torch does without."""
    accelerator = deepspeed.accelerator.get_accelerator()
    has = {"fp16": accelerator.is_fp16_supported, "bf16": accelerator.is_bf16_supported}
    if place.precision in has and not has[place.precision]():
        what = f"DeepSpeed does not compute in {place.precision} on this {place.device.type}"
        raise UserError(what, "train.precision", "choose another precision, engine=ddp or engine=fsdp")


def _must_have_kernels(place: Place, model: nn.Module) -> None:
    from trainer.parallel.units import counting

    if place.device.type == "cpu" and place.precision != "fp32" and (norms := counting(model)):
        name, norm = next(iter(norms.items()))
        raise UserError(
            f"engine deepspeed narrows all weights to {place.precision}, and torch's {type(norm).__name__} on a CPU "
            f"needs fp32 beside its fp32 statistics",
            f"model: {name}",
            "choose train.precision=fp32, engine=ddp or fsdp, a GPU, or a norm without statistics such as GroupNorm",
        )


def document(options: Options, place: Place) -> dict[str, Any]:
    """DeepSpeed's own configuration."""
    parcel = int(options.bucket_mb * 2**20 / (4 if place.precision == "fp32" else 2))
    zero: dict[str, Any] = {
        "stage": options.stage,
        "overlap_comm": options.overlap_communication and place.device.type == "cuda",
        "reduce_bucket_size": parcel,
        "allgather_bucket_size": parcel,
        "contiguous_gradients": True,
    }
    pinned = {"device": "cpu", "pin_memory": place.device.type == "cuda"}
    if options.offload_optimizer:
        zero["offload_optimizer"] = pinned
    if options.offload_weights:
        zero["offload_param"] = pinned
    return {
        "train_micro_batch_size_per_gpu": 1,  # counted by nobody: batches are the loop's
        "gradient_accumulation_steps": 1,  # likewise
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,  # torch's own
        "zero_force_ds_cpu_optimizer": False,
        **({place.precision: {"enabled": True}} if place.precision != "fp32" else {}),
    }


def _named(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """torch's parameter groups with names, as a state has them: DeepSpeed will make the parameters flat."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [{**g, "params": [names[id(p)] for p in g["params"]]} for g in optimizer.param_groups]


def _imported(place: Place) -> Any:
    os.environ.setdefault("LOCAL_RANK", str(place.rank.local))
    os.environ.setdefault("DS_ACCELERATOR", "cpu" if place.device.type == "cpu" else "cuda")
    try:
        with _silent():
            import deepspeed
    except ModuleNotFoundError as e:
        do = "choose an image that has it, install fairlead[deepspeed], or take engine=fsdp"
        raise UserError("engine deepspeed needs the package deepspeed, which is not here", "engine", do) from e
    if place.device.type == "cpu":
        # An operation over shared memory that it would compile at the first start (a minute, a compiler, ninja).
        vars(deepspeed.ops).setdefault("__compatible_ops__", {})
    # It calls torch by names that torch 2.13 calls old, at every step.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\.c10d_logger")
    return deepspeed


def _alone(place: Place) -> None:
    """DeepSpeed wants a group, also of one rank: one without a port."""
    import torch.distributed as dist

    if place.rank.world == 1 and not dist.is_initialized():
        backend = "gloo" if place.device.type == "cpu" else "nccl"
        store = dist.HashStore()  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=store, rank=0, world_size=1)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without its two dozen lines about what it finds and builds. Errors stay."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
