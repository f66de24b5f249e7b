"""What does each rank on this node use? Found in /proc by the environment that a rank and its data loaders have.

So one thread of one rank can tell of all of them, and nobody has to report.
"""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
MB = 1e6
LOADER = "pt_data_worker"
"""What torch calls the processes of a DataLoader."""


@dataclass(frozen=True)
class Process:
    """One process of a rank."""

    rank: int
    loads: bool
    """Whether it reads data ahead."""
    busy_s: float
    resident: int
    """Bytes of memory; what several share counts for each."""


def processes(attempt: Path, proc: Path = PROC) -> dict[int, Process]:
    """Those of an attempt on this node, by their numbers."""
    wanted, found = f"FAIRLEAD_ATTEMPT_DIR={attempt}".encode(errors="surrogateescape"), {}
    for path in proc.glob("[0-9]*") if proc.exists() else ():
        with contextlib.suppress(OSError, ValueError):  # somebody else's, or just gone
            variables = (path / "environ").read_bytes().split(b"\0")
            ranks = [line for line in variables if line.startswith(b"RANK=")]
            if wanted in variables and ranks:
                found[int(path.name)] = _process(int(ranks[0][5:]), (path / "stat").read_text(errors="replace"))
    return found


def _process(rank: int, stat: str) -> Process:
    """See proc(5): the name stands in parentheses, and may have some itself."""
    name, rest = stat.partition("(")[2].rpartition(")")[::2]
    fields = rest.split()
    busy_s = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return Process(rank, name == LOADER, busy_s, int(fields[21]) * os.sysconf("SC_PAGE_SIZE"))


def shares(before: dict[int, Process], now: dict[int, Process], seconds: float) -> dict[str, float]:
    """Processor use of each rank since the sample before (100 is one core), and memory now, data loaders apart."""
    found: defaultdict[str, float] = defaultdict(float)
    for number, process in now.items():
        part = f"rank-{process.rank}/{'loaders_' if process.loads else ''}"
        since = before[number].busy_s if number in before else 0.0
        found[f"{part}cpu_utilization_percentage"] += 100 * (process.busy_s - since) / seconds if seconds > 0 else 0.0
        found[f"{part}memory_megabytes"] += process.resident / MB
    return dict(found)
