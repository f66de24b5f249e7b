"""What can still be kept, once a run has been told to leave? Pure: the times are measured by saving.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trainer.checkpoints.interval import MARGIN

LEAVING_S = 1.0
"""What it takes a rank to end once nothing is left to do."""
Parting = Literal["save", "finish", "leave"]


@dataclass(frozen=True)
class Means:
    """What there is. Seconds."""

    left_s: float | None
    """Until the ranks are killed; None where nobody knows."""
    save_s: float | None
    """What a save takes from its beginning until it is on disk; None where none was measured yet."""
    under_way_s: float | None = None
    """Until one that was begun before is on disk; None where none is under way."""


def parting(means: Means) -> Parting:
    """`save` this step where that fits into what is left; else `finish` the save that is under way, where that fits;
    else `leave` at once, with what is on disk.

    There is nothing smaller than a checkpoint to save: without the optimizer's state a run does not go on where it
    was. Whoever does not know its times tries to save.
    """
    if means.left_s is None or means.save_s is None:
        return "save"
    left_s = means.left_s - LEAVING_S
    before_s = (means.under_way_s or 0.0) * MARGIN
    if before_s + means.save_s * MARGIN <= left_s:
        return "save"
    return "finish" if means.under_way_s is not None and before_s <= left_s else "leave"
