"""The last sign of a rank of our trainer, as trainer/insight/heartbeat.py writes it: what it is at, and where.

What follows from it (who hangs) is host/beats.py's. Standard library only.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path

SIZE = 256
"""Bytes of a beat; stacks may stand behind it."""


@dataclass(frozen=True)
class Beat:
    """The last sign of a rank."""

    section: str = "start"
    """Where it has given none yet: Slurm, the container and Python are at work."""
    step: int = 0
    pace_s: float | None = None
    """Its median step; None of fewer than two."""
    host: str | None = None
    t: float | None = None


def beat_of(path: Path) -> Beat:
    """The beat in a file; of one that is not there, or torn, the beat of a rank that gave none yet.

    Raises OSError where the storage does not answer.
    """
    with contextlib.suppress(FileNotFoundError):
        with path.open("rb") as f:
            text = f.read(SIZE)
        with contextlib.suppress(ValueError, TypeError, AttributeError, KeyError):
            said = json.loads(text)
            return Beat(said["section"], said["step"], said["pace_s"], said["host"], said["t"])
    return Beat()
