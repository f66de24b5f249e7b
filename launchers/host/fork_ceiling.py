"""How many threads and processes may a program's user have on this node? A ceiling for what forks faster than anybody
looks. It is the soft limit, which a program that means to may raise again.

The kernel's own (RLIMIT_NPROC of getrlimit(2)): it counts every thread of a user, in all their jobs on the node, and
so has room for programs of many threads; job.max_processes is held by piped.py, which counts a program's own. Root has
no such ceiling: its program's group is ended at once (leftovers.py), but what doubles and leaves that group each time
may take all processors before it is found. Standard library only, as it runs in front of each rank.
"""

from __future__ import annotations

import os
import resource

OF_A_PROCESS, OF_A_CPU = 4, 256
"""Threads that are allowed for: a library starts as many as there are processors, in each worker that reads data."""

OWN_LINKS = 2
"""Of a folder without folders: the others are one for each thread (proc(5), task)."""


def set_ceiling(max_processes: int) -> None:
    """For this process and all that it begins: what its user has by now, and room. One that is lower stays."""
    most = threads_of(os.getuid()) + room(max_processes, os.cpu_count() or 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    resource.setrlimit(resource.RLIMIT_NPROC, (_lower(soft, most), hard))


def room(max_processes: int, cpus: int) -> int:
    """For threads and processes of a program, on a node of so many processors. Pure."""
    return OF_A_PROCESS * max_processes + OF_A_CPU * cpus


def threads_of(user: int) -> int:
    """Those of a user on this machine, and those that have ended with nobody having asked how."""
    there = (_stat(f"/proc/{name}/task") for name in os.listdir("/proc") if name.isdigit())  # noqa: PTH208
    return sum(found.st_nlink - OWN_LINKS for found in there if found and found.st_uid == user)


def _stat(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)  # noqa: PTH116 (without pathlib: in front of each rank)
    except OSError:
        return None


def _lower(limit: int, most: int) -> int:
    return most if limit == resource.RLIM_INFINITY else min(limit, most)
