"""Plans written by hand: of a job that has one pool of ranks on one node, for what is said of it."""

from __future__ import annotations

import sys
from typing import Any

from launchers.plan import Plan, PoolPlan
from launchers.run_folder.record import Run


def pool_plan(program: tuple[str, ...], **more: Any) -> PoolPlan:
    """One rank of `program` without a container, but for what `more` says."""
    plain: dict[str, Any] = {"nodes": 1, "ranks_per_node": 1, "cpus_per_rank": 1, "gres": None, "container": None}
    return PoolPlan(**{"name": "workerpool0", "env": {}, **plain, "program": program, **more})


def plan_of_run(run: Run, pool: PoolPlan, **more: Any) -> Plan:
    """A job of one member that runs here, but for what `more` says."""
    plain: dict[str, Any] = {
        "launcher": "local",
        "members": 1,
        "shape": 0,
        "max_parallel": None,
        "max_array": 1001,
        "per_allocation": 1,
        "max_requeues": 3,
        "notice_s": 60,
        "scratch_dir": "/tmp",
        "setup": (),
        "sbatch": {"time": 5},
    }
    return Plan(
        **{"job": run.id, "run_dir": str(run.path), "python": sys.executable, **plain, "pools": (pool,), **more}
    )
