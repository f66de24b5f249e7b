"""What does a case leave behind? Processes, queue entries, temporary files, shared memory: there must be nothing."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from pathlib import Path

from tests.chaos.faults import Live, pids_with, until
from trainer.data.room import PART

BY_TORCH, STAGED = "torchinductor_", "fairlead-data-"
"""One folder per user, kept for the next program on purpose: torch's cache of compiled code (left empty by an export),
and what was brought to the node's disk or found out about data."""
OF_LOADERS = "pymp-"
"""Python's folder for the sockets by which a rank's loader processes hand their batches over: it goes when the rank
does, and stays, empty but for them, when that is killed."""
SETTLE_S = 120
SHM_OF = re.compile(r"^torch_(\d+)_")


def behind(live: Live, began: float) -> list[str]:
    """Everything of a case that is still there a moment after its end, in words."""
    with contextlib.suppress(AssertionError):
        until(lambda: not _processes(live) and not _queued(live), SETTLE_S, pause_s=0.3)
    found = [f"process {pid}: {_command(pid)}" for pid in _processes(live)]
    found += [f"in the queue: {job}" for job in _queued(live)]
    found += [f"in TMPDIR: {name}" for name in _temporary(live)]
    found += [f"half staged: {path.name}" for path in live.place.tmp.glob(f"{STAGED}*/*{PART}")]
    found += [f"unfinished: {path.relative_to(live.run)}" for path in live.member.rglob("*.tmp.*")]
    found += [f"aside: {path.relative_to(live.run)}" for path in live.member.rglob(".*.json.*")]
    found += [f"shared memory: {name}" for name in _shared([*live.pids, *live.loaders])]
    return found


def end(live: Live) -> None:
    """End whatever of a case still runs."""
    for job in _queued(live):
        subprocess.run(["scancel", job], check=False, timeout=30, capture_output=True)
    for pid in _processes(live):
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def _temporary(live: Live) -> list[str]:
    """Names in TMPDIR that should not be there; of each rank that was killed one may."""
    names = [path.name for path in live.place.tmp.iterdir() if not path.name.startswith((BY_TORCH, STAGED))]
    excused = [name for name in names if name.startswith(OF_LOADERS)]
    excused = [] if live.case.kind.graceful else excused[: len(live.pids)]
    return [name for name in names if name not in excused]


def _processes(live: Live) -> list[int]:
    """The store's server and the client that launched are ours."""
    return [pid for pid in pids_with(str(live.run)) if pid != live.client.pid]


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")[:200]
    return "gone"


def _queued(live: Live) -> list[str]:
    if live.case.launcher == "local":
        return []
    argv = ["squeue", "--noheader", "--format=%i", "--name", f"{live.run.name},{live.run.name}.finish"]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False).stdout.split()


def _shared(pids: list[int]) -> list[str]:
    """Segments of ranks that are gone; torch writes the process into the name."""
    names = [path.name for path in Path("/dev/shm").iterdir()]
    return [name for name in names if (of := SHM_OF.match(name)) and int(of[1]) in pids]
