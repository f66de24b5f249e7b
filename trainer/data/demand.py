"""How fast does a loop use its batches, and how long does it wait for them? Its hand notes that; the feed judges by it.

A hand that becomes larger takes many batches in a row, while nothing is computed: that says nothing of the loop's pace,
and workers that are fast enough may be waited for.
"""

from __future__ import annotations

import statistics
import time
from collections import deque

KEPT = 64
"""Batches of which it is known what each took."""


class Demand:
    """A loop's, for batches. Nothing is measured before somebody wants to judge by it."""

    def __init__(self) -> None:
        self._is_measured = self._has_started = False
        self._given_s: float | None = None
        self._begin_window()

    def begin(self) -> None:
        """Measure from now on."""
        self._is_measured, self._has_started = True, False
        self._begin_window()

    def _begin_window(self) -> None:
        self.used = 0
        """Batches that the loop is done with."""
        self._each_s = deque[float](maxlen=KEPT)
        self._loop_s = self._waited_s = 0.0

    def asks(self, used: int) -> None:
        """The loop wants to have more in hand, after it used so many of those that were there."""
        if self._given_s is not None and used:
            lasted_s = time.perf_counter() - self._given_s
            self._loop_s += lasted_s
            self._each_s.extend([lasted_s / used] * used)
            self.used += used

    def waits(self, seconds: float) -> None:
        """It waited so long for a batch in the place of one that it used."""
        self._waited_s += seconds

    def goes_on(self) -> None:
        """The loop has what it wanted."""
        if self._is_measured:
            self._given_s = time.perf_counter()

    def batch_s(self) -> float:
        """What the loop takes for most batches: a first step does not count, nor one with an evaluation behind it."""
        return statistics.median(self._each_s)

    def mean_s(self) -> float:
        """What the loop takes for a batch, all that is rare included."""
        return self._loop_s / max(1, self.used)

    def waited(self, batches: int) -> float | None:
        """The share of its time that the loop waited, once for so many batches; else None. For the first ones, too:
        workers start, and open their files."""
        if self.used < batches:
            return None
        share = self._waited_s / max(self._waited_s + self._loop_s, 1e-9)
        found, self._has_started = share if self._has_started else None, True
        self._begin_window()
        return found
