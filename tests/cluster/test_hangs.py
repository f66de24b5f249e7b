"""Ranks that hang or die on the real cluster: found, named, and started again without going back to the queue."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.cluster.harness import QUICK, Cluster, attempts, steps, until

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]
SAVING = (
    *QUICK,
    "tracking=none",
    "tracking.register=null",
    "train.epochs=null",
    "train.max_steps=100",
    "train.log_every_steps=1",
    "train.checkpoint_every_steps=4",
)
TWO_HOSTS = ("machine.nodes=2", "job.hang={step_s: 10, data_wait_s: 10, evaluation_s: 60, checkpoint_s: 300}")
FIRST_S = 0.3
"""A step of the first attempt, so that there are 30 s to harm it; the next one does not dawdle."""


def ranks(run: Path, number: int) -> list[int]:
    """Processes of a rank: the trainer itself. (The hosts of the test cluster share this machine's processes.)"""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            environ = (folder / "environ").read_bytes().split(b"\0")
            ours = f"FAIRLEAD_MEMBER_DIR={run}/members/0".encode() in environ and f"RANK={number}".encode() in environ
            if ours and words[1:3] == [b"-m", b"trainer"]:
                found.append(int(folder.name))
    return found


def is_training(run: Path, after: int = 3) -> bool:
    return len(steps(run)) > after


def has_saved(run: Path) -> bool:
    return is_training(run) and any(run.glob("members/0/checkpoints/step-*/manifest.json"))


@pytest.mark.apptainer
def test_stopped_rank_in_a_container_is_named_and_the_run_goes_on_in_its_allocation(cluster: Cluster) -> None:
    run = cluster.launch(*SAVING, *TWO_HOSTS, "container=pytorch-cpu", *cluster.probe(first_s=FIRST_S))
    until(lambda: has_saved(run))
    (pid,) = ranks(run, 1)

    os.kill(pid, signal.SIGSTOP)
    end = cluster.wait(run)

    assert end["state"] == "SUCCEEDED", cluster.fairlead("logs", str(run), "--errors").stdout
    first, second = attempts(run)
    assert (first["state"], first["cause"], first["first_rank"]) == ("RESTARTED", "hang", 1)
    assert first["host"] != second["host"] and "it gave no stack, and from outside is process " in first["message"]
    assert "T (stopped)" in (run / "members/0/attempt-0/stacks-1.txt").read_text()
    assert "in _engine_run_backward" in (run / "members/0/attempt-0/stacks-0.txt").read_text()
    places = [(run / f"members/0/attempt-{n}/started.json").read_text() for n in (0, 1)]
    assert all('"slurm_restart_count"' not in place for place in places), "it went back to the queue"


def test_killed_rank_is_named_and_the_run_goes_on_in_its_allocation(cluster: Cluster) -> None:
    run = cluster.launch(*SAVING, *TWO_HOSTS, *cluster.probe(first_s=FIRST_S))
    until(lambda: has_saved(run))
    (pid,) = ranks(run, 1)

    os.kill(pid, signal.SIGKILL)
    end = cluster.wait(run)

    assert end["state"] == "SUCCEEDED", cluster.fairlead("logs", str(run), "--errors").stdout
    first, _ = attempts(run)
    assert (first["state"], first["cause"], first["first_rank"]) == ("RESTARTED", "crash", 1)
    assert (first["signal"], first["message"]) == (signal.SIGKILL, "killed by signal 9 (Killed)")


def test_scancel_of_a_program_that_leaves_well_is_a_cancellation(cluster: Cluster) -> None:
    """Its last child is killed, and the script's own end is no error."""
    script = 'trap "exit 0" TERM; echo up; sleep 300 & wait; true'
    run = cluster.launch("job=command", "tracking=none", f"job.command=[bash,-c,'{script}']")
    log = run / "members/0/attempt-0/rank-0.log"
    until(lambda: log.exists() and log.read_text() == "up\n")

    subprocess.run(["scancel", *cluster.queue(run.name)], check=True, timeout=30)

    assert cluster.wait(run)["state"] == "CANCELLED"
    (ended,) = attempts(run)
    assert (ended["state"], ended["cause"], ended["exit_code"]) == ("CANCELLED", "cancelled", 0)


def test_host_on_which_every_attempt_crashes_is_avoided_after_a_requeue(cluster: Cluster) -> None:
    script = "[ -e bad ] || echo $SLURMD_NODENAME > bad; [ $(cat bad) != $SLURMD_NODENAME ] || kill -SEGV $$"
    job = ("job=command", "tracking=none", f"job.command=[bash,-c,'cd {cluster.work}; {script}']")
    run = cluster.launch(*job, "job.restarts={crash: 1, elsewhere: 1}")

    assert cluster.wait(run)["state"] == "SUCCEEDED"

    bad = (cluster.work / "bad").read_text().strip()
    found = attempts(run)
    assert [a["state"] for a in found] == ["RESTARTED", "REQUEUED", "SUCCEEDED"]
    assert [a["host"] for a in found[:2]] == [bad, bad] and found[1]["avoided"] == bad


def test_host_that_falls_silent_before_slurm_notices_is_left_for_others(cluster: Cluster) -> None:
    """The watchdog is quicker: it starts the step again on nodes of which one is gone."""
    run = cluster.launch(*SAVING, *TWO_HOSTS, *cluster.probe(first_s=FIRST_S))
    until(lambda: has_saved(run))
    lost = json.loads((run / "members/0/seen-1.json").read_text())["environ"]["SLURMD_NODENAME"].removeprefix("n")

    try:
        cluster.testbed("kill-host", lost)
        until(lambda: any(a["state"] == "REQUEUED" for a in attempts(run)), limit_s=300)
    finally:
        cluster.testbed("start-host", lost)
    end = cluster.wait(run, timeout_s=300)

    assert end["state"] == "SUCCEEDED", cluster.fairlead("logs", str(run), "--errors").stdout
    # Once more where Slurm gives the host again as soon as it is back, and others are free.
    assert {a["cause"] for a in attempts(run) if a["state"] == "REQUEUED"} == {"node_failure"}
