"""How are batches read for the loop? In this process, or ahead of time in workers, as is measured.

Which samples is order.py's, so that the number of workers changes nothing but the time. A batch that is filled up
carries a weight of 0 for each filler. Of samples that lie in memory, or in a file mapped into it, many batches are read
at once.
"""

from __future__ import annotations

import itertools
import logging
import math
import statistics
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from trainer.data import loader
from trainer.data.demand import Demand
from trainer.data.order import PADDING, seed_of
from trainer.data.readers import Readers, more, readers_for
from trainer.data.windows import Windows
from trainer.sources import Samples, TensorSamples

Place = tuple[int, np.ndarray]
"""An epoch, and indices of samples."""
MEASURED = 8
"""Batches that the loop has used when it is judged whether workers are worth their processes."""
AGAIN = 32
"""As many each further time, and those by which it is judged whether they are enough."""
AT_ONCE_BYTES = 2**20
"""So much is read at once of samples in memory: it stays in a core's cache."""
AT_ONCE_S = 0.02
"""What takes longer than this is read in smaller parcels from then on."""
ALIGNED_BYTES = 64
"""Where torch lets tensors begin. Sums of floats may depend on it, so every batch begins so, whoever reads it."""

log = logging.getLogger(__name__)


class Batch(NamedTuple):
    """Samples of one forward pass."""

    inputs: Tensor
    targets: Tensor
    weights: Tensor | None
    """1 for a sample and 0 for a filler; None where there are no fillers."""

    def on(self, device: torch.device) -> Batch:
        """The same on a device. The copy of what lies in pinned memory is not waited for."""
        weights = None if self.weights is None else self.weights.to(device, non_blocking=True)
        return Batch(self.inputs.to(device, non_blocking=True), self.targets.to(device, non_blocking=True), weights)


@dataclass(frozen=True)
class Feed:
    """Reads samples for a device, into the memory of this host."""

    samples: Samples
    device: torch.device
    """Each batch is brought to it when its turn comes (hand.py)."""
    workers: int | None = 0
    """None is as many as it takes, out of `spare_cores`."""
    spare_cores: int = 0
    """Cores of this rank that it does not compute with itself."""
    before_fork: Callable[[], None] = lambda: None
    """Called before workers are started: a process must not be copied while a thread of it imports or writes."""
    seed: int = 0
    """Where reading draws random numbers (sources.Drawn), they depend on this, the epoch and the sample alone."""

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, place: Place) -> Batch:
        """One batch, as it is read."""
        epoch, indices = place
        fillers = indices == PADDING
        places, drawn = _filled(indices, fillers), getattr(self.samples, "drawn", None)
        inputs, targets = drawn(places, seed_of(self.seed, epoch)) if drawn else self.samples.batch(places)
        return Batch(inputs, targets, _weights(fillers) if fillers.any() else None)

    def batches(self, order: Iterable[Place], demand: Demand | None = None) -> Iterator[Batch]:
        """One batch for each place. By the demand it is judged how many workers that takes; without one there are those
        that were asked for."""
        order, demand = iter(order), demand or Demand()
        readers = (yield from self._as_it_takes(order, demand)) if self.workers is None else Readers(self.workers)
        if readers.workers:
            yield from self._ahead(order, readers, demand)
        elif isinstance(self.samples, TensorSamples | Windows):
            yield from self._together(self.samples, order)
        else:
            yield from map(self._here, order)

    def _together(self, samples: TensorSamples | Windows, order: Iterator[Place]) -> Iterator[Batch]:
        """Many batches read as one, and cut: a small batch costs hardly anything then. Where reading is slow they are
        fewer, so that nobody waits long for data that is not needed yet."""
        count = 1
        for place in order:
            begun = time.perf_counter()
            most = max(1, AT_ONCE_BYTES // max(1, _bytes(samples, len(place[1]))))
            indices = np.stack([own for _, own in (place, *itertools.islice(order, min(count, most) - 1))])
            fillers = indices == PADDING
            inputs, targets = self._pieces(samples, _filled(indices, fillers))
            count = 2 * min(count, most) if time.perf_counter() - begun < AT_ONCE_S else max(1, count // 4)
            short = fillers.any(1).tolist()
            for number, (x, y) in enumerate(zip(inputs, targets, strict=True)):
                weights = self._pinned(_weights(fillers[number])) if short[number] else None
                yield Batch(x, y, weights)

    def _pieces(self, samples: TensorSamples | Windows, indices: np.ndarray) -> list[Iterable[Tensor]]:
        """Inputs and targets for each row of indices. Tokens are whole numbers: no sum of theirs depends on where they
        begin."""
        if isinstance(samples, TensorSamples):
            return [self._aligned(part, indices) for part in (samples.inputs, samples.targets)]
        return [self._pinned(part).split(indices.shape[1]) for part in samples.batch(indices.ravel())]

    def _aligned(self, part: Tensor, indices: np.ndarray) -> Iterable[Tensor]:
        """Rows of a tensor for each row of indices, each beginning where a tensor may."""
        count, rows = indices.shape
        wide = _wide(part, rows) if count > 1 else rows
        chosen = np.zeros((count, wide), np.int64)
        chosen[:, :rows] = indices
        pieces = self._pinned(part[torch.from_numpy(chosen.ravel())]).split(wide)
        return pieces if wide == rows else [piece[:rows] for piece in pieces]

    def _here(self, place: Place) -> Batch:
        inputs, targets, weights = self[place]
        return Batch(self._pinned(inputs), self._pinned(targets), None if weights is None else self._pinned(weights))

    def _pinned(self, part: Tensor) -> Tensor:
        """Where a card copies it from while the loop goes on."""
        return part.pin_memory() if self.device.type == "cuda" and part.device.type == "cpu" else part

    def _as_it_takes(self, order: Iterator[Place], demand: Demand) -> Generator[Batch, None, Readers]:
        """Read here until workers are worth their processes, or nothing is left to read; returns how many."""
        if isinstance(self.samples, TensorSamples):
            return Readers(0)
        readers = yield from self._measured(order, demand, MEASURED)
        while readers == Readers(0) and not isinstance(self.samples, Windows):  # what lay in the page cache may be slow
            readers = yield from self._measured(order, demand, AGAIN)
        return readers or Readers(0)

    def _measured(self, order: Iterator[Place], demand: Demand, count: int) -> Generator[Batch, None, Readers | None]:
        """Read here until the loop has used so many batches; returns what would have kept it from waiting for them,
        None where there are no more. A loop is ahead of its card: it waits for that with each copy from memory that is
        not pinned (CUDA's «API synchronization behavior»), as the first ones are, and else when it reports."""
        demand.begin()
        reading_s = list[float]()
        while demand.used < count:
            if (place := next(order, None)) is None:
                return None
            begun = time.perf_counter()
            batch = self[place] if count == MEASURED else self._here(place)
            reading_s.append(time.perf_counter() - begun)
            yield batch
        loop_s = demand.mean_s() if self.device.type == "cuda" and count > MEASURED else demand.batch_s()
        readers = readers_for(statistics.median(reading_s), loop_s, self.spare_cores)
        if readers.workers:
            log.info("data: %d workers read ahead (train.workers)", readers.workers)
        return readers

    def _ahead(self, order: Iterator[Place], readers: Readers, demand: Demand) -> Iterator[Batch]:
        """Batches that workers read; begun anew with more of them where the loop still waits."""
        cores = self.spare_cores if self.workers is None else self.workers
        while True:
            places, enough = Until(order), readers
            demand.begin()
            for batch in self._handed_over(places, readers):
                yield batch
                waited = demand.waited(AGAIN)
                if waited is not None and not places.over:
                    enough = more(readers, waited, cores, sum(part.nbytes for part in batch if part is not None))
                    places.over = enough != readers
            if enough == readers:
                return
            readers = enough
            log.info("data: %d workers read ahead from now on, %d batches each", readers.workers, readers.ahead)

    def _handed_over(self, order: Iterable[Place], readers: Readers) -> Iterator[Batch]:
        self.before_fork()
        return loader.results(self.__getitem__, order, readers, pinned=self.device.type == "cuda")


class Until:
    """Places until it is `over`; the rest is still to be had from where they came."""

    def __init__(self, order: Iterator[Place]) -> None:
        self._order, self.over = order, False

    def __iter__(self) -> Iterator[Place]:
        while not self.over and (place := next(self._order, None)) is not None:
            yield place


def _filled(indices: np.ndarray, fillers: np.ndarray) -> np.ndarray:
    """A filler is the batch's first sample once more: it counts for nothing but in a model's running statistics."""
    return np.where(fillers, np.maximum(indices[..., :1], 0), indices)


def _weights(fillers: np.ndarray) -> Tensor:
    return torch.from_numpy((~fillers).astype(np.float32))


def _bytes(samples: TensorSamples | Windows, rows: int) -> int:
    """What so many samples take in memory: the larger of inputs and targets."""
    if isinstance(samples, TensorSamples):
        return max(_wide(part, rows) * part[:1].nbytes for part in (samples.inputs, samples.targets))
    return rows * samples.sample_bytes


def _wide(part: Tensor, rows: int) -> int:
    """So many rows or a few more, that those which follow them begin where a tensor may."""
    unit = ALIGNED_BYTES // math.gcd(ALIGNED_BYTES, part[:1].nbytes)
    return -(-rows // unit) * unit
