"""How much time has this attempt? attempt-<n>/limits.json, which the supervisor writes once it has asked Slurm.

{"ends_at": 1790003600.0, "notice_s": {"SIGTERM": 30, "SIGUSR2": 50}}
"""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Limits:
    """Nothing is known where the supervisor could not ask, or has not yet."""

    ends_at: float | None = None
    """When the time limit ends the job, in seconds since the epoch; None where nothing does."""
    notice_s: Mapping[str, float] = field(default_factory=dict)
    """By name of a signal: for how long the ranks may go on once they were sent it."""

    def grace_s(self, number: int) -> float | None:
        """What a signal leaves; None where nobody knows."""
        return self.notice_s.get(signal.Signals(number).name)


def read(attempt: Path) -> Limits:
    """What the supervisor said; nothing where it said nothing that can be read."""
    try:
        said = json.loads((attempt / "limits.json").read_text(encoding="utf-8"))
        ends_at, notices = said.get("ends_at"), said.get("notice_s", {})
        return Limits(None if ends_at is None else float(ends_at), {str(k): float(v) for k, v in notices.items()})
    except (OSError, ValueError, TypeError, AttributeError):
        return Limits()
