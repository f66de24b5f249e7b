"""What an attempt's ledger.jsonl says, where several readers ask the same. Written by trainer/insight/spool.py."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from launchers.run_folder.record import Attempt, read_lines


def events_of(attempt: Attempt) -> list[dict[str, Any]]:
    """Its lines, oldest first; none where it has none yet."""
    return [line for line in read_lines(attempt.path / "ledger.jsonl") if isinstance(line, dict)]


def usual_step_s(attempt: Attempt) -> float | None:
    """The median of its last steps, as rank 0's heart beat it last; None of fewer than two steps, and of a program that
    is not ours."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        text = (attempt.path / "beat-0").read_text(encoding="utf-8", errors="replace")
        took_s = json.JSONDecoder().raw_decode(text)[0]["pace_s"]  # stacks may stand behind it
        return None if took_s is None else float(took_s)
    return None


def went_on_from(events: Iterable[Mapping[str, Any]]) -> int | None:
    """The step from which an attempt with these events went on, 0 where it began anew; None where it did not come so
    far, or its program keeps no ledger of that."""
    return next(
        (int(e["step"]) for e in events if e.get("event") == "restore_done" and e.get("step") is not None), None
    )
