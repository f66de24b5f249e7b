"""What has a member saved, and how often was it put back into the queue since? Progress is a new checkpoint.

Our trainer's and any other program's alike: what stands in its folder of checkpoints. Standard library only.
"""

from __future__ import annotations

import contextlib

from launchers.outcome import FINAL
from launchers.run_folder.record import Attempt, Member, read_json

Saved = frozenset[tuple[str, int]]
"""Names and times of checkpoints: another program may write under the same name again."""

LOST = ".lost"
ASIDE = (".damaged", ".unread", LOST)
"""How the names of those end that our trainer has put aside (trainer/checkpoints/checkpoint.py)."""


def saved_by(member: Member) -> Saved:
    """What a member has saved, without what is not whole."""
    found = set()
    with contextlib.suppress(FileNotFoundError):
        for path in member.checkpoints.iterdir():
            if not path.name.startswith(".") and ".tmp." not in path.name and not path.name.endswith(ASIDE):
                with contextlib.suppress(FileNotFoundError):
                    found.add((path.name, path.stat().st_mtime_ns))
    return frozenset(found)


def has_saved(attempt: Attempt) -> bool:
    """Whether there is a checkpoint that was not there when an attempt began."""
    return bool(saved_by(Member(attempt.path.parent)) - (_saved_before(attempt) or frozenset()))


def lost_by(member: Member) -> list[str]:
    """Checkpoints that were damaged, every one, when our trainer began a member anew; they are kept."""
    with contextlib.suppress(OSError):
        return sorted(path.name for path in member.checkpoints.iterdir() if path.name.endswith(LOST))
    return []


def requeues_in_a_row(member: Member) -> int:
    """How often a member went back to the queue since its last new checkpoint; `retry` begins the count anew.

    The attempt that left the checkpoint went back after it, so that it counts where it did.
    """
    count, there = 0, saved_by(member)
    for attempt in reversed(member.attempts()):
        state = (read_json(attempt.outcome) or {}).get("state")
        if state in FINAL:
            break
        count += state == "REQUEUED"
        before = _saved_before(attempt)
        if before is None:  # killed before it said so: it started no rank
            continue
        if there - before:
            break
        there = before
    return count


def _saved_before(attempt: Attempt) -> Saved | None:
    """What was there when an attempt began; None where it did not say."""
    began = read_json(attempt.path / "started.json") or {}
    return frozenset((name, at_ns) for name, at_ns in began["saved"]) if "saved" in began else None
