"""How many processes read data ahead, and how far? By what reading a batch took and what the loop waited for.

Pure; feed.py measures and starts them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

TOLERATED = 0.05
"""Share of the time that reading may take without them, and that the loop may wait for them."""
RECEIVED_S = 1e-3
"""What it takes to receive a batch from a worker."""
AHEAD = 2
"""Batches that each worker keeps ready at first: torch's own default."""
FARTHER = 4
"""Times as many where that is not enough."""
AHEAD_BYTES = 256 * 2**20
"""They lie in shared memory until they are used: all of a rank's together take no more than this, beyond AHEAD."""


@dataclass(frozen=True)
class Readers:
    """Processes, and how many batches each keeps ready."""

    workers: int
    ahead: int = AHEAD


def readers_for(reading_s: float, loop_s: float, cores: int) -> Readers:
    """Workers that read a batch as fast as the loop takes one, in seconds each; none where reading hardly counts."""
    if reading_s - RECEIVED_S < TOLERATED * (reading_s + loop_s):
        return Readers(0)
    return Readers(min(cores, math.ceil(reading_s / max(loop_s, 1e-6)) + 1))


def more(readers: Readers, waited: float, cores: int, batch_bytes: int) -> Readers:
    """Those to go on with after the loop waited for them for so large a share of its time; the same where that is
    little, or where there are no more to be had.

    Batches come in order, so that a slow one holds up all that are behind it: the farther ahead it is begun, the less.
    One more worker besides, out of `cores`: nothing tells here whether all batches are slow or a few.
    """
    if waited <= TOLERATED:
        return readers
    workers = max(readers.workers, min(cores, readers.workers + 1))
    fits = AHEAD_BYTES // max(1, workers * batch_bytes)
    return Readers(workers, max(readers.ahead, min(FARTHER * readers.ahead, fits, FARTHER**2 * AHEAD)))
