"""Worker pools on a real Slurm: a heterogeneous job, its chief's end, a worker that comes back, grids of them."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.harness import ON_SLURM, QUICK, ROOT, Cluster, attempts, until

pytestmark = pytest.mark.slurm
PROGRAM = "programs_of_pools.py"
SMALL = ("tracking=none", "machine.mem_gb=0.5")


@pytest.fixture
def programs(cluster: Cluster) -> Cluster:
    shutil.copy(ROOT / "tests" / "launchers" / PROGRAM, cluster.work)
    return Cluster(cluster.work, (*ON_SLURM, *SMALL, "job=command", "job.metrics.kind=none"))


def command(*words: object) -> str:
    quoted = ",".join(f"'{word}'" for word in words)
    return f"[{sys.executable},{PROGRAM},{quoted}]"


def workers(nodes: int, deaths: int = 0) -> str:
    machine = f"{{nodes: {nodes}, cpus_per_rank: 2, mem_gb: 0.7}}"
    return f"pools=[{{}},{{machine: {machine}, job: {{command: {command('worker', deaths)}}}}}]"


def heard(run: Path, member: int = 0) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((run / "members" / str(member) / "model" / "heard.json").read_text())
    return found


def test_pools_of_different_machines_meet_and_a_killed_worker_comes_back(programs: Cluster) -> None:
    run = programs.launch(f"job.command={command('chief', 3)}", workers(2, deaths=1))
    ended = programs.wait(run)

    words = heard(run)
    assert ended["state"] == "SUCCEEDED" and [a["state"] for a in attempts(run)] == ["SUCCEEDED"]
    assert sorted((w["RANK"], w["FAIRLEAD_POOL"], w["FAIRLEAD_REPLICA"]) for w in words) == [
        ("0", "workerpool0", "0"),
        ("1", "workerpool1", "0"),
        ("1", "workerpool1", "0"),
        ("2", "workerpool1", "1"),
    ]
    assert len({w["host"] for w in words}) == 3
    assert {w["cpus"] for w in words if w["RANK"] != "0"} == {"2"}
    assert {p.name for p in (run / "members" / "0").glob("told-*")} == {"told-1", "told-2"}
    assert "[workerpool1-1]" in programs.fairlead("logs", str(run)).stdout


def test_pools_of_alike_machines_share_one_allocation(programs: Cluster) -> None:
    pools = f"pools=[{{}},{{machine: {{nodes: 2}}, job: {{command: {command('worker', 1)}}}}}]"
    run = programs.launch(f"job.command={command('chief', 3)}", pools)

    assert programs.wait(run)["state"] == "SUCCEEDED"
    assert "hetjob" not in (run / "job.sbatch").read_text()
    assert len({w["host"] for w in heard(run)}) == 3


@pytest.mark.parametrize("machine", ["{nodes: 2}", "{nodes: 2, mem_gb: 0.7}"], ids=["one allocation", "two parts"])
def test_pools_that_fall_silent_are_ended_with_the_stacks_of_every_rank(programs: Cluster, machine: str) -> None:
    silent = f"[{sys.executable},-c,'import time; time.sleep(600)']"
    pools = f"pools=[{{}},{{machine: {machine}}}]"

    run = programs.launch(f"job.command={silent}", pools, "job.silent_min=0.2", "job.notice_s=5")

    assert programs.wait(run)["state"] == "FAILED"
    (attempt,) = attempts(run)
    assert attempt["cause"] == "hang", attempt
    seen = [(run / f"members/0/attempt-0/stacks-{rank}.txt").read_text() for rank in range(3)]
    assert all("as seen from outside on n" in text and "process " in text for text in seen)
    assert not [path for path in run.glob("logs/*") if "could look from outside" in path.read_text()]


def test_pools_in_a_grid_keep_the_cap_and_are_cancelled_as_one(programs: Cluster) -> None:
    more = ("params.x=1,2,3", "launcher.max_parallel=1", "job.parameters=environment")
    run = programs.launch("-m", f"job.command={command('chief', 99)}", workers(1), *more)
    until(lambda: programs.status(run)["counts"] == {"RUNNING": 1, "QUEUED": 2})

    programs.fairlead("cancel", str(run))

    assert programs.wait(run)["counts"] == {"CANCELLED": 3}
    assert len(programs.status(run)["slurm_ids"]) == 3


def test_trainer_over_two_pools_is_one_group(cluster: Cluster) -> None:
    pools = "pools=[{},{machine: {nodes: 2, mem_gb: 1.5}}]"
    run = cluster.launch(
        *QUICK, "tracking=none", "tracking.register=null", "machine.mem_gb=1.4", "train.batch_size=30", pools
    )

    assert cluster.wait(run)["state"] == "SUCCEEDED", attempts(run)
    assert {p.name for p in run.glob("members/0/attempt-0/rank-*.log")} == {f"rank-{r}.log" for r in range(3)}
