"""How fast is training, and what does it wait for? Rates over the steps since the last report.

`train/mfu` is model FLOPs utilisation: what forward and backward of the model take by its arithmetic (three times the
forward pass, recomputation not counted; Chowdhery et al. 2022, appendix B) over the cards' dense peak.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trainer import tensors

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

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
    steps: int = 0
    """Of this attempt."""
    norm: Tensor | None = None
    """Of the last step's gradients."""
    begun_s: float = 0.0
    """By the loop's clock, which stands still in evaluations and checkpoints."""
    waited_s: float = 0.0
    """For data."""
    start_s: float = 0.0
    """Of these, what came before the end of this attempt's first step."""


@dataclass
class Waits:
    """For data, in this attempt's steps after its first. As ranks wait for each other, what the one waited that waited
    longest is lost to all."""

    lost_s: float = 0.0
    _told: bool = False
    _judged: tuple[float, float] | None = None
    """The clock and `lost_s` at the end of the first window, which has the start of everything in it."""
    _each_s: list[float] = field(default_factory=list)
    """Every rank's own since then."""

    def note(self, each_s: Sequence[float], window_s: float, now_s: float) -> None:
        """What every rank waited in a window of so many seconds that ends now."""
        self.lost_s += min(max(each_s), window_s)
        if self._judged is None:
            self._judged, self._each_s = (now_s, self.lost_s), [0.0] * len(each_s)
        else:
            self._each_s = [before + more for before, more in zip(self._each_s, each_s, strict=True)]

    def starved(self, now_s: float) -> tuple[float, int | None] | None:
        """Where too much is lost, once: its share of the time, and the rank if one alone waits. Not by a single window:
        many small batches are read as one, and a short window may hold little else."""
        since_s, before_s = self._judged or (now_s, 0.0)
        seconds = now_s - since_s
        if self._told or seconds < JUDGED_S or self.lost_s - before_s <= STARVED * seconds:
            return None
        self._told = True
        waiting = [rank for rank, waited_s in enumerate(self._each_s) if waited_s > STARVED * seconds]
        alone = waiting[0] if len(waiting) == 1 and len(self._each_s) > 1 else None
        return (self.lost_s - before_s) / seconds, alone


def kept(window: Window, ranks: Group) -> dict[str, Any] | None:
    """A window for a checkpoint, the same on all ranks: a run that goes on reports what one does that never stopped."""
    if not window.samples:
        return None
    losses, waits_s = zip(*ranks.gather((window.loss.item(), window.waited_s)), strict=True)
    beside = {"samples": window.samples, "begun_s": window.begun_s}
    return {"losses": list(losses), "waits_s": list(waits_s), **beside}


def begun(said: Mapping[str, Any] | None, clock_s: float, device: torch.device, ranks: Group) -> Window:
    """The window of a checkpoint; an empty one from now on where it has none. Loss and wait of each rank are its own
    again; with another number of them the loss is rank 0's, and the longest wait everybody's."""
    if said is None:
        return Window(torch.zeros((), device=device), begun_s=clock_s)
    losses, waits_s = said["losses"], said["waits_s"]
    if len(losses) != ranks.world:
        losses, waits_s = [sum(losses), *[0.0] * (ranks.world - 1)], [max(waits_s)] * ranks.world
    loss = torch.tensor(losses[ranks.rank], device=device)
    return Window(loss, samples=said["samples"], begun_s=said["begun_s"], waited_s=waits_s[ranks.rank])


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
    """Metrics of a window that took so many seconds. Its wait is that of the rank that waited longest."""
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


def advice(waited: float, who: str, workers: int | None, spare_cores: int) -> str:
    """What to do about a loop that waits for data for so large a share of its time: for those of one rank, where `who`
    names it."""
    do = remedy(workers, spare_cores)
    if not who:
        return f"training waits for data for {waited:.0%} of its time: {do}"
    here = "see what else its host and the host's disk and network are busy with"
    return f"training waits for the data of {who} alone for {waited:.0%} of its time: {here}, or {do}"


def remedy(workers: int | None, spare_cores: int) -> str:
    """What makes data come faster."""
    if workers is not None:
        return f"raise train.workers (now {workers}), or leave it out to have it measured"
    if not spare_cores:
        return "raise machine.cpus_per_rank, so that data can be read ahead"
    more = f"raise machine.cpus_per_rank, try train.workers={spare_cores}"
    return f"{more}, or make reading cheaper (smaller files, node-local disk)"


def flops_of(build: Callable[[], nn.Module], batch: tuple[int, ...], dtype: torch.dtype) -> tuple[float | None, str]:
    """Operations of forward and backward over a batch of inputs, counted on a model without memory; None where the
    model cannot be had so, and why. No random numbers are used up: a run that goes on would lack them twice."""
    from torch.utils.flop_counter import FlopCounterMode

    try:
        with tensors.seeded(0), torch.device("meta"), FlopCounterMode(display=False) as counter:
            build()(torch.zeros(batch, dtype=dtype))
    except Exception as error:  # of a user's own code, which was not written for tensors without values
        return None, f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"
    flops = 3.0 * counter.get_total_flops()
    return (flops, "") if flops else (None, "none of them is a product of matrices, a convolution or attention")


def no_peak(peaks: Mapping[str, float], precision: str) -> str:
    """Why there is no utilisation where the accelerator does not say what it could do."""
    has = f"a peak for {', '.join(peaks)} alone" if peaks else "no peak"
    return (
        f"train/mfu is not reported: the accelerator has {has}, and the run computes in {precision}: set "
        f"accelerator.peak_tflops.{precision} to its dense peak in 10^12 operations a second"
    )
