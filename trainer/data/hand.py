"""The batches that a rank has before it needs them, so that a wait for more can be broken off at any time.

Ranks that compute together are in the same steps: one that waits for data holds up all others for as long as that
takes, and for ever where the data never come. With the data in hand of the steps that the others still make before they
hear of it (parallel/told.py), it may leave the wait and make these steps, too.

What is in hand lies in the memory of this host: all batches of a step that is accumulated from many need not fit onto a
card.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator

import torch

from trainer.data.demand import Demand
from trainer.data.feed import Batch
from trainer.signals import Broken, Notice


class Hand:
    """Batches in the order in which they come, some of them taken ahead, each brought to the device in its turn."""

    def __init__(self, batches: Iterator[Batch], device: torch.device, demand: Demand) -> None:
        self._batches, self._device, self._demand = batches, device, demand
        self._is_elsewhere = device.type != "cpu"
        self._held: deque[Batch] = deque()
        self._used = self._full = 0
        """Batches used since it was filled, and how many were in hand then: no loop waits for one beyond these."""
        self._is_over = False
        self.largest_bytes = 0
        """What the largest batch so far takes in memory."""

    def fill(self, wanted: int, needed: int, notice: Notice) -> None:
        """Wait until `wanted` batches are in hand, or all there are. A notice breaks that off where as many are in hand
        as are `needed` all the same; after a notice only these are waited for."""
        self._demand.asks(self._used)
        try:
            try:
                while not self._is_over:
                    notice.breaks = len(self._held) >= needed
                    if len(self._held) >= (needed if notice.given else wanted):
                        break
                    self._take()
            finally:
                notice.breaks = False
        except Broken as broken:
            notice.broken = broken
        self._used, self._full = 0, len(self._held)
        self._demand.goes_on()

    def next(self) -> Batch | None:
        """The next batch in hand, on the device; None where there is none, which is at the end."""
        if not self._held:
            return None
        self._used += 1
        batch = self._held.popleft()
        return batch.on(self._device) if self._is_elsewhere else batch

    def _take(self) -> None:
        begun = time.perf_counter()
        batch = next(self._batches, None)
        if len(self._held) < self._full:
            self._demand.waits(time.perf_counter() - begun)
        if batch is None:
            self._is_over = True
        else:
            self._held.append(batch)
            if (size := batch.inputs.nbytes + batch.targets.nbytes) > self.largest_bytes:
                self.largest_bytes = size
