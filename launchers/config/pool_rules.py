"""The rules of worker pools, as Vertex has them: which there are, how large, and what they may run.

As in rules.py: a rule's parameters name the sections it looks at, and check.py finds it. `pools` are all pools
that are there, the chief's first; a plain job has that one alone, and is as large as it likes. What a pool's own
sections must be is asked of each pool by the rules of those sections.
"""

from __future__ import annotations

from collections.abc import Iterator

from conf.job_schema import Job
from conf.schema import Launcher, Pool
from launchers.config.pools import MOST

Finding = tuple[str, str, str]
ORDER = "0 chief, 1 workers, 2 reducers or parameter servers, 3 evaluators"


def pools_are_at_most_four(pools: tuple[Pool, ...]) -> Iterator[Finding]:
    last = pools[-1].number
    if last >= MOST:
        yield f"there are {last + 1} pools, and may be {MOST}: {ORDER}", f"pools.{last}", "leave the others out"


def chief_is_one_replica(pools: tuple[Pool, ...]) -> Iterator[Finding]:
    nodes = pools[0].machine.nodes
    if len(pools) > 1 and nodes != 1:
        what = f"machine.nodes of pool 0 is {nodes}, but the chief is one replica"
        do = f"use pools.0.machine.nodes=1, and have {nodes - 1} more in pool 1: pools.1.machine.nodes={nodes - 1}"
        yield what, "pools.0.machine.nodes", do


def tpu_is_one_replica(pools: tuple[Pool, ...]) -> Iterator[Finding]:
    for pool in pools:
        place = f"pools.{pool.number}." if len(pools) > 1 else ""
        if pool.accelerator.kind == "tpu" and (len(pools) > 1 or pool.machine.nodes > 1):
            what = f"accelerator.kind is 'tpu', which takes one pool of one replica, but there are {len(pools)} pool(s)"
            what += f" and {pool.machine.nodes} node(s) in this one"
            yield what, f"{place}accelerator.kind", "use one pool and machine.nodes=1, or another accelerator"


def trainers_are_one_group(pools: tuple[Pool, ...], job: Job) -> Iterator[Finding]:
    kinds = [(pool.job or job).kind for pool in pools]
    chief = pools[0].accelerator
    for pool, kind in zip(pools, kinds, strict=True):
        place, card = f"pools.{pool.number}", pool.accelerator
        if "trainer" in kinds and kind != kinds[0]:
            what = f"job.kind is {kind!r} in pool {pool.number} and {kinds[0]!r} in pool 0"
            yield (
                what,
                f"{place}.job.kind",
                "our trainer runs in all pools of a job or in none: its ranks are one group",
            )
        elif kind == "trainer" and (card.device, card.backend) != (chief.device, chief.backend):
            what = f"pool {pool.number} computes on {card.device} with {card.backend}, pool 0 on {chief.device} with "
            what += f"{chief.backend}: our trainer's ranks are one group"
            yield what, f"{place}.accelerator", "give all its pools the same kind of accelerator"


def waiting_is_in_a_queue(launcher: Launcher) -> Iterator[Finding]:
    if launcher.kind != "slurm" and launcher.max_wait_min is not None:
        where = {"local": "nobody waits for machines", "pool": "members wait for no queue of Slurm's"}[launcher.kind]
        what = f"launcher.max_wait_min is {launcher.max_wait_min:g}, but launcher={launcher.kind}, where {where}"
        yield what, "launcher.max_wait_min", "use launcher=slurm, or leave it out"
