"""Workers are as many as a loop's own pace asks for, however many batches it takes in a row.

The clock is played: reading, computing and waiting for workers take the seconds they are said to.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from trainer.data import feed, loader
from trainer.data.demand import Demand
from trainer.data.feed import Batch, Feed, Place
from trainer.data.hand import Hand
from trainer.data.readers import Readers
from trainer.signals import Notice

CPU = torch.device("cpu")
STEP_S = 0.1
"""What the loop takes for a batch."""
CORES = 8


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def perf_counter(self) -> float:
        return self.now_s


class Slow:
    """Samples of which a batch takes so long to read."""

    def __init__(self, clock: Clock, reading_s: float) -> None:
        self.clock, self.reading_s = clock, reading_s

    def __len__(self) -> int:
        return 10**6

    def batch(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        self.clock.now_s += self.reading_s
        return torch.from_numpy(indices), torch.zeros(len(indices))


class Workers:
    """Each reads its batches in turn, and begins one more when one is taken."""

    def __init__(self, clock: Clock, reading_s: float) -> None:
        self.clock, self.reading_s = clock, reading_s
        self.begun = list[Readers]()

    def results(
        self, read: Callable[[Place], Batch], asked: Iterable[Place], readers: Readers, *, pinned: bool
    ) -> Iterator[Batch]:
        self.begun.append(readers)
        places, free_s = iter(asked), [self.clock.now_s] * readers.workers
        coming = list[tuple[float, Place]]()
        number = 0

        def ask() -> None:
            nonlocal number
            if (place := next(places, None)) is not None:
                worker, number = number % readers.workers, number + 1
                free_s[worker] = max(free_s[worker], self.clock.now_s) + self.reading_s
                coming.append((free_s[worker], place))

        for _ in range(readers.workers * readers.ahead):
            ask()
        while coming:
            ready_s, place = coming.pop(0)
            self.clock.now_s = max(self.clock.now_s, ready_s)
            ask()
            yield Batch(torch.from_numpy(place[1]), torch.zeros(1), None)


Loop = Callable[[Hand, Clock], Iterator[Batch]]


def accumulating(passes: int, grown: dict[int, int] | None = None, slow: tuple[int, ...] = ()) -> Loop:
    """Steps of so many passes; from some steps on so many steps more are kept in hand. Some take a minute more."""

    def loop(hand: Hand, clock: Clock) -> Iterator[Batch]:
        wanted = step = 0
        while True:
            wanted = (grown or {}).get(step, wanted)
            for _ in range(passes):
                hand.fill((wanted + 1) * passes, 0, Notice())
                if (batch := hand.next()) is None:
                    return
                yield batch
                clock.now_s += STEP_S
            clock.now_s += 60 * (step in slow)
            step += 1

    return loop


def in_bursts(count: int) -> Loop:
    """So many are taken in a row, and then computed with."""

    def loop(hand: Hand, clock: Clock) -> Iterator[Batch]:
        while True:
            hand.fill(count, 0, Notice())
            taken = list(iter(hand.next, None))
            if not taken:
                return
            yield from taken
            clock.now_s += len(taken) * STEP_S

    return loop


LOOPS = {
    "one pass": accumulating(1),
    "eight passes": accumulating(8),
    "forty passes": accumulating(40),
    "steps in hand": accumulating(2, grown={3: 20}),
    "steps that take a minute more": accumulating(1, slow=(0, 3)),
    "bursts": in_bursts(8),
    "large bursts": in_bursts(100),
}


def begun(
    monkeypatch: pytest.MonkeyPatch, loop: Loop, reading_s: float, workers: int | None, batches: int = 600
) -> list[Readers]:
    """The workers with which a loop reads so many batches, each of which it gets once and in order."""
    clock = Clock()
    pool = Workers(clock, reading_s)
    monkeypatch.setattr(time, "perf_counter", clock.perf_counter)
    monkeypatch.setattr(loader, "results", pool.results)
    demand = Demand()
    order = ((0, np.array([number])) for number in range(batches))
    hand = Hand(Feed(Slow(clock, reading_s), CPU, workers, CORES).batches(order, demand), CPU, demand)
    assert [int(batch.inputs) for batch in loop(hand, clock)] == list(range(batches))
    return pool.begun


@pytest.mark.parametrize("name", LOOPS)
@pytest.mark.parametrize(("reading_s", "workers"), [(0.004, 0), (0.09, 2), (0.25, 4), (5.0, CORES)])
def test_demand_workers_are_as_many_as_the_loops_pace_asks_for(
    monkeypatch: pytest.MonkeyPatch, name: str, reading_s: float, workers: int
) -> None:
    found = begun(monkeypatch, LOOPS[name], reading_s, workers=None)

    assert found[:1] == [Readers(workers)] * bool(workers)
    if "bursts" not in name:  # where so many are taken in a row each time, those that are read ahead are too few
        assert (len(found) > 1) == (reading_s > STEP_S * CORES), "more are begun only where the loop starves"


GROWING = {16: 4, 40: 8, 64: 16, 120: 12, 160: 19, 161: 20, 162: 19, 163: 20}


@pytest.mark.parametrize("passes", [1, 3])
def test_demand_hand_that_grows_does_not_starve(monkeypatch: pytest.MonkeyPatch, passes: int) -> None:
    """Two workers are faster than the loop, but not than a hand that takes many in a row."""
    loop = accumulating(passes, grown=GROWING)

    assert begun(monkeypatch, loop, 1.9 * STEP_S, workers=2) == [Readers(2)]


@pytest.mark.parametrize("passes", [1, 3])
@pytest.mark.parametrize("grown", [{}, GROWING, dict(enumerate([19, 20] * 200))], ids=["steady", "grows", "varies"])
def test_demand_loop_that_starves_has_its_workers_read_farther_ahead(
    monkeypatch: pytest.MonkeyPatch, passes: int, grown: dict[int, int]
) -> None:
    loop = accumulating(passes, grown=grown)

    assert begun(monkeypatch, loop, 3 * STEP_S, workers=2) == [Readers(2), Readers(2, 8), Readers(2, 32)]


def test_demand_of_a_loop_is_judged_again_where_reading_becomes_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    samples, pool = Slow(clock, 0.002), Workers(clock, 0.15)
    monkeypatch.setattr(time, "perf_counter", clock.perf_counter)
    monkeypatch.setattr(loader, "results", pool.results)
    demand = Demand()
    order = ((0, np.array([number])) for number in range(300))
    hand = Hand(Feed(samples, CPU, None, CORES).batches(order, demand), CPU, demand)

    for batch in accumulating(8)(hand, clock):
        if int(batch.inputs) == feed.MEASURED + 2 * feed.AGAIN:
            samples.reading_s = 0.15

    assert pool.begun == [Readers(3)]
