"""What is wrong with a member that runs, by its newest attempt's ledger and reports. Reads only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from launchers.run_folder.record import Attempt, Member, read_json, read_lines
from launchers.run_folder.saved import lost_by

SLOW = 1.3
"""Times the others' that a rank takes to be told of: as trainer/insight/stragglers.py has it."""


@dataclass(frozen=True)
class Straggler:
    """A rank that keeps the others waiting."""

    rank: int
    host: str
    times: float
    """As long as the others it takes, by the newest report."""
    since_step: int
    """When it was first told of."""

    def __str__(self) -> str:
        takes = f"takes {self.times:.1f} times as long as the others and keeps them waiting"
        return f"rank {self.rank} on {self.host} {takes} (since step {self.since_step})"


def straggler(attempts: Sequence[Attempt], metrics: Mapping[str, Any]) -> Straggler | None:
    """The rank that the trainer warned of in the newest attempt, if it is still slow. `metrics` are the newest."""
    rank, times = metrics.get("train/slowest_rank"), metrics.get("train/rank_spread")
    if not isinstance(times, int | float) or times < SLOW:
        return None
    told = (row for row in reversed(_ledger(attempts)) if row["event"] == "straggler" and row["rank"] == rank)
    row = next(told, None)
    return Straggler(row["rank"], row["host"], float(times), row["step"]) if row else None


def cannot_save(attempts: Sequence[Attempt]) -> str:
    """Why the newest attempt's checkpoints do not get onto the disk; empty where the last one did."""
    tries = [row for row in _ledger(attempts) if row["event"] in ("checkpoint_durable", "checkpoint_failed")]
    if not tries or tries[-1]["event"] == "checkpoint_durable":
        return ""
    newest = "none is on disk" if tries[-1]["kept"] is None else f"the newest is of step {tries[-1]['kept']}"
    return f"checkpoints cannot be saved ({tries[-1]['why']}); {newest}"


def began_anew(member: Member) -> str:
    """That a member's work was lost, because all its checkpoints were damaged; empty where it was not."""
    lost = lost_by(member)
    return f"began anew: all its checkpoints were damaged (kept in checkpoints/: {', '.join(lost)})" if lost else ""


def not_near(attempts: Sequence[Attempt]) -> str:
    """Why nodes of the newest attempt run from the shared storage, and not from copies of their own."""
    told = (read_json(path) for path in sorted(attempts[-1].path.glob("near-*.json"))) if attempts else ()
    warnings = [warning for each in told for warning in each["warnings"]]
    more = f" (and {len(warnings) - 1} more)" if len(warnings) > 1 else ""
    return f"{warnings[0]}{more}" if warnings else ""


def _ledger(attempts: Sequence[Attempt]) -> list[Any]:
    return read_lines(attempts[-1].path / "ledger.jsonl") if attempts else []
