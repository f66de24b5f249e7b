"""Which parts of a model stand for themselves? The elements of its lists and sequences, such as a transformer's blocks.

They are what engine fsdp fetches, and what `train.recompute` and `train.compile` take one by one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from trainer.failure import UserError


def units(model: nn.Module, at_least: int = 0) -> list[nn.Module]:
    """Elements of lists and sequences with at least so many parameters, inner ones first."""
    found = [
        unit
        for module in model.modules()
        if isinstance(module, nn.ModuleList | nn.Sequential)
        for unit in module
        if sum(p.numel() for p in unit.parameters()) >= at_least and not isinstance(unit, nn.ModuleList)
    ]
    return found[::-1]


def blocks(model: nn.Module) -> list[nn.Module]:
    """Elements that are made of several layers and stand in no other such element."""
    made = [unit for unit in units(model) if any(True for _ in unit.children())]
    inner = {id(part) for unit in made for part in unit.modules() if part is not unit}
    return [unit for unit in made if id(unit) not in inner]


def recompute(model: nn.Module) -> None:
    """Let each block keep what goes in, and compute again in backward what happens inside: less memory, a third more
    work (Chen et al. 2016, https://docs.pytorch.org/docs/stable/checkpoint.html).

    Raises UserError for a model without blocks.
    """
    found = blocks(model)
    if not found:
        what = f"train.recompute is true, and the model ({type(model).__name__}) has no blocks to compute again"
        raise UserError(what, "train.recompute", "set it to false, or put the model's blocks into an nn.ModuleList")
    for block in found:
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)


def compile_blocks(model: nn.Module) -> None:
    """Have each block compiled at its first use, or the whole model where it has none. Names of parameters stay.

    https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module.compile
    """
    for block in blocks(model) or [model]:
        if type(block).forward.__module__.startswith("torch."):
            block.forward = _ours(block.forward)
        block.compile()


def _ours(forward: Callable[..., Any]) -> Callable[..., Any]:
    """The same, from a file that is not torch's: where a chain of layers (nn.Sequential) is compiled by itself, torch
    leaves out the frame of its own file, and so all of it (2.13)."""

    def called(*args: Any, **kwargs: Any) -> Any:
        return forward(*args, **kwargs)

    return called


def when_compiling(begun: Callable[[], None], ended: Callable[[], None]) -> None:
    """Call these around each compilation of this process from now on, of forward and of backward: also in the middle of
    a run, where a shape is new. torch keeps the callbacks for this (torch._dynamo.callback, since 2.5)."""
    from torch._dynamo import callback

    callback.on_compile_start(lambda *_: begun())
    callback.on_compile_end(lambda *_: ended())


def counting(model: nn.Module) -> dict[str, nn.Module]:
    """Layers with weights that keep running statistics (batch norm), by name. On a CPU torch computes them only with
    weights in the precision of the statistics."""
    return {
        name: module
        for name, module in model.named_modules()
        if getattr(module, "weight", None) is not None and getattr(module, "running_mean", None) is not None
    }
