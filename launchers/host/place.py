"""Where the ranks of an attempt are: the hosts Slurm chose, and ports that nobody is likely to take before they do.

Ports lie outside the range from which the kernel gives them to whoever connects or asks for any: a port of that
range may be taken between the look and rank 0's start. Standard library only.
"""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from launchers.cluster import LOOPBACK, Located, ports_of
from launchers.command import output_of
from launchers.errors import SiteError
from launchers.plan import Plan, PoolPlan
from launchers.queue.in_pool import Place

EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
USUAL = range(32768, 61000)
"""The kernel's own default, for where it does not say."""
LOWEST = 10240
"""Below are the ports of services: Slurm's, databases', web servers'."""
ENOUGH = 2000
TRIES = 500


def located(plan: Plan, member: int, attempt: int) -> Located:
    """The hosts of each pool, and free ports. Raises SiteError when there are none, or Slurm gave other hosts than
    were asked for; CommandError when it does not say which."""
    pools = plan.pools
    each = [pool.ranks if plan.launcher == "local" else pool.ranks_per_node for pool in pools]
    port = free_ports(f"{plan.job}.{member}", attempt, ports_of(each))
    if plan.launcher == "local" or sum(pool.nodes for pool in pools) == 1:
        return Located(hosts=tuple((LOOPBACK,) for _ in pools), port=port)
    if plan.launcher == "pool":
        mine, first = Place.given().nodes, [pool.place.first_node for pool in pools]
        return Located(hosts=tuple(mine[i : i + p.nodes] for i, p in zip(first, pools, strict=True)), port=port)
    return Located(hosts=tuple(_hosts_of_pools(pools)), port=port)


def told_of_pools(plan: Plan, where: Located) -> list[dict[str, Any]]:
    """The host of each replica, for people: on this machine they are all here."""
    here = socket.gethostname()
    found = []
    for pool, hosts in zip(plan.pools, where.hosts, strict=True):
        each = (here,) * pool.nodes if hosts == (LOOPBACK,) else hosts
        found.append({"name": pool.name, "hosts": each, "ranks_per_node": pool.ranks_per_node})
    return found


def free_ports(name: str, attempt: int, count: int) -> int:
    """The first of `count` consecutive ports that are free on this host. Two jobs, or attempts, begin to look at
    places of their own. Raises SiteError."""
    room = room_beside(ephemeral())
    for tried, first in enumerate(candidates(name, attempt, count, room)):
        if all(_is_free(first + i) for i in range(count)):
            return first
        if tried == TRIES:
            break
    what = f"no {count} consecutive ports from {room.start} to {room.stop - 1} are free"
    raise SiteError(what, where=socket.gethostname(), do="see who listens there: ss -ltnp")


def candidates(name: str, attempt: int, count: int, room: range) -> Iterator[int]:
    """First ports of blocks of `count` in `room`, each once, from a place that name and attempt say. Pure."""
    blocks = len(room) // count
    begin = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") + attempt
    yield from (room.start + (begin + i) % blocks * count for i in range(blocks))


def room_beside(taken: range) -> range:
    """Ports below those of the kernel's own choice, or else above, or else any. Pure."""
    for room in (range(LOWEST, taken.start), range(taken.stop, 65536)):
        if len(room) >= ENOUGH:
            return room
    return range(LOWEST, 65536)


def ephemeral() -> range:
    """Ports that this host's kernel gives to whoever asks for any."""
    try:
        first, last = EPHEMERAL.read_text(encoding="ascii").split()
        return range(int(first), int(last) + 1)
    except (OSError, ValueError):
        return USUAL


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def _hosts_of_pools(pools: Sequence[PoolPlan]) -> Iterator[tuple[str, ...]]:
    """Pools of one allocation lie behind each other in it; of a heterogeneous job each has a component of its own."""
    for pool in pools:
        group = pool.place.group
        within = [other for other in pools if other.place.group == group]
        found = _hosts("" if group is None else f"_HET_GROUP_{group}", sum(other.nodes for other in within))
        first = pool.place.first_node if group is None else 0
        yield tuple(found[first : first + pool.nodes])


def _hosts(component: str, count: int) -> list[str]:
    """The hosts of this allocation or component, in the order in which block distribution fills them.

    The batch step runs on the first, and so does rank 0; that one is called what it calls itself.
    """
    said = os.environ.get(f"SLURM_JOB_NODELIST{component}", "")
    found = output_of(["scontrol", "show", "hostnames", said], timeout_s=60).split()
    if len(found) != count:
        what = f"Slurm gave {len(found)} hosts ({said}), but the job's pools need {count}"
        raise SiteError(what, where=os.environ.get("SLURM_JOB_ID", ""), do="see launcher.sbatch for options of nodes")
    return [socket.gethostname(), *found[1:]] if component in ("", "_HET_GROUP_0") else found
