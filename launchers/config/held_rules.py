"""The rules of a job that runs in a held allocation: there is one, and a member fits it and its time.

As in rules.py: a rule's parameters name the sections it looks at, and check.py finds it. Files are read; whether the
allocation lives is asked when the job is handed in (queue/pool.py).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

from conf.machine_schema import Accelerator, Machine
from conf.schema import Launcher, Pool
from launchers.run_folder.pool_folder import PoolFolder, find_pool, known_pools

Finding = tuple[str, str, str]


def pool_is_named_for_a_pool(launcher: Launcher) -> Iterator[Finding]:
    if launcher.kind != "pool" and launcher.pool is not None:
        what = f"launcher.pool is {launcher.pool!r}, but launcher.kind is {launcher.kind!r}"
        yield what, "launcher.pool", f"use launcher=pool launcher.pool={launcher.pool}, or leave launcher.pool out"
    if launcher.kind == "pool" and launcher.pool is None:
        yield "launcher.kind is 'pool', but launcher.pool names none", "launcher.pool", "launcher.pool=NAME"
    if launcher.kind == "pool" and launcher.sbatch:
        what = f"launcher.sbatch has {', '.join(launcher.sbatch)}, but members of a pool are no batch jobs"
        yield what, "launcher.sbatch", "leave it out; `fairlead pool up` takes it"
    if launcher.kind == "pool" and launcher.members_per_allocation > 1:
        what = f"launcher.members_per_allocation is {launcher.members_per_allocation}, but a pool is one allocation"
        yield what, "launcher.members_per_allocation", "leave it out: members of a pool wait for nobody"


def pools_fit_the_pool(launcher: Launcher, pools: tuple[Pool, ...]) -> Iterator[Finding]:
    pool = _pool_of(launcher)
    nodes = sum(each.machine.nodes for each in pools)
    if pool is not None and len(pools) > 1 and nodes > (there := _has(pool)["nodes"]):
        what = (
            f"the {len(pools)} worker pools have {nodes} nodes together, but pool {launcher.pool} has {there} node(s)"
        )
        yield what, "pools", "ask for fewer replicas, or bring up a larger pool"


def pool_is_known(launcher: Launcher) -> Iterator[Finding]:
    if launcher.kind == "pool" and launcher.pool is not None and _pool_of(launcher) is None:
        has = ", ".join(pool.asked["name"] for pool in known_pools()) or "none yet"
        what = f"launcher.pool is {launcher.pool!r}, and there is no such pool (there are: {has})"
        yield what, "launcher.pool", f"fairlead pool up {launcher.pool} machine=... "


def members_fit_the_pool(launcher: Launcher, machine: Machine, accelerator: Accelerator) -> Iterator[Finding]:
    pool = _pool_of(launcher)
    if pool is None:
        return
    has = _has(pool)
    ranks = machine.ranks_per_node or max(1, accelerator.count)
    wanted = (
        ("machine.nodes", f"machine.nodes is {machine.nodes}", machine.nodes, has["nodes"], "node(s)"),
        (
            "machine.cpus_per_rank",
            f"a node gets {ranks} rank(s) with {machine.cpus_per_rank} CPU(s) each",
            ranks * machine.cpus_per_rank,
            has["cpus"],
            "CPU(s) on a node",
        ),
        (
            "machine.mem_gb",
            f"machine.mem_gb is {machine.mem_gb:g} ({math.ceil(machine.mem_gb * 1024)} MB)",
            math.ceil(machine.mem_gb * 1024),
            has["mem_mb"],
            "MB of memory on a node",
        ),
        (
            "accelerator.count",
            f"accelerator.count is {accelerator.count}",
            accelerator.count,
            has["gpus"],
            "accelerator(s) on a node",
        ),
    )
    for key, said, asked, there, of in wanted:
        if asked > there:
            yield f"{said}, but pool {launcher.pool} has {there} {of}", key, "ask for less, or bring up a larger pool"
    kind = accelerator.slurm_type if accelerator.count and has["gpu_type"] else None
    disk = machine.disk.kind if machine.disk.kind != "any" else None
    alike = (
        ("accelerator.slurm_type", kind, has["gpu_type"]),
        ("machine.constraint", machine.constraint, has.get("constraint")),
        ("machine.disk.kind", disk, has.get("disk")),
    )
    for key, said_so, brought in alike:
        if said_so is not None and said_so != brought:
            what = f"{key} is {said_so!r}, but pool {launcher.pool} was brought up with {brought or 'none'!r}"
            yield what, key, "say what the pool was brought up with, or leave it out"


def members_end_before_the_pool(launcher: Launcher, machine: Machine) -> Iterator[Finding]:
    pool = _pool_of(launcher)
    if pool is None:
        return
    left_min = (pool.held["ends_at"] - time.time()) / 60 if pool.held else pool.asked["time_limit_min"]
    if 0 < left_min < machine.time_limit_min:
        what = (
            f"machine.time_limit_min is {machine.time_limit_min}, but pool {launcher.pool} ends in {int(left_min)} min"
        )
        do = f"lower machine.time_limit_min to {int(left_min)} or less" if left_min >= 1 else "bring it up anew"
        yield what, "machine.time_limit_min", do


def _pool_of(launcher: Launcher) -> PoolFolder | None:
    return find_pool(launcher.pool) if launcher.kind == "pool" and launcher.pool is not None else None


def _has(pool: PoolFolder) -> dict[str, Any]:
    """What the pool got, or, before it begins, what was asked for."""
    asked = pool.asked
    if pool.held is None:
        return asked
    rooms = list(pool.held["nodes"].values())
    most = {key: max(room[key] for room in rooms) for key in ("cpus", "mem_mb", "gpus")}
    return {**asked, **most, "nodes": len(rooms)}
