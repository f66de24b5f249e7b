"""Did the kernel end a process of this machine because there was no memory left? It counts them, and says no more.

Slurm says so itself where it holds a job to its memory; here, and where Slurm does not, a rank just dies of SIGKILL.
"""

from __future__ import annotations

import re
from pathlib import Path

VMSTAT = Path("/proc/vmstat")


def kills() -> int:
    """How many so far, of anybody, by the whole machine's want of memory or by a control group's (`oom_kill` of
    /proc/vmstat, Linux 4.13). 0 where the kernel does not say."""
    try:
        found = re.search(r"^oom_kill (\d+)$", VMSTAT.read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) if found else 0
