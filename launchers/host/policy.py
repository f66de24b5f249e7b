"""What follows an attempt that failed: end, start again on the same nodes, or go back to the queue. Pure.

Why it failed is outcome.py's; doing what is decided is supervise.py's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from conf.job_schema import Restarts
from launchers.outcome import Outcome

PAUSES_S = (1.0, 10.0, 60.0)
"""Before an attempt that follows so many without a new checkpoint: what is wrong with a node may pass."""


@dataclass(frozen=True, kw_only=True)
class Course:
    """How a member has fared in this allocation, its last attempt included."""

    barren: int = 0
    """Restarts since an attempt left a new checkpoint."""
    left_s: float
    """Until the allocation ends."""
    notice_s: float
    """Before that its program is told to leave."""
    told: bool = False
    """Somebody has asked for the end already."""
    queue: bool = True
    """There is a queue to go back to."""
    avoid: str = ""
    """What the job would exclude if it went to other hosts; empty where it cannot."""


def pause_s(barren: int) -> float:
    """Before the next attempt."""
    return PAUSES_S[min(barren, len(PAUSES_S) - 1)]


def allowed(outcome: Outcome, limits: Restarts) -> int:
    """Restarts in a row after this end."""
    return int(dataclasses.asdict(limits).get(outcome.cause, 0)) if outcome.state == "FAILED" else 0


def decided(outcome: Outcome, allowed: int, course: Course) -> Outcome:
    """What follows an end after which so many restarts in a row are allowed."""
    if course.barren >= allowed and course.avoid:
        said = (
            f"{outcome.message}; {outcome.host} ended {course.barren + 1} attempts in a row, and is avoided from now on"
        )
        return dataclasses.replace(outcome, state="REQUEUED", message=said, avoided=course.avoid)
    if course.barren >= allowed:
        said = f"{outcome.message}; {course.barren} restart(s) in a row left no newer checkpoint (job.restarts)"
        return dataclasses.replace(outcome, message=said)
    too_late = course.left_s < course.notice_s + pause_s(course.barren)
    if course.told or too_late:
        return dataclasses.replace(outcome, state="REQUEUED") if course.queue else outcome
    return dataclasses.replace(outcome, state="RESTARTED")


def often_enough(outcome: Outcome, requeues: int, limit: int) -> Outcome:
    """The end of a member that went back to the queue as often as it may with no new checkpoint; what to do is its
    cause's (outcome.py)."""
    said = f"requeued {requeues} time(s) in a row without a new checkpoint, and job.max_requeues is {limit}"
    return dataclasses.replace(outcome, state="FAILED", message=f"{outcome.message}; {said}")


def suspect(hosts: Sequence[str | None]) -> str | None:
    """The host that ended each of these attempts; None where it was not always the same, or is not known."""
    return hosts[0] if hosts and len(set(hosts)) == 1 else None
