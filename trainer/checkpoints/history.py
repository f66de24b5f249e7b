"""How often were earlier attempts of this member cut off? From the ledgers they left.

An attempt that saved and left when it was told to (75), or that did its work, was not.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LEFT_WELL = (0, os.EX_TEMPFAIL)


@dataclass(frozen=True)
class History:
    """Of earlier attempts."""

    failures: int = 0
    seen_s: float = 0.0
    """So long they lasted together."""


def history(member: Path, attempt: Path) -> History:
    """Of all attempts of a member but this one."""
    ledgers = [_lines(path / "ledger.jsonl") for path in member.glob("attempt-*") if path != attempt]
    return of(ledgers)


def of(ledgers: Sequence[Sequence[Mapping[str, Any]]]) -> History:
    """Of the events of attempts. One that never began training says nothing of how long machines last."""
    begun = [events for events in ledgers if any(e["event"] == "first_step" for e in events)]
    failures = sum(1 for events in begun if not _left_well(events))
    return History(failures, sum(float(events[-1]["t"]) - float(events[0]["t"]) for events in begun))


def _left_well(events: Sequence[Mapping[str, Any]]) -> bool:
    """Not where it was killed; a peer that is quicker to leave may have taken the last word from one that did."""
    return any(e["event"] == "leaving" or (e["event"] == "exit" and e["code"] in LEFT_WELL) for e in events)


def _lines(path: Path) -> list[dict[str, Any]]:
    """Whole lines of a ledger; a kill may have left the last one torn."""
    found = []
    with contextlib.suppress(OSError):
        for line in path.read_bytes().splitlines():
            with contextlib.suppress(ValueError):
                event = json.loads(line)
                if isinstance(event, dict) and {"event", "t"} <= set(event):
                    found.append(event)
    return found
