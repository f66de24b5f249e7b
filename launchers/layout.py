"""Where the pools of a job get their nodes, and which step of Slurm's each of their replicas is part of. Pure.

Pools that ask for the same of each node share one allocation, as all do in one that is held: their steps lie behind
each other in it, or in the part that their member has been given. Others are the components of a heterogeneous job.
A unit is what is started, and if need be started again, as one step: a whole pool, or one of its replicas where a
worker that fails is started again by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Options = Mapping[str, str | int | float | bool]


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One step of one attempt, or as many processes of this machine."""

    name: str
    """workerpool1, or workerpool1-0 for one replica of it."""
    pool: int
    """Which of the plan's pools."""
    first_rank: int
    ranks: int
    first_node: int
    """Counted over all pools."""
    nodes: int
    relative: int
    """Counted in its allocation, in its component, or in its member's part of a held one."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a pool lies."""

    first_rank: int = 0
    first_node: int = 0
    group: int | None = None
    """Its component of a heterogeneous job; None where all pools share one allocation."""


CHIEFS = Place()


def requests(asked: Sequence[Options]) -> list[Options]:
    """What is asked of Slurm, for pools that ask for these: one allocation, or one for each."""
    first = asked[0]
    if any(_of_a_node(each) != _of_a_node(first) for each in asked):
        return list(asked)
    merged = {**first, "nodes": sum(int(each["nodes"]) for each in asked)}
    if any(each["ntasks_per_node"] != first["ntasks_per_node"] for each in asked):
        merged |= {"ntasks_per_node": 1, "cpus_per_task": _cpus(first)}
    return [merged]


def _cpus(asked: Options) -> int:
    return int(asked["ntasks_per_node"]) * int(asked["cpus_per_task"])


def _of_a_node(asked: Options) -> dict[str, Any]:
    """What Slurm is asked of each node: how its CPUs are shared out is the step's."""
    rest = {k: v for k, v in asked.items() if k not in ("nodes", "ntasks_per_node", "cpus_per_task")}
    return {**rest, "cpus": _cpus(asked)}


def places(sizes: Sequence[tuple[int, int]], shared: bool) -> list[Place]:
    """Of pools with so many nodes and ranks per node; `shared` is whether they share one allocation."""
    found, ranks, nodes = list[Place](), 0, 0
    for i, (count, per_node) in enumerate(sizes):
        found.append(Place(first_rank=ranks, first_node=nodes, group=None if shared else i))
        ranks, nodes = ranks + count * per_node, nodes + count
    return found


def units(index: int, name: str, place: Place, size: tuple[int, int], alone: bool) -> Iterator[Unit]:
    """The units of a pool with so many nodes and ranks per node: each replica is `alone`, or they are one."""
    nodes, per_node = size
    before = place.first_node if place.group is None else 0
    for i in range(nodes if alone else 1):
        yield Unit(
            name=f"{name}-{i}" if alone else name,
            pool=index,
            first_rank=place.first_rank + i * per_node,
            ranks=per_node if alone else nodes * per_node,
            first_node=place.first_node + i,
            nodes=1 if alone else nodes,
            relative=before + i,
        )


def replica_of(rank: int, pools: Sequence[tuple[str, Place, tuple[int, int]]]) -> str:
    """The replica that a rank belongs to: workerpool1-0."""
    name, place, (_, per_node) = next(p for p in reversed(pools) if p[1].first_rank <= rank)
    return f"{name}-{(rank - place.first_rank) // per_node}"
