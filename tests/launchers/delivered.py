"""Members of three widths, and the store that their runs are delivered to."""

from __future__ import annotations

from typing import Any

from launchers.delivery.store import opened
from launchers.delivery.tracking import ensure_runs
from launchers.run_folder.record import Run

WIDTHS: list[dict[str, Any]] = [{"model.width": 1}, {"model.width": 2}, {"model.width": 3}]


def store_of(run: Run) -> Any:
    tracking = ensure_runs(run)
    assert tracking is not None
    return opened(tracking.uri, run.id), tracking
