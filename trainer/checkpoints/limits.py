"""How much time has this attempt? attempt-<n>/limits.json, which the supervisor writes once it has asked Slurm.

{"ends_at": 1790003600.0, "notice_s": {"SIGTERM": 30, "SIGUSR2": 50}, "early_s": 60}
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Limits:
    """Nothing is known where the supervisor could not ask, or has not yet."""

    ends_at: float | None = None
    """When the ranks are ended for their time limit, in seconds since the epoch; None where nothing does that."""
    notice_s: Mapping[str, float] = field(default_factory=dict)
    """By name of a signal: for how long the ranks may go on once they were sent it."""
    early_s: float = 0.0
    """By so much the notice of the time limit, SIGUSR2, may come too early; it leaves more then."""

    def grace_s(self, number: int) -> float | None:
        """What a signal leaves that came now; None where nobody knows."""
        given_s = self.notice_s.get(signal.Signals(number).name)
        if number != signal.SIGUSR2 or given_s is None or self.ends_at is None:
            return given_s
        left_s = self.ends_at - time.time()
        return left_s if given_s < left_s <= given_s + self.early_s else given_s


def read(attempt: Path) -> Limits:
    """What the supervisor said; nothing where it said nothing that can be read."""
    try:
        said = json.loads((attempt / "limits.json").read_text(encoding="utf-8"))
        ends_at, notices = said.get("ends_at"), said.get("notice_s", {})
        notice_s = {str(k): float(v) for k, v in notices.items()}
        return Limits(None if ends_at is None else float(ends_at), notice_s, float(said.get("early_s", 0)))
    except (OSError, ValueError, TypeError, AttributeError):
        return Limits()
