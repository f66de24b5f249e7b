"""What every program is told: where it is, what is its own, and who the others are, under the names it knows.

Programs written for Vertex AI custom training find AIP_*, CLOUD_ML_*, CLUSTER_SPEC and TF_CONFIG; others RANK and
its like, or SLURM_*. The shapes of CLUSTER_SPEC and TF_CONFIG are cluster.py's. Pure, standard library only.

CLOUD_ML_PROJECT_ID and CLOUD_ML_REGION are not among them: Google's packages would ask its cloud about them.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path

from launchers.cluster import (
    PORTS_A_TASK,
    Cluster,
    cluster_spec,
    first_offset,
    first_rank,
    port_text,
    shell_lines,
    tf_config,
)

REPORT_FILES = {"CLOUD_ML_HP_METRIC_FILE": "hypertune.metrics", "FAIRLEAD_REPORTS": "program.jsonl"}
"""Where a program may write its reports, in the attempt's folder; reports.py reads them."""

HOSTFILE = "hostfile"
LOCATED = "located.json"
"""In the attempt's folder."""

RANK_NAMES = """\
export RANK="${SLURM_PROCID:-$RANK}"
export LOCAL_RANK="${SLURM_LOCALID:-$LOCAL_RANK}"
export WORLD_SIZE="${SLURM_STEP_NUM_TASKS:-$WORLD_SIZE}"
export NODE_RANK="${SLURM_NODEID:-$NODE_RANK}"
"""

PART_NAMES = """\
# In an allocation that others have a part of, too: srun says of all of it what is meant of a job's own part.
export SLURM_JOB_NUM_NODES="$SLURM_STEP_NUM_NODES" SLURM_NNODES="$SLURM_STEP_NUM_NODES"
export SLURM_JOB_NODELIST="$SLURM_STEP_NODELIST" SLURM_NODELIST="$SLURM_STEP_NODELIST"
export SLURM_TASKS_PER_NODE="$SLURM_STEP_TASKS_PER_NODE"
"""
"""With Slurm 22.05 SLURM_NODELIST is the whole allocation's, and there is no SLURM_JOB_NUM_NODES (measured)."""

PROFILER_PORTS = ("AIP_TF_PROFILER_PORT", "AIP_HTTP_HANDLER_PORT")
"""In the order of the ports of a task, behind its own."""

SLURM_NAMES = (
    *("SLURM_JOB_ID", "SLURM_JOBID", "SLURM_JOB_NAME", "SLURM_JOB_NODELIST", "SLURM_NODELIST"),
    *("SLURM_JOB_NUM_NODES", "SLURM_NNODES", "SLURM_NTASKS", "SLURM_NPROCS", "SLURM_NTASKS_PER_NODE"),
    *("SLURM_TASKS_PER_NODE", "SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE", "SLURM_JOB_CPUS_PER_NODE"),
    *("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURMD_NODENAME", "SLURM_LAUNCH_NODE_IPADDR"),
    *("SLURM_STEP_ID", "SLURM_STEPID", "SLURM_STEP_NODELIST", "SLURM_STEP_NUM_NODES", "SLURM_STEP_NUM_TASKS"),
    *("SLURM_STEP_TASKS_PER_NODE", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_RESTART_COUNT"),
    *("SLURM_CLUSTER_NAME", "SLURM_JOB_PARTITION", "SLURM_GPUS_ON_NODE", "SLURM_JOB_GPUS", "SLURM_STEP_GPUS"),
    "SLURM_JOB_END_TIME",
)
"""What a program in a container sees of Slurm's variables: those that say where it runs and until when. Lightning's
SLURMEnvironment, jax.distributed, tf.distribute's SlurmClusterResolver and submitit read them. Outside of a container
it has all of them."""


def names(run_dir: Path, job: str, member: int, attempt: int) -> dict[str, str]:
    """What the program of an attempt is told whatever its rank. Folders are absolute, exist before it starts, and end
    in a slash where Vertex's do."""
    folder = run_dir / "members" / str(member)
    now = folder / f"attempt-{attempt}"
    return {
        "FAIRLEAD_SPEC": str(folder / "spec.json"),
        "FAIRLEAD_JOB_ID": job,
        "FAIRLEAD_MEMBER": str(member),
        "FAIRLEAD_ATTEMPT": str(attempt),
        "FAIRLEAD_MEMBER_DIR": str(folder),
        "FAIRLEAD_ATTEMPT_DIR": str(now),
        "AIP_MODEL_DIR": f"{folder / 'model'}/",
        "AIP_CHECKPOINT_DIR": f"{folder / 'checkpoints'}/",
        "AIP_TENSORBOARD_LOG_DIR": f"{folder / 'logs'}/",
        "CLOUD_ML_JOB_ID": job,
        **{name: str(now / file) for name, file in REPORT_FILES.items()},
        "FAIRLEAD_HOSTFILE": str(now / HOSTFILE),
    }


def tracked(experiment: str | None, metric: str | None, run_name: str) -> dict[str, str]:
    """Names of the experiment and the run in which it is recorded, and in a search of the metric that counts."""
    said = {"CLOUD_ML_HP_METRIC_TAG": metric} if metric else {}
    return {**said, "AIP_EXPERIMENT_NAME": experiment, "AIP_EXPERIMENT_RUN_NAME": run_name} if experiment else said


def meeting(cluster: Cluster, nodes: int) -> dict[str, str]:
    """Where the ranks meet: the first host, on a port that was free there; `torchrun --rdzv-endpoint` takes it too.
    So many nodes count for NODE_RANK: on this machine one host stands for several."""
    return {
        "MASTER_ADDR": cluster.pools[0].hosts[0],
        "MASTER_PORT": port_text(cluster.port, 0),
        "NNODES": str(nodes),
    }


def lines_of_rank(cluster: Cluster, pool: str, prefix: str) -> list[str]:
    """Lines of sh behind RANK_NAMES: what differs between the ranks of a pool, to be set under this prefix. Their ports
    are by their place on their host, which on this machine all nodes of a pool share."""
    begin, first = first_offset(cluster, pool), first_rank(cluster, pool)
    each = next(one.ranks_per_node for one in cluster.pools if one.name == pool)
    lines = shell_lines(cluster, prefix)
    for i, name in enumerate(PROFILER_PORTS, 1):
        if cluster.port is None:
            value = shlex.quote(port_text(None, begin + i))
        else:
            value = f'"$(({cluster.port + begin + i} + {PORTS_A_TASK} * ((RANK - {first}) % {each})))"'
        lines.append(f"export {prefix}{name}={value}")
    return lines


def reports_of_rank(said: Mapping[str, str], prefix: str) -> str:
    """Only rank 0's reports count: the others' go into files of their own."""
    others = (f'{prefix}{name}={shlex.quote(said[name])}.rank-"$RANK"' for name in REPORT_FILES)
    return f'[ "$RANK" = 0 ] || export {" ".join(others)}'


def ranks_of(cluster: Cluster) -> int:
    """How many tasks there are, over all pools."""
    return sum(len(pool.hosts) * pool.ranks_per_node for pool in cluster.pools)


def of_rank(cluster: Cluster, said: Mapping[str, str], rank: int) -> dict[str, str]:
    """All that rank.sh sets for one rank, given what is `said` to all: for people who look at a plan.

    Raises IndexError when there is no such rank.
    """
    places = [(p, node, k) for p in cluster.pools for node in range(len(p.hosts)) for k in range(p.ranks_per_node)]
    pool, node, local = places[rank]
    begin = first_offset(cluster, pool.name) + PORTS_A_TASK * local
    found = {
        **said,
        "RANK": str(rank),
        "LOCAL_RANK": str(local),
        "WORLD_SIZE": str(ranks_of(cluster)),
        "LOCAL_WORLD_SIZE": str(pool.ranks_per_node),
        "NODE_RANK": str(node),
        **{name: port_text(cluster.port, begin + i) for i, name in enumerate(PROFILER_PORTS, 1)},
        **({} if rank == 0 else {name: f"{said[name]}.rank-{rank}" for name in REPORT_FILES}),
    }
    shapes = {"CLUSTER_SPEC": cluster_spec(cluster, rank), "TF_CONFIG": tf_config(cluster, rank)}
    return {**found, **{name: json.dumps(shape) for name, shape in shapes.items() if shape is not None}}


def cards_of(gres: str | None) -> tuple[str, int]:
    """Type, as far as one is said, and number of the cards that `gres` asks for on each node."""
    _, _, said = (gres or "gpu:0").partition(":")
    kind, _, count = said.rpartition(":")
    return kind, int(count)


def worker_pool_spec(
    program: tuple[str, ...], image: str | None, env: Mapping[str, str], machine: Mapping[str, object]
) -> dict[str, object]:
    """A pool as Vertex's WorkerPoolSpec has it, but for its replica count; for `job` in CLUSTER_SPEC."""
    container = {
        **({"image_uri": image} if image else {}),
        "command": list(program[:1]),
        "args": list(program[1:]),
        "env": [{"name": name, "value": value} for name, value in env.items()],
    }
    return {"machine_spec": dict(machine), "container_spec": container}
