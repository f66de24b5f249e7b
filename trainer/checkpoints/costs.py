"""What has saving cost lately? Measured by saving.py; kept in checkpoints, so that a later attempt knows it at once."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

REMEMBERED = 5
"""Saves: a file system that was busy an hour ago may not be so now."""


@dataclass
class Costs:
    """Of the last few checkpoints that got onto the disk, oldest first."""

    stalls_s: list[float] = field(default_factory=list)
    """So long training stood still."""
    durables_s: list[float] = field(default_factory=list)
    """So long it took from the beginning until all was on disk."""

    def note(self, stall_s: float, durable_s: float) -> None:
        """Take up what one more has cost."""
        self.stalls_s = [*self.stalls_s, round(stall_s, 4)][-REMEMBERED:]
        self.durables_s = [*self.durables_s, round(durable_s, 4)][-REMEMBERED:]

    @property
    def stall_s(self) -> float | None:
        """What the next will probably cost; None before the first was measured."""
        return statistics.median(self.stalls_s) if self.stalls_s else None

    @property
    def durable_s(self) -> float | None:
        """What the next will take at most, as far as one can tell; None before the first was measured."""
        return max(self.durables_s) if self.durables_s else None
