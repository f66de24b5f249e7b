"""Can this job run without one of its hosts, and how is Slurm told? For one that ended every attempt on it.

Measured with Slurm 22.05: the hosts that a job excludes can be changed while it waits, not while it runs («Job is no
longer pending execution»). And a requeue ends this process: so one shell, which is deaf to that end, does both.
"""

from __future__ import annotations

import contextlib

from launchers.command import output_of
from launchers.errors import CommandError
from launchers.host.element import described, own_id

USABLE = "idle,allocated,mixed,completing"
NONE = "(null)"
SAY = """trap "" TERM; job=$1; shift; scontrol requeue "$job" && scontrol update JobId="$job" "$@" """
NO_DEADLINE = "2099-01-01T00:00:00"


def hosts_to_avoid(host: str) -> str:
    """The hosts that this job excludes, with this one more; empty where it could never run then, as far as that can be
    seen: too few other hosts, or hosts and features asked for by name."""
    with contextlib.suppress(CommandError, ValueError, KeyError):
        job = described()
        if job.get("Features", NONE) != NONE or job.get("ReqNodeList", NONE) != NONE:
            return ""
        before = job.get("ExcNodeList", NONE)
        avoided = {host, *(_names(before) if before != NONE else ())}
        listed = ["sinfo", "--noheader", "--Node", f"--partition={job['Partition']}", f"--states={USABLE}"]
        there = set(output_of([*listed, "--format=%N"], timeout_s=30).split())
        if len(there - avoided) >= int(job["NumNodes"].partition("-")[0]):
            return ",".join(sorted(avoided))
    return ""


def requeue_argv(avoided: str, has_deadline: bool) -> list[str]:
    """The command that sends this job back to the queue, for other hosts than these, and, as it has begun once,
    without the deadline by which it had to; empty for the ordinary one."""
    changes = [*([f"ExcNodeList={avoided}"] if avoided else []), *([f"Deadline={NO_DEADLINE}"] if has_deadline else [])]
    return ["sh", "-c", SAY, "sh", own_id(), *changes] if changes else []


def _names(expression: str) -> list[str]:
    """n[1-3] is n1, n2, n3."""
    return output_of(["scontrol", "show", "hostnames", expression], timeout_s=30).split()
