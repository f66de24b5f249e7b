"""CLUSTER_SPEC and TF_CONFIG: what a replica of a job on several machines is told of all the others.

The shapes are those of Vertex AI custom training, so that programs written for it read them. A replica is one task:
with `ranks_per_node` 1 that is a node, as on Vertex; with more, each is listed with a port of its own. Both are the
same on all replicas but for `task`, and absent where there is one alone. Pure, standard library only.
Sources: «Distributed training», sections «Cluster variables», of Vertex's documentation; tf.distribute's
TFConfigClusterResolver, which takes one chief at most.
"""

from __future__ import annotations

import itertools
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

LOOPBACK = "127.0.0.1"
"""Where the ranks of one machine meet."""
ROLES = ("chief", "worker", "ps", "evaluator")
"""What TensorFlow calls pools 0 to 3."""
CHIEF, WORKERS, EVALUATORS = 0, 1, 3
PORTS_A_TASK = 3
"""Of a task: in the cluster, of its profiler, of its profiler's web server."""
LONGEST = 100_000
"""Characters of a variable; Linux starts no program with one of 128 KiB (execve(2), MAX_ARG_STRLEN)."""


@dataclass(frozen=True, kw_only=True)
class Located:
    """What is known of an attempt only when it starts."""

    hosts: tuple[tuple[str, ...], ...]
    """Of each pool, in the order of its ranks."""
    port: int
    """First of as many as `ports_of` says, free when they were looked at."""


@dataclass(frozen=True, kw_only=True)
class PoolHosts:
    """A pool and where it runs. An empty pool has no host, or is left out."""

    name: str
    """workerpool0 to workerpool3."""
    hosts: tuple[str, ...]
    """In the order of its ranks, each once: those of pools on this machine are as many as its one host has."""
    ranks_per_node: int
    cards: int = 0
    """Accelerators of each host."""
    spec: Mapping[str, Any] = field(default_factory=dict)
    """The pool as a WorkerPoolSpec of Vertex's, but for its replica count."""

    @property
    def number(self) -> int:
        return int(self.name.removeprefix("workerpool"))


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """All pools of one attempt, and what else the variables say."""

    pools: tuple[PoolHosts, ...]
    port: int | None
    """First of `ports_of` consecutive ones, the same on each host: the rendezvous. None before an attempt starts."""
    trial: str | None = None
    """Of a search alone."""
    job: Mapping[str, Any] = field(default_factory=dict)
    """What the job's CustomJobSpec says besides its pools."""


NOBODY = Cluster(pools=(), port=None)


@dataclass(frozen=True)
class Group:
    """Tasks that bear one pool's name: those of RANK `first` and the next ones."""

    number: int
    first: int
    addresses: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"workerpool{self.number}"

    @property
    def role(self) -> str:
        return ROLES[self.number]


def cluster(
    pools: Sequence[PoolHosts], port: int | None, trial: str | None = None, job: Mapping[str, Any] | None = None
) -> Cluster:
    """Up to four pools, in the order of RANK, which counts over all of them."""
    there = sorted((pool for pool in pools if pool.hosts), key=lambda pool: pool.number)
    return Cluster(pools=tuple(there), port=port, trial=trial, job=job or {})


def unknown_hosts(nodes: Sequence[int]) -> tuple[tuple[str, ...], ...]:
    """Names for hosts that Slurm has not chosen yet, for each pool's nodes; a job that needs one machine meets there,
    wherever it is."""
    number = itertools.count()
    if list(nodes) == [1]:
        return ((LOOPBACK,),)
    return tuple(tuple(f"<host {next(number)}>" for _ in range(count)) for count in nodes)


def ports_of(ranks_per_node: Sequence[int]) -> int:
    """How many consecutive ports a job takes on a host: pools may share one."""
    return 1 + PORTS_A_TASK * sum(ranks_per_node)


def port_text(port: int | None, offset: int) -> str:
    """A port, or what stands for it before it is chosen."""
    if port is None:
        return f"<port + {offset}>" if offset else "<port>"
    return str(port + offset)


def first_offset(cluster: Cluster, name: str) -> int:
    """Where the ports of a pool's tasks begin: behind the rendezvous, and those of the pools before it."""
    return ports_of([pool.ranks_per_node for pool in cluster.pools if pool.number < _named(cluster, name).number])


def first_rank(cluster: Cluster, name: str) -> int:
    """Of a pool."""
    return sum(len(p.hosts) * p.ranks_per_node for p in cluster.pools if p.number < _named(cluster, name).number)


def groups(cluster: Cluster) -> tuple[Group, ...]:
    """The tasks in the order of RANK, under the names that programs know.

    Pool 0 is one task, as on Vertex: what else the chief's pool has comes first in pool 1. So one pool of N tasks
    is a chief and N - 1 workers, which is what Vertex's own SDK makes of N replicas.
    """
    found = dict[int, list[str]]()
    for pool in cluster.pools:
        begin = first_offset(cluster, pool.name)
        for host in pool.hosts:
            for local in range(pool.ranks_per_node):
                number = WORKERS if pool.number == CHIEF and CHIEF in found else pool.number
                port = port_text(cluster.port, begin + PORTS_A_TASK * local)
                found.setdefault(number, []).append(f"{host}:{port}")
    firsts, first = {}, 0
    for number in sorted(found):
        firsts[number], first = first, first + len(found[number])
    return tuple(Group(number, firsts[number], tuple(found[number])) for number in sorted(found))


def cluster_spec(cluster: Cluster, rank: int) -> dict[str, Any] | None:
    """CLUSTER_SPEC of a replica; None where there is one alone."""
    return _document(cluster, rank, lambda group: group.name, {g.name: list(g.addresses) for g in groups(cluster)})


def tf_config(cluster: Cluster, rank: int) -> dict[str, Any] | None:
    """TF_CONFIG of a replica; None where there is one alone. An evaluator sees the cluster, and is not in it."""
    within = {g.role: list(g.addresses) for g in groups(cluster) if g.number != EVALUATORS}
    return _document(cluster, rank, lambda group: group.role, within)


def custom_job_spec(cluster: Cluster) -> dict[str, Any]:
    """The job as a CustomJobSpec: a pool each by its place, empty ones in between as {}, none at the end."""
    own = {pool.number: pool.spec for pool in cluster.pools}
    chief = cluster.pools[0].spec if cluster.pools else {}
    replicas = {g.number: {**own.get(g.number, chief), "replica_count": len(g.addresses)} for g in groups(cluster)}
    specs = [replicas.get(number, {}) for number in range(max(replicas, default=-1) + 1)]
    return {"worker_pool_specs": specs, **cluster.job}


def shell_lines(cluster: Cluster, prefix: str) -> list[str]:
    """Lines of sh that set both variables, under this prefix, to what the replica that is number $RANK is told."""
    found = groups(cluster)
    if sum(len(group.addresses) for group in found) < 2:
        return []
    lines = list(_place_lines(found))
    for name, document, kind in (
        ("CLUSTER_SPEC", cluster_spec(cluster, 0), "$fairlead_pool"),
        ("TF_CONFIG", tf_config(cluster, 0), "$fairlead_role"),
    ):
        rest = _short({k: v for k, v in (document or {}).items() if k != "task"})
        trial = "" if cluster.trial is None else f', "trial": {json.dumps(cluster.trial)}'
        if rest is None:
            lines.append(f"# {name} would be longer than Linux lets a variable be: it is left out")
            continue
        begin, end = shlex.quote('{"task": {"type": "'), shlex.quote(f"{trial}}}, {rest[1:]}")
        lines.append(f"""export {prefix}{name}={begin}"{kind}"'", "index": '"$fairlead_index"{end}""")
    return lines


def hostfile(cluster: Cluster) -> str:
    """Hosts as MPI and DeepSpeed's launcher read them; slots are tasks, or cards where a node has one task."""
    slots = {host: 0 for pool in cluster.pools for host in pool.hosts}
    for pool in cluster.pools:
        for host in pool.hosts:
            slots[host] += max(pool.cards, pool.ranks_per_node) if pool.ranks_per_node == 1 else pool.ranks_per_node
    return "".join(f"{host} slots={count}\n" for host, count in slots.items())


def _named(cluster: Cluster, name: str) -> PoolHosts:
    return next(pool for pool in cluster.pools if pool.name == name)


def _document(cluster: Cluster, rank: int, kind: Any, within: Mapping[str, list[str]]) -> dict[str, Any] | None:
    found = groups(cluster)
    if sum(len(group.addresses) for group in found) < 2:
        return None
    group = next(g for g in reversed(found) if g.first <= rank)
    trial = {} if cluster.trial is None else {"trial": cluster.trial}
    task = {"type": kind(group), "index": rank - group.first, **trial}
    return {"cluster": within, "task": task, "environment": "cloud", "job": custom_job_spec(cluster)}


def _place_lines(found: Sequence[Group]) -> Iterator[str]:
    """Which task number $RANK is; the last group that begins with no higher a rank is its own."""
    for group in found:
        words = f'fairlead_pool={group.name} fairlead_role={group.role} fairlead_index="$((RANK - {group.first}))"'
        yield f'[ "$RANK" -lt {group.first} ] || {{ {words}; }}'


def _short(document: Mapping[str, Any]) -> str | None:
    """As JSON, without the job's spec where that makes it too long; None where it is too long without."""
    for left_out in ((), ("job",)):
        text = json.dumps({k: v for k, v in document.items() if k not in left_out})
        if len(text) < LONGEST:
            return text
    return None
