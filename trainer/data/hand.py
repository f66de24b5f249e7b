"""The batches that a rank has before it needs them, so that a wait for more can be broken off at any time.

Ranks that compute together are in the same steps: one that waits for data holds up all others for as long as that
takes, and for ever where the data never come. With the data in hand of the steps that the others still make before they
hear of it (parallel/told.py), it may leave the wait and make these steps, too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from trainer.data.feed import Batch
from trainer.signals import Broken, Notice


class Hand:
    """Batches in the order in which they come, some of them taken ahead."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._batches = batches
        self._held: deque[Batch] = deque()
        self._is_over = False
        self.largest_bytes = 0
        """What the largest batch so far takes in memory."""

    def fill(self, wanted: int, needed: int, notice: Notice) -> None:
        """Wait until `wanted` batches are in hand, or all there are. A notice breaks that off where as many are in hand
        as are `needed` all the same; after a notice only these are waited for."""
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

    def next(self) -> Batch | None:
        """The next batch in hand; None where there is none, which is at the end."""
        return self._held.popleft() if self._held else None

    def _take(self) -> None:
        batch = next(self._batches, None)
        if batch is None:
            self._is_over = True
        else:
            self._held.append(batch)
            self.largest_bytes = max(self.largest_bytes, batch.inputs.nbytes + batch.targets.nbytes)
