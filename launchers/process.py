"""Which process is meant by a number: numbers are given out again, the time of a start is not."""

from __future__ import annotations

from pathlib import Path


def start_of(pid: int) -> str | None:
    """When a process started, in clock ticks since boot (proc(5), stat field 22); None: no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]
