"""A host that is switched off under a job of several pools: the whole job comes back, and says which host it was."""

from __future__ import annotations

import json

import pytest

from tests.cluster.harness import ON_SLURM, Cluster, attempts, until

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]
CHIEF = "[ $FAIRLEAD_ATTEMPT -gt 0 ] && exit 0; echo saved > $AIP_CHECKPOINT_DIR/state; sleep 300"
WORKER = "touch $FAIRLEAD_MEMBER_DIR/begun-$RANK-$FAIRLEAD_ATTEMPT; sleep 300"


def program(text: str) -> str:
    return json.dumps(["sh", "-c", text])


def test_lost_host_of_a_worker_brings_back_the_whole_job_and_is_named(cluster: Cluster) -> None:
    workers = f"{{machine: {{nodes: 2, mem_gb: 0.7}}, job: {{command: {program(WORKER)}}}}}"
    job = ("job=command", f"job.command={program(CHIEF)}", "job.metrics.kind=none", "tracking=none")
    run = Cluster(cluster.work, ON_SLURM).launch(*job, "machine.mem_gb=0.5", f"pools=[{{}},{workers}]")
    until(lambda: len(list(run.glob("members/0/begun-*-0"))) == 2)
    pools = json.loads((run / "members/0/attempt-0/pools.json").read_text())
    lost = pools[1]["hosts"][1]

    try:
        cluster.testbed("kill-host", lost.removeprefix("n"))
        until(lambda: attempts(run))
        first = attempts(run)[0]
        said = cluster.fairlead("status", str(run)).stdout
        until(lambda: len(attempts(run)) > 1)  # on the other hosts
    finally:
        cluster.testbed("start-host", lost.removeprefix("n"))

    assert (first["state"], first["cause"], first["host"]) == ("REQUEUED", "node_failure", lost), first
    assert lost in first["message"] and lost in said
    assert cluster.wait(run)["state"] == "SUCCEEDED"
    assert (run / "members/0/checkpoints/state").read_text() == "saved\n"
    again = json.loads((run / "members/0/attempt-1/pools.json").read_text())
    assert lost not in [host for pool in again for host in pool["hosts"]]
