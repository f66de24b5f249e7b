"""Can this job run without one of its hosts, and how is Slurm told? For one that was lost, or ended every attempt.

Measured with Slurm 22.05: the hosts that a job excludes can be changed while it waits, not while it runs («Job is no
longer pending execution»). And a requeue ends this process: so one shell, which is deaf to that end, does both.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from launchers.command import output_of
from launchers.errors import CommandError
from launchers.host.element import described, own_id

USABLE = "idle,allocated,mixed,completing"
FREE = "idle"
NONE = "(null)"
SOME_OF = re.compile(r"[|\[\]()*]")
"""In a job's features, where not all of them are for every node (sbatch(1), --constraint)."""
SAY = """trap "" TERM; job=$1; shift; scontrol requeue "$job" && scontrol update JobId="$job" "$@" """
NO_DEADLINE = "2099-01-01T00:00:00"
LOST_OFTEN = 2
"""Attempts in a row: then a host is avoided also where the job has to wait for another one."""


def hosts_to_avoid(host: str, at_once: bool = False) -> str:
    """The hosts that this job excludes, with this one more; empty where it could never run then, as far as that can be
    seen: too few other hosts with all its features, hosts asked for by name, or features of which some will do.

    `at_once`: so many others with the same processors, memory and cards must be free now. Its own are not: Slurm keeps
    a job that is put back for two minutes, and others may take them meanwhile."""
    with contextlib.suppress(CommandError, ValueError, KeyError):
        job = described()
        features = job.get("Features", NONE)
        wanted = set() if features == NONE else set(features.split("&"))
        if any(SOME_OF.search(name) for name in wanted) or job.get("ReqNodeList", NONE) != NONE:
            return ""
        before = job.get("ExcNodeList", NONE)
        avoided = {host, *(_names(before) if before != NONE else ())}
        there = _like(host, job["Partition"], wanted) if at_once else _hosts(job["Partition"], wanted, USABLE)
        if len(there.keys() - avoided) >= int(job["NumNodes"].partition("-")[0]):
            return ",".join(sorted(avoided))
    return ""


def _hosts(partition: str, features: set[str], states: str = "") -> dict[str, str]:
    """The hosts with all these features, in these states or any: their processors, memory and cards."""
    listed = ["sinfo", "--noheader", "--Node", f"--partition={partition}", *([f"--states={states}"] if states else [])]
    said = [line.split() for line in output_of([*listed, "--format=%N %c,%m,%G %f"], timeout_s=30).splitlines()]
    return {name: has for name, has, *own in said if features <= set(",".join(own).split(","))}


def _like(host: str, partition: str, features: set[str]) -> dict[str, str]:
    """The free hosts that have what this one has."""
    own = _hosts(partition, set())[host]
    return {name: has for name, has in _hosts(partition, features, FREE).items() if has == own}


def lost_again(outcomes: Sequence[Mapping[str, Any]]) -> tuple[str, int]:
    """A host of this allocation with which the last attempts were lost, and how many in a row; none is "", 0. Slurm
    gives a node again as soon as it answers, however often it falls silent. Who lets a job go to an avoided host again
    meant it so."""
    if outcomes and outcomes[-1].get("avoided"):
        return "", 0
    host, times = "", 0
    for said in reversed(outcomes):
        if said.get("cause") != "node_failure" or not said.get("host") or host not in ("", said["host"]):
            break
        host, times = said["host"], times + 1
    return (host, times) if host and host in own_hosts() else ("", 0)


def is_known(said: Mapping[str, Any], begun: Mapping[str, Any]) -> bool:
    """Whether it was this very job that lost this very host: by an attempt's outcome, and what it said when it began.

    Where no supervisor was left to say so, it may have been killed alone. Who is retried by hand has another job, and
    meant it so.
    """
    if begun.get("slurm_job_id") != os.environ.get("SLURM_JOB_ID"):
        return False
    return "started" in said or lost_host(begun) == said["host"]


def lost_host(begun: Mapping[str, Any]) -> str | None:
    """The only host of an attempt's that is down, or whose slurmd has started anew since, by what it said at its start.

    Measured: Slurm ends a job without a word on all its hosts when it gives one of them up.
    """
    if not (nodes := begun.get("slurm_job_nodelist")) or not (started := begun.get("started")):
        return None
    since, found = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(started)), list[str]()
    with contextlib.suppress(CommandError):
        for line in output_of(["scontrol", "show", "node", "--oneliner", nodes], timeout_s=30).splitlines():
            said = dict(word.split("=", 1) for word in line.split() if "=" in word)
            at = said.get("SlurmdStartTime", "")  # ISO 8601, or a word
            if said.get("State", "").startswith("DOWN") or (at[:1].isdigit() and at > since):
                found.append(said["NodeName"])
    return found[0] if len(found) == 1 else None


def own_hosts() -> list[str]:
    """The hosts of this allocation; none where Slurm does not say."""
    with contextlib.suppress(CommandError):
        return _names(ours) if (ours := os.environ.get("SLURM_JOB_NODELIST")) else []
    return []


def requeue_argv(avoided: str, has_deadline: bool) -> list[str]:
    """The command that sends this job back to the queue, for other hosts than these, and, as it has begun once,
    without the deadline by which it had to; empty for the ordinary one."""
    changes = [*([f"ExcNodeList={avoided}"] if avoided else []), *([f"Deadline={NO_DEADLINE}"] if has_deadline else [])]
    return ["sh", "-c", SAY, "sh", own_id(), *changes] if changes else []


def _names(expression: str) -> list[str]:
    """n[1-3] is n1, n2, n3."""
    return output_of(["scontrol", "show", "hostnames", expression], timeout_s=30).split()
