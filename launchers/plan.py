"""What will be executed: the document that a spec becomes, and that everything after the launch reads.

A Plan holds what all members of a job share. How it comes from a spec is planning.py's, and what one attempt of
one member makes of it step.py's. Standard library only, because the supervisor on a node reads it too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from conf import job_schema, schema
from conf.document import from_document, to_document
from launchers import near, wrapped
from launchers.apptainer import container
from launchers.exported import Export
from launchers.layout import CHIEFS, Place, Unit, replica_of, units
from launchers.programs.words import Installed


@dataclass(frozen=True, kw_only=True)
class PoolPlan:
    """One pool: where its ranks run, in what, and what they are."""

    name: str
    """Vertex's name of the pool: workerpool0 is the chief's."""
    nodes: int
    ranks_per_node: int
    cpus_per_rank: int
    gres: str | None
    container: container.ContainerPlan | None
    env: Mapping[str, str]
    program: tuple[str, ...]
    stage_dir: str | None = None
    """Folder on a node's own disk, where our trainer keeps staged data for all jobs of the user."""
    passed: tuple[str, ...] = ()
    """Variables that a container gets as the host has them: credentials of data at an address."""
    place: Place = CHIEFS
    mem: str | None = None
    """Of each node, restated for its steps where there are several pools."""
    mem_gb: float | None = None
    """What the processes of a node may take together, where Slurm does not see to it; None where it does."""
    cwd: str | None = None
    """Folder the program starts in, below the member's or in the image; None is the member's own."""
    installed: Installed | None = None
    """What was installed for it, verified on the node."""

    @property
    def ranks(self) -> int:
        return self.nodes * self.ranks_per_node

    @property
    def ours(self) -> bool:
        """Whether it is our trainer, which alone stages data, and itself says when it begins what."""
        return self.stage_dir is not None

    @property
    def size(self) -> tuple[int, int]:
        """Nodes, and ranks on each."""
        return self.nodes, self.ranks_per_node


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A job, ready to be frozen and submitted; one of several where its members differ in what they ask for."""

    job: str
    run_dir: str
    launcher: str
    python: str
    """Host interpreter of the supervisor and the finish step."""
    members: int
    """Of the whole job."""
    shape: int
    """Which of the job's plans this is; each member names its own in members.jsonl."""
    max_parallel: int | None
    """Allocations at once, over all the job's plans."""
    max_array: int
    """One more than the highest index an array of this cluster may have."""
    per_allocation: int
    """Members that run in one allocation, one after the other."""
    max_requeues: int
    notice_s: int
    scratch_dir: str
    setup: tuple[str, ...]
    pools: tuple[PoolPlan, ...]
    sbatch: Mapping[str, str | int | float | bool]
    """Options of the batch job by their long names."""
    pool: str | None = None
    """Name of the held allocation that its members run in, with launcher pool."""
    time_limit_min: int | None = None
    """Of a member, where Slurm does not see to it; None where it does."""
    search: bool = False
    """Whether its members are the trials of a search."""
    parameters: Literal["arguments", "overrides", "environment", "none"] = "none"
    """How a member's `params` reach its program."""
    metrics: job_schema.Metrics = field(default_factory=job_schema.Metrics)
    """Where the reports of a program come from that is not our trainer."""
    restarts: job_schema.Restarts = field(default_factory=job_schema.Restarts)
    hang: job_schema.Hang | None = None
    """Its ranks' heartbeats are watched: they are our trainer's."""
    silent_min: float | None = None
    components: tuple[Mapping[str, str | int | float | bool], ...] = ()
    """Likewise of a heterogeneous job's further components: pools that ask for something else than the chief's."""
    worker_restarts: int = 0
    """How often a worker that fails is started again by itself; 0 where the ranks are one group."""
    max_wait_min: float | None = None
    experiment: str | None = None
    """Where it is tracked, if it is."""
    metric: str | None = None
    """Of a search: the objective's."""
    notice: Literal["SIGUSR2", "SIGTERM"] = "SIGUSR2"
    """What tells the ranks that the time limit is near. A program that is not ours knows SIGTERM, if any, as clouds
    send it; our trainer is told by another signal than that by which Slurm and local peers end it."""

    wrapping: wrapped.Wrapping | None = None
    """What stands between its ranks and their logs; None where nothing does: our own trainer, without secrets."""
    copies: near.Near | None = None
    """Where its nodes keep copies of what they run; None where they keep none."""
    export: Export | None = None
    """Which splits of the data its programs find as files."""
    secrets: Mapping[str, schema.Secret] = field(default_factory=dict)
    kept: str | None = None
    """File outside of the run, in which secrets wait that come from the environment of who launched."""

    @property
    def ranks(self) -> int:
        """Over all pools."""
        return sum(pool.ranks for pool in self.pools)

    def replica(self, rank: int) -> str:
        """The replica of which a rank is: workerpool1-0."""
        return replica_of(rank, [(pool.name, pool.place, pool.size) for pool in self.pools])


def plans_from(document: Mapping[str, Any]) -> tuple[Plan, ...]:
    """The plans of a job from its plan.json."""
    return tuple(from_document(Plan, plan) for plan in document["plans"])


def plans_document(plans: Sequence[Plan]) -> dict[str, Any]:
    """For plan.json: what all plans share stands first, for those who only want that."""
    first = plans[0]
    shared = ("job", "launcher", "members", "per_allocation")
    return {**{name: getattr(first, name) for name in shared}, "plans": [to_document(plan) for plan in plans]}


def apart(plans: Sequence[Plan]) -> frozenset[int]:
    """Plans whose allocations are heterogeneous jobs, which no array can have."""
    return frozenset(plan.shape for plan in plans if plan.components)


def units_of(plan: Plan) -> tuple[Unit, ...]:
    """What is started in each attempt, the chief first."""
    found: list[Unit] = []
    for i, pool in enumerate(plan.pools):
        found += units(i, pool.name, pool.place, pool.size, alone=i > 0 and plan.worker_restarts > 0)
    return tuple(found)


def unit_of(plan: Plan, rank: int) -> Unit | None:
    """The unit that a rank is part of, where there are several pools."""
    several = units_of(plan) if len(plan.pools) > 1 else ()
    return next((unit for unit in reversed(several) if unit.first_rank <= rank), None)
