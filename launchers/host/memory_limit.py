"""Does a member take more memory than its machine has? Looked at while its ranks run on this machine; on a cluster
Slurm sees to it.

Where a node takes too much, what is started together with its ranks is ended, as the kernel would end them there: a
worker that is started again by itself, or all. Standard library only.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Iterator

from launchers.host.leftovers import descended, processes
from launchers.host.ranks import Ranks
from launchers.host.resident import resident
from launchers.plan import Plan

LOOK_S, SHARE = 1.0, 0.02
"""Between two looks, which take at most so much of a processor."""
CONFIRM_S = 0.1
"""What is seen once may be a process that has just begun another, or ended."""
JOIN_S = 10.0
GB = 1 << 30
"""As Slurm counts them."""


class MemoryLimit:
    """One attempt's."""

    def __init__(self, plan: Plan, ranks: Ranks) -> None:
        self._plan, self._ranks = plan, ranks
        self._limits = {pool.name: pool.mem_gb for pool in plan.pools if pool.mem_gb is not None}
        self._known: dict[str, dict[int, str]] = {}
        """By node its processes, some of which may have no parent there any more."""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory", daemon=True)

    def start(self) -> None:
        """Begin to look: the ranks run."""
        if self._limits:
            self._thread.start()

    def finish(self) -> None:
        """All ranks have left."""
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join(JOIN_S)

    def _watch(self) -> None:
        pause_s, before = LOOK_S, dict[int, str]()
        while not self._over.wait(pause_s):
            begun, found = time.thread_time(), dict[int, str]()
            with contextlib.suppress(OSError):
                found = dict(self._excesses())
            for rank in found.keys() & before.keys():
                self._ranks.end_over_memory(rank, found.pop(rank))
            before = found
            pause_s = CONFIRM_S if found else max(LOOK_S, (time.thread_time() - begun) / SHARE)

    def _excesses(self) -> Iterator[tuple[int, str]]:
        """The nodes that have too much, each by a rank of it, and what of."""
        there = processes()
        for node, ranks in self._nodes().items():
            still = (
                pid for pid, start in self._known.get(node, {}).items() if pid in there and there[pid].start == start
            )
            self._known[node] = descended([*ranks.values(), *still], there)
            mem_gb = self._limits[node.rpartition("-")[0]]
            taken = resident(self._known[node], int(mem_gb * GB))
            if taken > mem_gb * GB:
                yield min(ranks), too_much(node if len(self._plan.pools) > 1 else "", taken, mem_gb)

    def _nodes(self) -> dict[str, dict[int, int]]:
        """The ranks of each node that a cluster would have for them, and their processes."""
        found: dict[str, dict[int, int]] = {}
        for rank, pid in self._ranks.processes().items():
            found.setdefault(self._plan.replica(rank), {})[rank] = pid
        return found


def too_much(node: str, taken: int, mem_gb: float) -> str:
    """What to say of a node (a replica of one of several pools; else empty) whose processes take so many bytes."""
    whose = f"the processes of {node} took" if node else "its processes took"
    return f"{whose} {math.ceil(100 * taken / GB) / 100:g} GB, but {'its ' if node else ''}machine.mem_gb is {mem_gb:g}"
