"""Which nodes of a held allocation a member runs on, and in whose turn: a ledger that the queues in it share.

Turns are given in the order in which they were asked for, one member at a time: who asked first and does not fit
yet holds back those who asked later, so that a member that needs every node gets them. A job that has had its turn
asks anew, behind the others. All who ask are processes of one host (the pool's first); rows of one that died count no
more.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from launchers.plan import Plan
from launchers.process import start_of
from launchers.run_folder.pool_folder import PoolFolder
from launchers.run_folder.record import locked, read_json, write_json


@dataclass(frozen=True)
class Room:
    """What a node has, or has left, or a member needs of it."""

    cpus: int
    mem_mb: int
    gpus: int

    def holds(self, need: Room) -> bool:
        return self.cpus >= need.cpus and self.mem_mb >= need.mem_mb and self.gpus >= need.gpus

    def without(self, need: Room) -> Room:
        return Room(self.cpus - need.cpus, self.mem_mb - need.mem_mb, self.gpus - need.gpus)


def need_of(plan: Plan) -> tuple[int, Room]:
    """How many nodes a member needs, and how much of each: of several pools as much as the largest takes of one."""
    rooms = [
        Room(
            pool.ranks_per_node * pool.cpus_per_rank,
            mem_mb(pool.mem or plan.sbatch["mem"]),
            int(pool.gres.rpartition(":")[2]) if pool.gres else 0,
        )
        for pool in plan.pools
    ]
    most = Room(max(r.cpus for r in rooms), max(r.mem_mb for r in rooms), max(r.gpus for r in rooms))
    return sum(pool.nodes for pool in plan.pools), most


def mem_mb(text: object) -> int:
    """`2048M`, as the plan has it."""
    return int(str(text).rstrip("M"))


def chosen(rooms: Mapping[str, Room], nodes: int, need: Room) -> tuple[str, ...] | None:
    """So many nodes with that much room, in the allocation's order; those with the least, to keep others whole. None
    where there are too few."""
    able = [name for name, room in rooms.items() if room.holds(need)]
    if len(able) < nodes:
        return None
    fullest = sorted(able, key=lambda name: (rooms[name].gpus, rooms[name].cpus, rooms[name].mem_mb))[:nodes]
    return tuple(name for name in rooms if name in fullest)


def rest(rooms: Mapping[str, Room], rows: Sequence[Mapping[str, Any]]) -> dict[str, Room]:
    """What these rows of the ledger leave of each node."""
    left = dict(rooms)
    for row in rows:
        for name in row["nodes"]:
            left[name] = left[name].without(Room(**row["need"]))
    return left


def rooms_of(pool: PoolFolder) -> dict[str, Room]:
    """Each node of the allocation and what it has; nothing before it has begun."""
    return {name: Room(**room) for name, room in (pool.held or {"nodes": {}})["nodes"].items()}


class Places:
    """The ledger, as one queue of the pool sees it."""

    def __init__(self, pool: PoolFolder, job: str) -> None:
        self.pool, self.job = pool, job
        self._file, self._rooms = pool.path / "places.json", rooms_of(pool)
        self._me = {"pid": os.getpid(), "start": start_of(os.getpid())}

    def take(self, member: int, nodes: int, need: Room) -> tuple[str, ...] | None:
        """Nodes for a member, which are its until `give_back`; None where it has to wait for its turn."""
        with locked(self.pool.path / "places.lock"):
            before = self._read()
            held, asking = _living(before["held"]), _living(before["asking"])
            mine = next((row for row in asking if row["job"] == self.job), None)
            if mine is None:
                mine = {"job": self.job, "t": time.time(), "count": nodes, "need": asdict(need), **self._me}
                asking.append(mine)
            found = self._turn(held, sorted(asking, key=lambda row: row["t"]), mine)
            if found is not None:
                asking.remove(mine)
                held.append({"job": self.job, "member": member, "nodes": found, "need": asdict(need), **self._me})
            if (now := {"held": held, "asking": asking}) != before:
                write_json(self._file, now)
        return found

    def give_back(self, member: int | None) -> None:
        """A member has ended; None: nobody of the job waits any more."""
        with locked(self.pool.path / "places.lock"):
            now = self._read()
            if member is None:
                now["asking"] = [row for row in now["asking"] if row["job"] != self.job]
            else:
                now["held"] = [row for row in now["held"] if (row["job"], row["member"]) != (self.job, member)]
            write_json(self._file, now)

    def _turn(
        self, held: Sequence[Mapping[str, Any]], asking: Sequence[Mapping[str, Any]], mine: Mapping[str, Any]
    ) -> tuple[str, ...] | None:
        left = rest(self._rooms, held)
        for row in asking:
            need = Room(**row["need"])
            found = chosen(left, row["count"], need)
            if row is mine or found is None:
                return found if row is mine else None
            left = rest(left, [{"nodes": found, "need": row["need"]}])
        return None

    def _read(self) -> dict[str, list[dict[str, Any]]]:
        return read_json(self._file) or {"held": [], "asking": []}


def rows_held(pool: PoolFolder) -> list[dict[str, Any]]:
    """Who holds what, as the ledger says: job, member, nodes, need."""
    found: list[dict[str, Any]] = (read_json(pool.path / "places.json") or {"held": []})["held"]
    return found


def _living(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row["start"] == start_of(row["pid"])]
