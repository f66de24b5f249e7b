"""Can this job run without one of its hosts, and how is Slurm told? For one that ended every attempt on it.

Measured with Slurm 22.05: the hosts that a job excludes can be changed while it waits, not while it runs («Job is no
longer pending execution»). And a requeue ends this process: so one shell, which is deaf to that end, does both.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from launchers.command import output_of
from launchers.errors import CommandError
from launchers.host.element import described, own_id
from launchers.host.policy import suspect

USABLE = "idle,allocated,mixed,completing"
NONE = "(null)"
SOME_OF = re.compile(r"[|\[\]()*]")
"""In a job's features, where not all of them are for every node (sbatch(1), --constraint)."""
SAY = """trap "" TERM; job=$1; shift; scontrol requeue "$job" && scontrol update JobId="$job" "$@" """
NO_DEADLINE = "2099-01-01T00:00:00"
LOST_OFTEN = 2
"""Attempts in a row."""


def hosts_to_avoid(host: str) -> str:
    """The hosts that this job excludes, with this one more; empty where it could never run then, as far as that can be
    seen: too few other hosts with all its features, hosts asked for by name, or features of which some will do."""
    with contextlib.suppress(CommandError, ValueError, KeyError):
        job = described()
        features = job.get("Features", NONE)
        wanted = set() if features == NONE else set(features.split("&"))
        if any(SOME_OF.search(name) for name in wanted) or job.get("ReqNodeList", NONE) != NONE:
            return ""
        before = job.get("ExcNodeList", NONE)
        avoided = {host, *(_names(before) if before != NONE else ())}
        listed = ["sinfo", "--noheader", "--Node", f"--partition={job['Partition']}", f"--states={USABLE}"]
        said = [line.split() for line in output_of([*listed, "--format=%N %f"], timeout_s=30).splitlines()]
        there = {name for name, *has in said if wanted <= set(",".join(has).split(","))}
        if len(there - avoided) >= int(job["NumNodes"].partition("-")[0]):
            return ",".join(sorted(avoided))
    return ""


def lost_again(outcomes: Sequence[Mapping[str, Any]]) -> str | None:
    """A host of this allocation with which each of the last LOST_OFTEN attempts was lost: Slurm gives a node again as
    soon as it answers, however often it falls silent."""
    last = [said.get("host") if said.get("cause") == "node_failure" else None for said in outcomes[-LOST_OFTEN:]]
    host = suspect(last) if len(last) == LOST_OFTEN else None
    if host is None or not (ours := os.environ.get("SLURM_JOB_NODELIST")):
        return None
    with contextlib.suppress(CommandError):
        return host if host in _names(ours) else None
    return None


def requeue_argv(avoided: str, has_deadline: bool) -> list[str]:
    """The command that sends this job back to the queue, for other hosts than these, and, as it has begun once,
    without the deadline by which it had to; empty for the ordinary one."""
    changes = [*([f"ExcNodeList={avoided}"] if avoided else []), *([f"Deadline={NO_DEADLINE}"] if has_deadline else [])]
    return ["sh", "-c", SAY, "sh", own_id(), *changes] if changes else []


def _names(expression: str) -> list[str]:
    """n[1-3] is n1, n2, n3."""
    return output_of(["scontrol", "show", "hostnames", expression], timeout_s=30).split()
