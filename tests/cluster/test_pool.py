"""A held allocation on a real cluster: jobs in it without queueing, side by side, through kills, and its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.harness import TESTBED, Cluster, attempts, until

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]
SHORT = ("machine=cpu-small", "machine.mem_gb=0.5", "machine.time_limit_min=2", "job.notice_s=10")
WHERE = ("--config-dir", str(TESTBED / "conf"), "site=testbed")
SHAPE = ("machine=cpu-small", "machine.nodes=2", "machine.ranks_per_node=2", "machine.time_limit_min=15")


def program(text: str) -> tuple[str, ...]:
    """A job whose program is this shell text."""
    command = json.dumps(["sh", "-c", text])
    return ("job=command", f"job.command={command}", "job.metrics.kind=none", "tracking=none", *SHORT)


@pytest.fixture
def pooled(cluster: Cluster) -> Iterator[Cluster]:
    """The command on a pool `mine` of two nodes with two CPUs each."""
    cluster.fairlead("pool", "up", "mine", *WHERE, *SHAPE, "--wait")
    yield Cluster(cluster.work, first=("site=testbed", "launcher=pool", "launcher.pool=mine"))
    cluster.fairlead("pool", "down", "mine", "--force")


def row(cluster: Cluster) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(cluster.fairlead("pool", "list", "--json").stdout)[0]
    return found


def holders(cluster: Cluster) -> list[int]:
    argv = ["pgrep", "-f", f"queue.holder {row(cluster)['folder']}$"]
    return [int(pid) for pid in subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()]


def begun(run: Path) -> list[str]:
    return [path.parent.name for path in sorted(run.glob("members/*/begun"))]


def test_grid_fills_the_pool_and_no_more_and_two_nodes_wait_for_their_turn(pooled: Cluster) -> None:
    go = pooled.work / "go"
    hold = f"touch $FAIRLEAD_MEMBER_DIR/begun; hostname; until [ -e {go} ]; do sleep 0.1; done"
    run = pooled.launch(*program(hold), "-m", "params.x=1,2,3,4,5")
    until(lambda: len(begun(run)) == 4)
    wide = pooled.launch(*program("echo $MASTER_ADDR $RANK of $WORLD_SIZE on $(hostname)"), "machine.nodes=2")
    now = row(pooled)

    assert [m["state"] for m in pooled.status(run)["members"]] == ["RUNNING"] * 4 + ["QUEUED"]
    assert pooled.status(wide)["members"][0]["message"] == "waits for its turn in the pool"
    assert {r["member"] for r in now["running"]} == {0, 1, 2, 3} and set(now["jobs"]) == {run.name, wide.name}
    assert all(node["free"]["cpus"] == 0 for node in now["nodes"].values())
    refused = pooled.fairlead("pool", "down", "mine", check=False)
    assert refused.returncode == 2 and "--force" in refused.stderr
    go.touch()
    assert pooled.wait(run)["state"] == pooled.wait(wide)["state"] == "SUCCEEDED"
    hosts = [p.read_text().split()[0] for p in sorted(run.glob("members/*/attempt-0/rank-0.log"))]
    assert set(hosts[:4]) == set(now["nodes"])
    said = [p.read_text().split() for p in sorted(wide.glob("members/0/attempt-0/rank-*.log"))]
    assert [s[1] for s in said] == ["0", "1"] and {s[0] for s in said} == {said[0][5]} != {said[1][5]}


def test_killed_holder_and_killed_supervisor_lose_no_member(pooled: Cluster) -> None:
    text = "touch $FAIRLEAD_MEMBER_DIR/begun; [ $FAIRLEAD_ATTEMPT = 0 ] && sleep 300; exit 0"
    run = pooled.launch(*program(text), "-m", "params.x=1,2")
    until(lambda: len(begun(run)) == 2)

    for pid in holders(pooled):
        os.kill(pid, signal.SIGKILL)
    assert pooled.wait(run)["state"] == "SUCCEEDED"
    assert [a["cause"] for a in attempts(run)] == ["node_failure", "succeeded"]

    alone = pooled.launch(*program(text))
    until(lambda: begun(alone))
    started = json.loads((alone / "members/0/attempt-0/started.json").read_text())
    os.kill(started["pid"], signal.SIGKILL)
    assert pooled.wait(alone)["state"] == "SUCCEEDED"
    assert [a["cause"] for a in attempts(alone)] == ["node_failure", "succeeded"]
    assert not row(pooled)["jobs"]


def test_put_back_member_takes_another_turn_and_cancel_ends_only_its_job(pooled: Cluster) -> None:
    saves = "touch $FAIRLEAD_MEMBER_DIR/begun; [ $FAIRLEAD_ATTEMPT = 0 ] && exit 75; exit 0"
    waits = "touch $FAIRLEAD_MEMBER_DIR/begun; sleep 300"
    deaf = pooled.launch(*program(waits), "-m", "params.x=1,2,3,4,5,6")
    until(lambda: len(begun(deaf)) == 4)
    other = pooled.launch(*program(saves))

    assert pooled.status(other)["state"] == "QUEUED"
    pooled.fairlead("cancel", str(deaf))
    end = pooled.wait(deaf)
    assert end["counts"] == {"CANCELLED": 6} and len(begun(deaf)) == 4
    assert pooled.wait(other)["state"] == "SUCCEEDED"
    assert [a["state"] for a in attempts(other)] == ["REQUEUED", "SUCCEEDED"]


def test_time_limit_gives_notice_and_a_pool_that_died_is_seen_and_retried_in_a_new_one(pooled: Cluster) -> None:
    saves = "trap 'exit 75' TERM; touch $FAIRLEAD_MEMBER_DIR/begun; [ $FAIRLEAD_ATTEMPT -gt 0 ] || sleep 300 & wait"
    limited = ("machine.time_limit_min=1", "job.notice_s=35")
    noticed = pooled.launch(*program(saves), *limited)
    assert pooled.wait(noticed)["state"] == "SUCCEEDED"
    assert [a["cause"] for a in attempts(noticed)] == ["timeout", "succeeded"]

    lost = pooled.launch(
        *program("touch $FAIRLEAD_MEMBER_DIR/begun; [ -e $FAIRLEAD_MEMBER_DIR/../../../../go ] || sleep 300")
    )
    until(lambda: begun(lost))
    (holder,) = holders(pooled)
    script = int(Path(f"/proc/{holder}/stat").read_text().rpartition(")")[2].split()[1])
    for pid in (script, holder):
        os.kill(pid, signal.SIGKILL)
    until(lambda: row(pooled)["state"] == "ENDED")
    end = pooled.wait(lost)
    assert end["state"] == "FAILED" and "pool mine has ended" in end["members"][0]["message"]
    again = pooled.fairlead("retry", str(lost), check=False)
    assert again.returncode == 3 and "pool mine is not up" in again.stderr
    refused = pooled.fairlead("launch", *WHERE, *pooled.first, *program("true"), check=False)
    assert refused.returncode == 3 and not list((pooled.work / "runs").glob("*-planned"))

    pooled.fairlead("pool", "up", "mine", *WHERE, *SHAPE, "--wait")
    (lost.parents[1] / "go").touch()
    pooled.fairlead("retry", str(lost))
    assert pooled.wait(lost)["state"] == "SUCCEEDED"
    assert [a["cause"] for a in attempts(lost)] == ["node_failure", "succeeded"]
