"""The verb `pool`: hold an allocation that jobs run in without queueing, list those there are, end one.

Up is one sbatch, whose script is a holder of ours; everything later is files and Slurm. How jobs get into one is
queue/pool.py's, who runs where in it queue/places.py's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import getpass
import math
import re
import shutil
import sys
import time
from collections.abc import Callable
from typing import Any

from conf import schema
from launchers.command import output_of
from launchers.errors import CommandError, Problem, SiteError, SpecError
from launchers.folders import folder_of
from launchers.freeze import new_job_id
from launchers.launch import Request, checked
from launchers.planning import Facts, plan_of
from launchers.queue import pool as queue_pool
from launchers.queue import scheduler, slurm
from launchers.queue.places import rest, rooms_of, rows_held
from launchers.run_folder import snapshot
from launchers.run_folder.pool_folder import PoolFolder, find_pool, known_pools, remember
from launchers.run_folder.record import Run, locked, make_private, write_json, write_text
from sweeps.names import nearest

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
SILENT = ("job=command", "job.command=[holder]", "job.metrics.kind=none", "tracking=none", "launcher=slurm")
"""A pool has machines and no program: what else a document needs does not matter."""
POLL_S = 0.5
DOWN_S = 30.0
"""How long a holder may take to see that nothing runs and leave, before Slurm is told."""


@dataclasses.dataclass(frozen=True)
class Wish:
    """What was asked of the verb besides the name."""

    wait: bool = False
    force: bool = False


def up(name: str | None, request: Request, wish: Wish, say: Callable[[str], None]) -> dict[str, Any]:
    """Submit the allocation; its row. With `wait` that of one that runs.

    Raises SpecError for a name that is up or cannot be one, SiteError when Slurm does not take it or, with `wait`,
    when it ends before it begins.
    """
    name = _name(name, "up")
    spec = _spec(request)
    scheduler.must_be_here()
    with locked(make_private(folder_of(spec.site.runs_dir) / "pools") / ".lock"):
        there = find_pool(name)
        if there is not None and queue_pool.state_of(there)[0] != "ENDED":
            do = f"fairlead pool down {name}, or use another name"
            raise SpecError([Problem(f"pool {name} is already there", str(there.path), do)])
        pool = _submitted(name, spec)
    while wish.wait and (state := queue_pool.state_of(pool)[0]) != "UP":
        if state == "ENDED":
            raise SiteError(f"pool {name} ended before it began", where=str(pool.path / "logs"), do="read its log")
        time.sleep(POLL_S)
    if not wish.wait:
        say(f"wait until it runs: fairlead pool list   (jobs may be handed in already: {_use(name)})")
    return row(pool)


def down(name: str | None, wish: Wish) -> dict[str, Any]:
    """End an allocation. Raises SpecError where there is none, or where jobs are in it and `force` was not said."""
    name = _name(name, "down")
    pool = find_pool(name)
    if pool is None:
        names = [p.asked["name"] for p in known_pools()]
        raise SpecError([Problem(f"there is no pool {name!r}", "the command line", nearest(name, names))])
    if queue_pool.state_of(pool)[0] == "ENDED":
        return row(pool)
    if (jobs := pool.jobs()) and not wish.force:
        do = f"fairlead wait or cancel them, or end them with it: fairlead pool down {name} --force"
        raise SpecError([Problem(f"pool {name} has jobs: {', '.join(jobs)}", str(pool.path), do)])
    write_json(pool.down, {"by": getpass.getuser(), "t": time.time()})
    if pool.jobs() or not _left_by_itself(pool):  # also one that was handed in just now
        ids = [queued.job for queued in scheduler.queue([pool.id])]
        if ids:
            output_of(["scancel", *ids], env=slurm.client_environment(), do="try again when Slurm answers")
    return row(pool)


def listed() -> list[dict[str, Any]]:
    """A row for each pool whose folder is there, oldest first, with one squeue call for all."""
    pools = known_pools()
    queued = scheduler.queue([pool.id for pool in pools]) if pools else []
    return [row(pool, queued) for pool in pools]


def row(pool: PoolFolder, queued: list[scheduler.Queued] | None = None) -> dict[str, Any]:
    """What a person wants to know of a pool: state, nodes, what is free, who is in it, until when."""
    state, reason = queue_pool.state_of(pool, queued)
    asked, held = pool.asked, pool.held or {}
    alive = state != "ENDED"
    running = [r for r in rows_held(pool) if state == "UP" and r["job"] in pool.jobs()]
    left = rest(rooms_of(pool), running) if state == "UP" else {}
    ends_at = held.get("ends_at")
    if state == "UP":
        with contextlib.suppress(CommandError, ValueError):  # an administrator may have changed it
            ends_at = scheduler.ends_at(held["slurm_job_id"])
    return {
        "pool": asked["name"],
        "state": "ENDING" if alive and pool.down.exists() else state,
        "reason": reason,
        "asked": {key: asked[key] for key in ("nodes", "cpus", "mem_mb", "gpus", "time_limit_min")},
        "nodes": {name: {"has": vars(room), "free": vars(left[name])} for name, room in rooms_of(pool).items() if left},
        "ends_at": ends_at,
        "jobs": pool.jobs(),
        "running": [{"job": r["job"], "member": r["member"], "nodes": r["nodes"]} for r in running],
        "slurm_job_id": held.get("slurm_job_id"),
        "folder": str(pool.path),
    }


def _submitted(name: str, spec: schema.Spec) -> PoolFolder:
    """A pool's folder, whole before Slurm hears of it. One that Slurm surely refused leaves none."""
    from launchers.queue.submit import queue_script, surely_refused

    pool = PoolFolder(folder_of(spec.site.runs_dir) / "pools" / new_job_id(name))
    facts = Facts(job=pool.id, run_dir=pool.path, python=sys.executable, members=1)
    plan = plan_of(spec, facts)
    for folder in (pool.path / "logs", pool.inbox, pool.taken):
        make_private(folder)
    snapshot.take_ours(pool.path / "code")
    write_json(pool.path / "pool.json", _asked(name, spec))
    text = slurm.pool_script(plan)
    write_text(pool.path / "job.sbatch", text)
    remember(pool)
    try:
        queue_script(Run(pool.path), pool.id, text)
    except CommandError as e:
        if surely_refused(e):
            shutil.rmtree(pool.path, ignore_errors=True)
        raise
    return pool


def _asked(name: str, spec: schema.Spec) -> dict[str, Any]:
    chief = spec.pools[0]
    machine, cards = chief.machine, chief.accelerator
    ranks = schema.ranks_per_node(chief)
    return {
        "name": name,
        "nodes": machine.nodes,
        "cpus": machine.max_cpus if machine.exclusive else ranks * machine.cpus_per_rank,
        "mem_mb": math.ceil(machine.mem_gb * 1024),
        "gpus": cards.count,
        "gpu_type": cards.slurm_type,
        "constraint": machine.constraint,
        "disk": machine.disk.kind,
        "time_limit_min": machine.time_limit_min,
    }


def _spec(request: Request) -> schema.Spec:
    told = [word for word in request.overrides if word.startswith(("job", "launcher=", "tracking"))]
    if told:
        do = "leave it out: a pool has machines, its jobs have programs"
        raise SpecError([Problem(f"a pool takes no {told[0]!r}", "the command line", do)])
    wanted = dataclasses.replace(request, overrides=(*SILENT, *request.overrides))
    return checked(wanted).specs[0]


def _left_by_itself(pool: PoolFolder) -> bool:
    """Whether the holder went within some time; one that has not begun never does."""
    until = time.monotonic() + DOWN_S
    while queue_pool.state_of(pool)[0] == "UP" and time.monotonic() < until:
        if pool.jobs():
            return False
        time.sleep(POLL_S)
    return queue_pool.state_of(pool)[0] == "ENDED"


def _name(name: str | None, action: str) -> str:
    if name is None or "=" in name or not NAME.fullmatch(name):
        what = f"pool {action} needs a name" if name is None or "=" in name else f"{name!r} is no name for a pool"
        do = f"fairlead pool {action} mine   (letters, digits, . _ -)"
        raise SpecError([Problem(what, "the command line", do)])
    return name


def _use(name: str) -> str:
    return f"fairlead launch ... launcher=pool launcher.pool={name}"


def pool_text(rows: list[dict[str, Any]]) -> list[str]:
    """A line for each pool and one for each member that runs in it."""
    lines = []
    for one in rows:
        asked, until = one["asked"], one["ends_at"]
        of = f"{asked['nodes']} node(s) x {asked['cpus']} CPUs, {asked['mem_mb']} MB, {asked['gpus']} accelerators"
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(until)) if until else ""
        ended = one["state"] == "ENDED"
        ends = f"   {'ended' if ended and until < time.time() else 'until'} {when}" if when and not ended else ""
        reason = f" ({one['reason']})" if one["reason"] else ""
        lines.append(f"{one['pool']}   {one['state']}{reason}   {of}{ends}")
        for name, node in one["nodes"].items():
            free = node["free"]
            lines.append(f"  {name}  free {free['cpus']} CPUs, {free['mem_mb']} MB, {free['gpus']} accelerators")
        lines += [f"  {r['job']} member {r['member']} on {', '.join(r['nodes'])}" for r in one["running"]]
        waiting = [job for job in one["jobs"] if job not in {r["job"] for r in one["running"]}]
        what = "was lost with it (fairlead retry when it is up again)" if ended else "waits, or is at its end"
        lines += [f"  {job} {what}" for job in waiting]
    return lines


def act(
    action: str, name: str | None, request: Request, wish: Wish, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """The rows of the pools that an action was about."""
    if action == "list":
        return [one for one in listed() if name is None or one["pool"] == name]
    return [up(name, request, wish, say) if action == "up" else down(name, wish)]
