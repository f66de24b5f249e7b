"""Which rank keeps the others waiting? Each measures what it does alone, and a report brings the numbers together.

Alone it waits for data and computes forward; in the backward pass it may wait for the others already, and at its end
it does. Where ranks wait for each other in the forward pass, too (fsdp, ZeRO-3, running statistics), that is told apart
on a CPU by what the kernel says of this thread: while it waits for others, it neither runs nor wants to. On cards all
ranks look alike then.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

FORWARDS = 3.0
"""Forward passes that a step costs: backward takes twice as long."""
SLOW = 1.3
"""Times the median of the ranks that one may take."""
COSTS = 0.1
"""Share of the time that it must cost all of them."""
WINDOWS = 3
"""Reports in a row before anybody is told."""


class Busy:
    """Seconds in which this thread ran, or wanted to run and was not let: other processes are on its core.

    /proc/<pid>/task/<tid>/schedstat, https://docs.kernel.org/scheduler/sched-stats.html
    """

    def __init__(self) -> None:
        self._file = os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)

    def __call__(self) -> float:
        ran_ns, waited_ns, _ = os.pread(self._file, 100, 0).split()
        return (int(ran_ns) + int(waited_ns)) / 1e9


class Alone:
    """One rank's own time since the last report. On cards that of one forward pass, and not waited for."""

    def __init__(self, device: torch.device, waits_in_forward: bool = False) -> None:
        self._on_card = device.type == "cuda"
        self._clock: Callable[[], float] = time.perf_counter
        if waits_in_forward and not self._on_card:
            with contextlib.suppress(FileNotFoundError):  # a kernel without them: all ranks look alike
                self._clock = Busy()
        self._begun_s = self._forward_s = 0.0
        self._passes = 0
        self._events: tuple[torch.cuda.Event, torch.cuda.Event] | None = None
        if self._on_card:
            self._events = (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))

    def begin(self) -> None:
        """A forward pass begins."""
        if self._events is None:
            self._begun_s = self._clock()
        elif not self._passes:
            self._events[0].record()

    def end(self) -> None:
        """It is over."""
        if self._events is None:
            self._forward_s += self._clock() - self._begun_s
        elif not self._passes:
            self._events[1].record()
        self._passes += 1

    def taken_s(self, waited_s: float) -> float:
        """For all since the last report, that for data included; begins anew. The device has done all by now."""
        if self._events is not None and self._passes:
            self._forward_s = self._passes * self._events[0].elapsed_time(self._events[1]) / 1000
        taken, self._forward_s, self._passes = waited_s + FORWARDS * self._forward_s, 0.0, 0
        return taken


@dataclass(frozen=True)
class Own:
    """What a rank tells the others at a report: seconds since the last."""

    taken_s: float
    """That it took alone."""
    waited_s: float = 0.0
    """Of these, for data."""
    start_s: float = 0.0
    """Of that wait, what came before the end of its first step, or in an attempt before."""


WIDTH = len(fields(Own))


def placed(own: Own, rank: int, world: int) -> Tensor:
    """A rank's numbers in their place, so that the sum over ranks is the numbers of all."""
    numbers = [0.0] * (WIDTH * world)
    numbers[WIDTH * rank : WIDTH * (rank + 1)] = (own.taken_s, own.waited_s, own.start_s)
    return torch.tensor(numbers, dtype=torch.float64)


def told(numbers: Sequence[float]) -> list[Own]:
    """Of all ranks in their order, from the sum of what they placed."""
    return [Own(*numbers[i : i + WIDTH]) for i in range(0, len(numbers), WIDTH)]


def per_step(each: Sequence[Own], steps: int) -> dict[str, Any]:
    """What stands beside a report's metrics: every rank's own seconds per step, and those for data. Nothing of one rank
    alone. Four digits are enough, as there may be hundreds of ranks."""
    if len(each) < 2:
        return {}
    own_s, waited_s = [one.taken_s for one in each], [one.waited_s for one in each]
    named = {"own_s": own_s, "waited_s": waited_s}
    return {"ranks": {name: [float(f"{s / max(steps, 1):.4g}") for s in of] for name, of in named.items()}}


def spread(taken: Sequence[float]) -> dict[str, float]:
    """Metrics of the ranks' own times: the slowest rank, and how many times the median it takes."""
    if len(taken) < 2:
        return {}
    usual = max(statistics.median_low(taken), 1e-9)
    return {
        "train/slowest_rank": float(max(range(len(taken)), key=taken.__getitem__)),
        "train/rank_spread": round(max(taken) / usual, 3),
    }


@dataclass
class Watch:
    """Rank 0's: who has been slow for how long, and who was told of."""

    _rank: int | None = None
    _windows: int = 0
    _told: set[int] = field(default_factory=set)

    def slow(self, taken: Sequence[float], seconds: float) -> int | None:
        """The rank to warn of, once, after a window of so many seconds in which ranks took so much for themselves."""
        found = spread(taken)
        rank = int(found["train/slowest_rank"]) if found and found["train/rank_spread"] >= SLOW else None
        if rank is not None and max(taken) - statistics.median_low(taken) < COSTS * seconds:
            rank = None
        self._windows = self._windows + 1 if rank is not None and rank == self._rank else 1
        self._rank = rank
        if rank is None or self._windows < WINDOWS or rank in self._told:
            return None
        self._told.add(rank)
        return rank
