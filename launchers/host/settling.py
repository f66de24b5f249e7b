"""Wait until the process beside a rank (piped.py) has done its work: the log whole, nothing left behind.

Slurm calls it as a task epilog, `python settling.py ATTEMPT FIRST_RANK`, on the node of the rank and before it kills
what is left of the step; on this machine the supervisor asks. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import zlib

EPILOG_S = 4.0
"""Slurm ends a task epilog after five seconds (slurmstepd, 22.05)."""


def address_of(attempt: str, rank: int | str) -> str:
    """Where it listens, for as long as it lives: no file, and gone with it (unix(7), abstract sockets)."""
    return f"\0fairlead-{os.getuid()}-{zlib.crc32(os.fsencode(attempt)):08x}-{rank}"


def listening(attempt: str, rank: int | str) -> socket.socket | None:
    """What says that somebody is still at work; None where it cannot be had."""
    ours = socket.socket(socket.AF_UNIX)
    try:
        ours.bind(address_of(attempt, rank))
        ours.listen(4)
    except OSError:
        ours.close()
        return None
    return ours


def settle(attempt: str, rank: int | str, limit_s: float) -> None:
    """Return when nobody is at work for this rank on this node any more, or after so long."""
    with socket.socket(socket.AF_UNIX) as asked, contextlib.suppress(OSError):
        asked.settimeout(limit_s)
        asked.connect(address_of(attempt, rank))
        asked.recv(1)  # nothing is ever sent: it returns with the other's end


if __name__ == "__main__":
    settle(sys.argv[1], int(sys.argv[2]) + int(os.environ.get("SLURM_PROCID", "0")), EPILOG_S)
