"""What an attempt's ledger.jsonl says, where several readers ask the same. Written by trainer/insight/spool.py."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from launchers.run_folder.record import Attempt, read_lines


def events_of(attempt: Attempt) -> list[dict[str, Any]]:
    """Its lines, oldest first; none where it has none yet."""
    return [line for line in read_lines(attempt.path / "ledger.jsonl") if isinstance(line, dict)]


def went_on_from(events: Iterable[Mapping[str, Any]]) -> int | None:
    """The step from which an attempt with these events went on, 0 where it began anew; None where it did not come so
    far, or its program keeps no ledger of that."""
    return next(
        (int(e["step"]) for e in events if e.get("event") == "restore_done" and e.get("step") is not None), None
    )
