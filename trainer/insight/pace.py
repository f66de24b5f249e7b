"""How fast is training, and what does it wait for? Rates over the steps since the last report.

`train/mfu` is model FLOPs utilisation: what forward and backward of the model take by its arithmetic (three times the
forward pass, recomputation not counted; Chowdhery et al. 2022, appendix B) over the cards' dense peak.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import nn

    from trainer.parallel.group import Group

STARVED = 0.1
"""Share of the time that waiting for data may take before somebody is told."""
JUDGED_S = 0.5
"""Seconds of training by which that is judged, at least."""


@dataclass
class Window:
    """What has been trained since the last report. The loss stays on the device, so that nothing waits for it."""

    loss: Tensor
    samples: int = 0
    norm: Tensor | None = None
    begun_s: float = 0.0
    """By the loop's clock, which stands still in evaluations and checkpoints."""
    waited_s: float = 0.0
    """For data."""


def kept(window: Window, ranks: Group) -> dict[str, Any] | None:
    """A window for a checkpoint, the same on all ranks: a run that goes on reports what one does that never stopped."""
    if not window.samples:
        return None
    losses = ranks.gather(window.loss.item())
    return {"losses": losses, "samples": window.samples, "begun_s": window.begun_s, "waited_s": window.waited_s}


def begun(said: Mapping[str, Any] | None, clock_s: float, device: torch.device, ranks: Group) -> Window:
    """The window of a checkpoint; an empty one from now on where it has none. The loss of each rank is its own again,
    or with another number of them rank 0's."""
    if said is None:
        return Window(torch.zeros((), device=device), begun_s=clock_s)
    losses = said["losses"]
    if len(losses) != ranks.world:
        losses = [sum(losses), *[0.0] * (ranks.world - 1)]
    loss = torch.tensor(losses[ranks.rank], device=device)
    waited_s = said["waited_s"] if ranks.rank == 0 else 0.0
    return Window(loss, samples=said["samples"], begun_s=said["begun_s"], waited_s=waited_s)


@dataclass(frozen=True)
class Scale:
    """What a sample is."""

    tokens: int = 1
    """Positions in a sample of text."""
    flops: float | None = None
    """Forward and backward of one sample."""
    peak_flops: float | None = None
    """All ranks' cards together, per second, in the run's precision."""


def rates(window: Window, seconds: float, scale: Scale) -> dict[str, float]:
    """Metrics of a window that took so many seconds."""
    seconds = max(seconds, 1e-9)
    samples_per_s = window.samples / seconds
    found = {"train/samples_per_s": round(samples_per_s, 1), "train/data_wait": round(window.waited_s / seconds, 4)}
    if scale.tokens > 1:
        found["train/tokens_per_s"] = round(samples_per_s * scale.tokens, 1)
    if scale.flops and scale.peak_flops:
        found["train/mfu"] = round(samples_per_s * scale.flops / scale.peak_flops, 4)
    if torch.cuda.is_initialized():
        found["train/memory_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    return found


def advice(waited: float, workers: int | None, spare_cores: int) -> str:
    """What to do about a loop that waits for data for so large a share of its time; empty where it does not."""
    if waited <= STARVED:
        return ""
    return f"training waits for data for {waited:.0%} of its time: {remedy(workers, spare_cores)}"


def remedy(workers: int | None, spare_cores: int) -> str:
    """What makes data come faster."""
    if workers is not None:
        return f"raise train.workers (now {workers}), or leave it out to have it measured"
    if not spare_cores:
        return "raise machine.cpus_per_rank, so that data can be read ahead"
    more = f"raise machine.cpus_per_rank, try train.workers={spare_cores}"
    return f"{more}, or make reading cheaper (smaller files, node-local disk)"


def flops_of(build: Callable[[], nn.Module], batch: tuple[int, ...], dtype: torch.dtype) -> float | None:
    """Operations of forward and backward over a batch of inputs, counted on a model without memory; None where the
    model cannot be had so."""
    from torch.utils.flop_counter import FlopCounterMode

    try:
        with torch.device("meta"), FlopCounterMode(display=False) as counter:
            build()(torch.zeros(batch, dtype=dtype))
    except (RuntimeError, NotImplementedError, TypeError, ValueError, IndexError):
        return None
    return 3.0 * counter.get_total_flops()
