"""From a plan to one attempt of one member: the exact argument list, environment and rank script.

Pure, and the supervisor on the node calls the same `step_of` that `fairlead plan` prints. The text of rank.sh is
rank_script.py's, Slurm's batch script queue/slurm.py's. Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from launchers import contract, exported, near, wrapped
from launchers.apptainer import container
from launchers.cluster import NOBODY, Cluster, Located, PoolHosts, cluster, unknown_hosts
from launchers.config.parameters import arguments, overrides, variables
from launchers.layout import Unit
from launchers.plan import Plan, PoolPlan, unit_of, units_of
from launchers.rank_script import Rank, begin_event, end_script, rank_script
from launchers.run_folder import client_store


@dataclass(frozen=True, kw_only=True)
class Step:
    """One attempt of one member: what the supervisor starts."""

    argv: tuple[str, ...]
    """`srun ... rank.sh` on Slurm; rank.sh itself, once per rank, on this machine."""
    env: Mapping[str, str]
    """What rank.sh gives the program whatever its rank; what else a rank is told: contract.of_rank."""
    program: tuple[str, ...]
    """What rank.sh becomes by exec: `apptainer exec ... program`, or the program itself (behind host/piped.py, where
    that stands between it and its log)."""
    rank_script: str
    """Text of rank.sh: one rank's names, then `program`."""
    scratch: str | None
    """Folder on each node's own disk that the container writes to; removed after the attempt."""
    name: str = ""
    """What Slurm calls it."""
    script: str = "rank.sh"
    """Name of its file."""
    cluster: Cluster = NOBODY
    """All ranks, and where they are."""
    rank_end: str = ""
    """Text of rank-end.sh, which Slurm runs when a rank has ended; empty where nothing is to be done."""
    private: str | None = None
    """Folder in each node's memory with the files of secrets; removed after the attempt."""

    @property
    def folders(self) -> tuple[str, ...]:
        """On each node, to be removed after the attempt."""
        return _folders(self.scratch, self.private)


@dataclass(frozen=True)
class Start:
    """Which part of an attempt is started, and where it is: what a plan cannot know."""

    located: Located | None = None
    unit: Unit | None = None


UNKNOWN = Start()


def step_of(
    plan: Plan, member: int, attempt: int, params: Mapping[str, Any] = MappingProxyType({}), start: Start = UNKNOWN
) -> Step:
    """The exact step of one attempt of member `member`, whose spec has these `params`; of several pools that of the
    unit that is started, or the chief's. While it is not located, words in angle brackets stand for what is known
    only at its start."""
    unit = start.unit or (units_of(plan)[0] if len(plan.pools) > 1 else None)
    of = _Attempt(plan, plan.pools[unit.pool if unit else 0], unit, member, attempt)
    ways = {"arguments": arguments, "overrides": overrides}
    own = ways[plan.parameters](params) if plan.parameters in ways else ()
    all_pools = _cluster(plan, member, own, start.located)
    env = _environment(of, all_pools, variables(params) if plan.parameters == "environment" else {})
    boxed = any(pool.container is not None for pool in plan.pools)  # they are cleaned together, on all their nodes
    program, private, mounts = _program(of, own)
    rank = Rank((*_front(of), *program), of.scratch, unit is not None, mounts, of.cwd)
    return Step(
        argv=_argv(of),
        env=env,
        cluster=all_pools,
        program=program,
        rank_script=rank_script(plan, of.pool, env, all_pools, rank),
        scratch=of.scratch if boxed else None,
        name=of.step_name,
        script=of.script,
        rank_end=_rank_end(of, rank, private),
        private=private,
    )


def told(plan: Plan, member: int, rank: int, params: Mapping[str, Any] = MappingProxyType({})) -> dict[str, str]:
    """All that one rank of a first attempt finds in its environment, of several pools what its own is told: for people
    who look at a plan. The rank is there."""
    unit = unit_of(plan, rank)
    step = step_of(plan, member, 0, params, Start(None, unit))
    found = contract.of_rank(step.cluster, step.env, rank)
    if unit is None:
        return found
    pool = plan.pools[unit.pool]
    node, local = divmod(rank - pool.place.first_rank, pool.ranks_per_node)
    return {
        **found,
        "LOCAL_RANK": str(local),
        "LOCAL_WORLD_SIZE": str(pool.ranks_per_node),
        "NODE_RANK": str(pool.place.first_node + node),
        "FAIRLEAD_REPLICA": str(node),
    }


@dataclass(frozen=True)
class _Attempt:
    """What is started, and where it writes."""

    plan: Plan
    pool: PoolPlan
    unit: Unit | None
    member: int
    number: int

    @property
    def member_dir(self) -> Path:
        return Path(self.plan.run_dir, "members", str(self.member))

    @property
    def dir(self) -> Path:
        return self.member_dir / f"attempt-{self.number}"

    @property
    def cwd(self) -> str:
        """Where the program starts: a folder of its own is below the member's."""
        return str(self.member_dir / (self.pool.cwd or ""))

    @property
    def step_name(self) -> str:
        return step_name(self.plan, self.member, self.unit)

    @property
    def script(self) -> str:
        return "rank.sh" if self.unit is None else f"rank-{self.pool.name}.sh"

    @property
    def scratch(self) -> str:
        return f"{self.plan.scratch_dir}/fairlead-{self.plan.job}-{self.member}"

    @property
    def place(self) -> wrapped.Place:
        plan, member = self.plan, f"{self.plan.job}-{self.member}"
        return wrapped.Place(plan.python, plan.run_dir, str(self.dir), member, self.scratch)


def _argv(of: _Attempt) -> tuple[str, ...]:
    script = str(of.dir / of.script)
    by = () if of.plan.launcher == "local" else (*_srun(of), *_within(of))
    counted_from = () if of.unit is None else (str(of.unit.first_rank), str(of.unit.first_node))
    return (*by, script, *counted_from)


def _environment(of: _Attempt, all_pools: Cluster, said: Mapping[str, str]) -> dict[str, str]:
    plan = of.plan
    run_name = plan.job if plan.members == 1 else f"{plan.job}.{of.member}"
    names = {
        **of.pool.env,
        **said,
        **contract.names(Path(plan.run_dir), plan.job, of.member, of.number),
        **contract.tracked(plan.experiment, plan.metric, run_name),
        **contract.meeting(all_pools, sum(pool.nodes for pool in plan.pools)),
        **({"FAIRLEAD_POOL": of.pool.name} if of.unit is not None else {}),
        **({"CLOUD_ML_TRIAL_ID": all_pools.trial} if all_pools.trial is not None else {}),
        **(exported.variables(plan.export, plan.run_dir, of.member) if plan.export else {}),
    }
    if plan.experiment is not None and not of.pool.ours and "MLFLOW_TRACKING_URI" not in names:
        names |= client_store.variables(of.member_dir, plan.job, plan.experiment)
    return names


def _program(of: _Attempt, own: Sequence[str]) -> tuple[tuple[str, ...], str | None, tuple[container.Mount, ...]]:
    """The container, the program and its `own` arguments; the folder of its secrets' files; what the container sees."""
    box = of.pool.container
    private = wrapped.private_folder(of.place) if wrapped.has_files(of.plan.wrapping) else None
    program, mounts = (*of.pool.program, *own), tuple[container.Mount, ...]()
    if box is not None:
        files = [container.Mount(source=private, target=wrapped.INSIDE)] if private else []
        if of.plan.export:
            folder = str(exported.folder_of(of.plan.run_dir, of.member))
            files.append(container.Mount(source=folder, target=folder))
        mounted = container.with_mounts(box, files)
        program = (*container.argv_of(mounted, of.member_dir, of.scratch, of.cwd), *program)
        mounts = container.mounts_of(mounted, of.member_dir)
    return program, private, mounts


def _front(of: _Attempt) -> tuple[str, ...]:
    """What stands between the rank and its log, behind what fetches copies to the node's disk and before what shows the
    container its devices."""
    plan, box = of.plan, of.pool.container
    front = wrapped.words(plan.wrapping, of.place, box) if plan.wrapping else ()
    front = (*front, *near.device_words(box, of.place))
    if plan.copies is None:
        return front
    origins = near.Origins(container=box, installed=of.pool.installed)
    return (*near.words(plan.copies, of.place, origins, begin_event(of.pool)), *front)


def _rank_end(of: _Attempt, rank: Rank, private: str | None) -> str:
    first_rank = of.unit.first_rank if of.unit else 0
    lines = [wrapped.settle_line(of.place, first_rank)] if of.plan.wrapping else []
    folders = _folders(of.scratch, private) if of.pool.container else ()
    return end_script(lines, rank, folders, of.pool.ranks_per_node) if lines or folders else ""


def _folders(scratch: str | None, private: str | None) -> tuple[str, ...]:
    own = (container.shm_of(scratch), scratch) if scratch else ()
    return (*own, *((private,) if private else ()))


def _cluster(plan: Plan, member: int, own: Sequence[str], located: Located | None) -> Cluster:
    """All pools, and the job as Vertex would have it."""
    nodes = [1] * len(plan.pools) if plan.launcher == "local" else [pool.nodes for pool in plan.pools]
    hosts = located.hosts if located else unknown_hosts(nodes)
    pools = [_pool_hosts(plan, pool, there, own) for pool, there in zip(plan.pools, hosts, strict=True)]
    time_min = plan.sbatch.get("time")
    job = {
        "base_output_directory": {"output_uri_prefix": str(Path(plan.run_dir, "members", str(member)))},
        **({"scheduling": {"timeout": f"{60 * time_min}s"}} if isinstance(time_min, int) else {}),
        **({"experiment": plan.experiment} if plan.experiment else {}),
    }
    return cluster(pools, located.port if located else None, str(member) if plan.search else None, job)


def _pool_hosts(plan: Plan, pool: PoolPlan, hosts: tuple[str, ...], own: Sequence[str]) -> PoolHosts:
    kind, cards = contract.cards_of(pool.gres)
    kind = kind or str(pool.gres).partition(":")[0]
    each = pool.ranks if plan.launcher == "local" else pool.ranks_per_node
    machine = {
        "machine_type": str(plan.sbatch.get("partition", plan.launcher)),
        **({"accelerator_type": kind, "accelerator_count": max(1, cards // each)} if cards else {}),
    }
    image = pool.container.image if pool.container else None
    spec = contract.worker_pool_spec((*pool.program, *own), image, pool.env, machine)
    return PoolHosts(name=pool.name, hosts=hosts, ranks_per_node=each, cards=cards, spec=spec)


def _srun(of: _Attempt) -> tuple[str, ...]:
    """srun's options, each restated: since 22.05 srun does not inherit cpus-per-task, and a default
    binding or an MPI plug-in can end a step before the program starts (manual page of srun). The environment has the
    chief's memory per node, which would hold for every pool's steps (measured). Who ends a step of which one rank has
    left is srun.py, also where a site's KillOnBadExit or WaitTime would."""
    plan, pool, unit = of.plan, of.pool, of.unit
    log = str(of.dir).replace("%", "%%") + (f"/step-{unit.name}.log" if unit else "/rank-%t.log")
    which: tuple[str, ...] = ()
    if unit is not None:
        group = (f"--het-group={pool.place.group}",) if pool.place.group is not None else ()
        nodes = () if plan.launcher == "pool" else (*group, f"--relative={unit.relative}")
        which = (*nodes, f"--mem={pool.mem}", "--open-mode=append")
    return (
        "srun",
        *which,
        f"--nodes={unit.nodes if unit else pool.nodes}",
        f"--ntasks={unit.ranks if unit else pool.ranks}",
        f"--ntasks-per-node={pool.ranks_per_node}",
        f"--cpus-per-task={pool.cpus_per_rank}",
        *((f"--gres={pool.gres}",) if pool.gres else ()),
        "--distribution=block",
        "--cpu-bind=none",
        "--mpi=none",
        "--kill-on-bad-exit=0",
        "--wait=0",
        "--unbuffered",
        "--input=none",
        f"--job-name={of.step_name}",
        f"--output={log}",
        f"--error={log}",
        *((f"--task-epilog={of.dir}/{end_name(unit)}",) if plan.wrapping or pool.container else ()),
    )


def step_name(plan: Plan, member: int, unit: Unit | None = None) -> str:
    """What the step of a member is called, by which it is told from others of its allocation; of several pools that of
    a unit, or how the names of all of them begin."""
    if len(plan.pools) > 1:
        return f"{plan.job}.{member}.{unit.name if unit else ''}"
    return f"{plan.job}.{member}"


def end_name(unit: Unit | None) -> str:
    """File of a step's `rank_end`."""
    return f"rank-end-{unit.name}.sh" if unit else "rank-end.sh"


def _within(of: _Attempt) -> tuple[str, ...]:
    """What a step in a held allocation says besides, so that it takes its own part and no more. Which nodes is added
    when it is its turn (host/srun.py)."""
    if of.plan.launcher != "pool":
        return ()
    mem = () if of.unit else (f"--mem={of.plan.sbatch['mem']}",)
    return ("--exact", *mem)
