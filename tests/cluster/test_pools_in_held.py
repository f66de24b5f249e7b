"""Worker pools in a held allocation on a real cluster: they meet, come back alone or together, and end together."""

from __future__ import annotations

import json
import os
import shutil
import signal

import pytest

from tests.cluster.harness import QUICK, ROOT, Cluster, attempts, until
from tests.cluster.test_pools import PROGRAM, command, heard, workers

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(300)]
SMALL = ("tracking=none", "machine.mem_gb=0.5")
JOB = (*SMALL, "job=command", "job.metrics.kind=none")


@pytest.fixture
def programs(held: Cluster) -> Cluster:
    shutil.copy(ROOT / "tests" / "launchers" / PROGRAM, held.work)
    return Cluster(held.work, (*held.first, *JOB))


def must_be_idle(cluster: Cluster) -> None:
    """Every node is whole again."""
    (pool,) = json.loads(cluster.fairlead("pool", "list", "--json").stdout)
    assert all(node["free"] == node["has"] for node in pool["nodes"].values())


def test_pools_of_different_machines_meet_and_a_killed_worker_comes_back(programs: Cluster) -> None:
    run = programs.launch(f"job.command={command('chief', 3)}", workers(2, deaths=1))

    assert programs.wait(run)["state"] == "SUCCEEDED"
    assert [a["state"] for a in attempts(run)] == ["SUCCEEDED"]
    words = heard(run)
    assert sorted((w["RANK"], w["FAIRLEAD_POOL"], w["FAIRLEAD_REPLICA"]) for w in words) == [
        ("0", "workerpool0", "0"),
        ("1", "workerpool1", "0"),
        ("1", "workerpool1", "0"),
        ("2", "workerpool1", "1"),
    ]
    assert len({w["host"] for w in words}) == 3
    assert {p.name for p in (run / "members" / "0").glob("told-*")} == {"told-1", "told-2"}
    must_be_idle(programs)


def test_shell_is_on_the_host_of_its_replica_and_cancel_ends_every_step(programs: Cluster) -> None:
    more = ("params.x=1,2", "job.parameters=environment")
    run = programs.launch("-m", f"job.command={command('chief', 99)}", workers(2), *more)
    until(lambda: len(list(run.glob("members/*/attempt-0/rank-*.log"))) == 3)
    (member,) = [m["index"] for m in programs.status(run)["members"] if m["state"] == "RUNNING"]
    begun = json.loads((run / f"members/{member}/attempt-0/started.json").read_text())
    beside = [programs.fairlead("shell", str(run), "--rank", str(r), "--json", "--", "hostname") for r in range(3)]

    programs.fairlead("cancel", str(run))

    assert [json.loads(said.stdout)["output"].strip() for said in beside] == begun["nodes"]
    assert programs.wait(run)["counts"] == {"CANCELLED": 2}
    must_be_idle(programs)


def test_member_whose_supervisor_was_killed_comes_back_with_all_its_pools(programs: Cluster) -> None:
    text = "touch $FAIRLEAD_MEMBER_DIR/begun-$RANK; [ $FAIRLEAD_ATTEMPT -gt 0 ] || exec sleep 321"
    run = programs.launch(f"job.command={json.dumps(['sh', '-c', text])}", "pools=[{},{machine: {nodes: 2}}]")
    until(lambda: len(list(run.glob("members/0/begun-*"))) == 3)

    os.kill(json.loads((run / "members/0/attempt-0/started.json").read_text())["pid"], signal.SIGKILL)

    assert programs.wait(run)["state"] == "SUCCEEDED"
    assert [a["cause"] for a in attempts(run)] == ["node_failure", "succeeded"]
    must_be_idle(programs)


def test_trainer_over_two_pools_is_one_group(held: Cluster) -> None:
    pools = "pools=[{},{machine: {nodes: 2, mem_gb: 1.5}}]"
    run = held.launch(
        *QUICK, "tracking=none", "tracking.register=null", "machine.mem_gb=1.4", "train.batch_size=30", pools
    )

    assert held.wait(run)["state"] == "SUCCEEDED", attempts(run)
    assert {p.name for p in run.glob("members/0/attempt-0/rank-*.log")} == {f"rank-{r}.log" for r in range(3)}
