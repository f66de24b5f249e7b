"""Which samples does a rank see at a step? A pure function of seed, epoch and position.

Every epoch is a permutation of the data set, computed per position (a small cipher), so nothing is stored:
a resume jumps to any step at once, and another number of ranks sees the same global batches.
The last batch of an epoch, and shares of a batch that ranks cannot share evenly, are filled up with PADDING, which
counts for nothing, so each epoch sees each sample exactly once. Reading the samples is in feed.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from trainer.failure import UserError

if TYPE_CHECKING:
    Indices = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
    Keys = np.ndarray[tuple[int], np.dtype[np.uint64]]

PADDING = -1
ROUNDS = 6
AT_ONCE = 2**13
"""A rank's positions whose samples are computed together."""
WORD = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


def permuted(positions: Indices, size: int, key: int | Keys) -> Indices:
    """Where each of `positions` goes in a permutation of range(size) that `key` names; several keys name one for each
    row of positions.

    A Feistel network over the next even power of two; results outside the range go round again.
    """
    half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    named = np.atleast_1d(np.asarray(key, np.uint64))[:, None]
    keys = [_mixed_all(named + np.uint64(GOLDEN + number)) for number in range(ROUNDS)]
    values = _shuffled(positions.astype(np.uint64), half, keys).ravel()
    outside = np.flatnonzero(values >= size)
    while len(outside):
        row = outside // positions.shape[-1]
        again = _shuffled(values[outside], half, [every[row, 0] for every in keys])
        values[outside] = again
        outside = outside[again >= size]
    return values.reshape(positions.shape).astype(np.int64)


def _shuffled(values: np.ndarray, half: np.uint64, keys: list[np.ndarray]) -> np.ndarray:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = values >> half, values & mask
    for key in keys:
        left, right = right, left ^ (_mixed_all(right + key) & mask)
    return (left << half) | right


def _mixed_all(x: np.ndarray) -> np.ndarray:
    """The finalizer of splitmix64, on an array (numpy wraps around silently there)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _mixed(x: int) -> int:
    """splitmix64 of one number."""
    x = (x + GOLDEN) & WORD
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & WORD
    return x ^ (x >> 31)


def seed_of(*parts: int) -> int:
    """One 63-bit seed out of several numbers, unrelated to that of any neighbour."""
    value = 0
    for part in parts:
        value = _mixed(value ^ (part & WORD))
    return value >> 1


@dataclass(frozen=True)
class Order:
    """The order of a training set of `size` samples, seen from one rank."""

    size: int
    batch_size: int
    """Samples per optimizer step over all ranks."""
    seed: int
    world: int = 1
    rank: int = 0
    accumulate: int = 1

    def __post_init__(self) -> None:
        if self.size < 1:
            raise UserError("the training set is empty", "data", "choose other data, or a smaller split.fraction")
        if self.batch_size < self.parts:
            raise UserError(
                f"train.batch_size is {self.batch_size}, and {self.world} ranks with train.accumulate="
                f"{self.accumulate} need a sample for each of {self.parts} forward passes",
                "train.batch_size",
                f"raise it to {self.parts} or more",
            )

    @property
    def parts(self) -> int:
        """Forward passes of a step, over all ranks."""
        return self.world * self.accumulate

    @property
    def micro_size(self) -> int:
        """Samples in one forward pass of one rank. Where the ranks do not divide the batch, some have one PADDING."""
        return -(-self.batch_size // self.parts)

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.size // self.batch_size)

    def samples_before(self, step: int) -> int:
        """Samples that all ranks together have seen when `step` begins."""
        epochs, steps = divmod(step, self.steps_per_epoch)
        return epochs * self.size + min(steps * self.batch_size, self.size)

    def samples_in(self, step: int) -> int:
        """Samples in the batch of a step: `batch_size`, or what is left of the epoch."""
        return min(self.batch_size, self.size - step % self.steps_per_epoch * self.batch_size)

    def passes(self, first: int, last: int) -> Iterator[tuple[int, Indices]]:
        """Epoch and samples of each of this rank's forward passes, in all steps from `first` on and before `last`.
        PADDING stands at the end."""
        at_once, per_epoch = self._at_once, self.steps_per_epoch
        while first < last:
            place = first % at_once
            for rows in _parcel(self, first - place)[place : place + last - first]:
                for indices in rows:
                    yield first // per_epoch, indices
                first += 1

    @property
    def _at_once(self) -> int:
        """Steps whose samples are computed together, of several epochs where these are short."""
        return max(1, AT_ONCE * self.world // self.batch_size)


def _parcel(order: Order, first: int) -> Indices:
    """Samples of some steps from `first` on: (steps, accumulate, micro_size). Small batches need not each pay for a
    call."""
    epochs, places = np.divmod(np.arange(first, first + order._at_once), order.steps_per_epoch)
    keys = np.array([seed_of(order.seed, epoch) for epoch in range(epochs[0], epochs[-1] + 1)], np.uint64)
    own, is_filler = _share(order)
    positions = places[:, None] * order.batch_size + own
    samples = permuted(np.minimum(positions, order.size - 1), order.size, keys[epochs - epochs[0]])
    samples[(positions >= order.size) | is_filler] = PADDING
    return samples.reshape(-1, order.accumulate, order.micro_size)


def _share(order: Order) -> tuple[Indices, np.ndarray]:
    """Which positions of a batch are this rank's, forward pass after forward pass, and which of them are none: the
    first passes have one sample more, where there are too few for all."""
    least, more = divmod(order.batch_size, order.parts)
    passes = np.arange(order.accumulate)[:, None] * order.world + order.rank
    places = np.arange(order.micro_size)
    own = passes * least + np.minimum(passes, more) + places
    return own.ravel(), (places >= least + (passes < more)).ravel()


def covering(size: int, micro_size: int, world: int = 1, rank: int = 0) -> Iterator[Indices]:
    """This rank's part of one pass over `size` samples in their own order.

    All ranks together yield each index once, and every rank yields equally many arrays, filled up with PADDING.
    """
    for begin in range(rank * micro_size, size + rank * micro_size, world * micro_size):
        positions = np.arange(begin, begin + micro_size, dtype=np.int64)
        yield np.where(positions < size, positions, PADDING)
