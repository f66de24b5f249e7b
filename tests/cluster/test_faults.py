"""What a cluster does to jobs: preemption, time limits, lost hosts, dead controllers, killed clients.

Afterwards nothing is lost, nothing runs twice, and the outcome names the cause.
"""

from __future__ import annotations

import datetime
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from launchers.run_folder.journal import Journal
from launchers.run_folder.record import Run
from tests.cluster.harness import QUICK, TESTBED, Cluster, attempts, steps, until

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]
SLOW = (
    *QUICK,
    "tracking=none",
    "tracking.register=null",
    "train.epochs=40",
    "train.log_every_steps=1",
    "train.checkpoint_every_steps=5",
)


def _is_training(run: Path) -> bool:
    return len(steps(run)) > 3


def test_cancel_ends_a_running_job_and_says_who_did_it(cluster: Cluster) -> None:
    run = cluster.launch(*SLOW, *cluster.probe(sleep_s=0.3))
    until(lambda: _is_training(run))

    cluster.fairlead("cancel", str(run))
    end = cluster.wait(run)

    assert end["state"] == "CANCELLED"
    assert attempts(run)[-1]["cause"] == "cancelled"
    assert cluster.queue(run.name) == []


def test_scancel_by_hand_is_a_cancellation_too(cluster: Cluster) -> None:
    run = cluster.launch(*SLOW, *cluster.probe(sleep_s=0.3))
    until(lambda: _is_training(run))

    subprocess.run(["scancel", *cluster.queue(run.name)], check=True, timeout=30)

    assert cluster.wait(run)["state"] == "CANCELLED"
    assert cluster.status(run)["state"] == "CANCELLED"


def test_preempted_job_saves_goes_back_to_the_queue_and_goes_on(cluster: Cluster) -> None:
    run = cluster.launch(*SLOW, "machine.nodes=4", "train.epochs=20", *cluster.probe(first_s=0.3))
    until(lambda: _is_training(run))

    urgent = ["sbatch", "--partition=urgent", "--nodes=4", "--exclusive", "--output=/dev/null", "--wrap=sleep 3"]
    subprocess.run(urgent, check=True, timeout=30, capture_output=True)
    end = cluster.wait(run, timeout_s=300)

    assert end["state"] == "SUCCEEDED", cluster.fairlead("logs", str(run), "--errors").stdout
    assert [a["cause"] for a in attempts(run)] == ["preempted", "succeeded"]
    limits = json.loads((run / "members/0/attempt-0/limits.json").read_text())
    assert limits["notice_s"] == {"SIGUSR2": 50.0, "SIGTERM": 10.0} and limits["ends_at"] > 0
    assert steps(run) == sorted(steps(run)), "the second attempt did not go on where the first stopped"


def test_time_limit_is_announced_and_the_job_goes_on_in_a_new_allocation(cluster: Cluster) -> None:
    """Of one minute Slurm, which looks every half minute, leaves some seconds: a busy machine would start ten times."""
    limit = ("machine.time_limit_min=2", "job.notice_s=60")
    run = cluster.launch(*SLOW, *limit, "train.epochs=90", *cluster.probe(first_s=0.2))
    end = cluster.wait(run, timeout_s=500)

    assert end["state"] == "SUCCEEDED", cluster.fairlead("logs", str(run), "--errors").stdout
    causes = [a["cause"] for a in attempts(run)]
    assert causes[0] == "timeout" and causes[-1] == "succeeded"
    assert steps(run) == sorted(set(steps(run)))
    phases = cluster.status(run)["goodput"]["seconds"]
    ours_s, slurm_s = sum(phases.values()) - phases["queue"], _elapsed_s(run)
    # Of what Slurm counts, from its prologue to its epilogue in whole seconds, hardly anything has no phase.
    assert abs(ours_s - slurm_s) <= 0.02 * slurm_s + 1.0 * len(causes)


def test_lost_host_takes_the_job_to_others(cluster: Cluster) -> None:
    run = cluster.launch(*SLOW, "machine.nodes=2", *cluster.probe(first_s=0.3))
    until(lambda: _is_training(run))
    host = json.loads((run / "members/0/attempt-0/started.json").read_text())["slurm_job_nodelist"]
    lost = "2" if host == "n[1-2]" else host.strip("n[]").split("-")[-1].split(",")[-1]

    try:
        cluster.testbed("kill-host", lost)
        until(lambda: len(attempts(run)) > 1, limit_s=300)
    finally:
        cluster.testbed("start-host", lost)
    end = cluster.wait(run, timeout_s=300)

    assert end["state"] == "SUCCEEDED", cluster.fairlead("logs", str(run), "--errors").stdout
    assert attempts(run)[0]["cause"] == "node_failure"


@pytest.mark.parametrize("nodes", [1, 2])
def test_host_that_was_lost_once_and_comes_back_is_left_to_others(cluster: Cluster, nodes: int) -> None:
    """With the job's supervisor, or without: Slurm ends that, too."""
    run = cluster.launch(*SLOW, f"machine.nodes={nodes}", "train.epochs=20", *cluster.probe(first_s=0.3))
    until(lambda: _is_training(run))
    had = json.loads((run / "members/0/attempt-0/started.json").read_text())["slurm_job_nodelist"]
    lost = _slurm("scontrol", "show", "hostnames", had).split()[-1]
    (job,) = cluster.queue(run.name)

    try:
        cluster.testbed("kill-host", lost.removeprefix("n"))
        until(lambda: _slurm("squeue", "--noheader", f"--jobs={job}", "--format=%T").strip() == "PENDING")
        _slurm("scontrol", "hold", job)
    finally:
        cluster.testbed("start-host", lost.removeprefix("n"))
    until(lambda: _slurm("sinfo", "--noheader", f"--nodes={lost}", "--partition=batch", "--format=%T") == "idle\n")
    _slurm("scontrol", "release", job)  # the first of the hosts that are free is the one that it had before
    until(lambda: f"ExcNodeList={lost} " in _slurm("scontrol", "show", "job", "--oneliner", job))
    said = cluster.fairlead("status", str(run)).stdout
    end = cluster.wait(run, timeout_s=300)

    assert end["state"] == "SUCCEEDED", cluster.fairlead("logs", str(run), "--errors").stdout
    found = attempts(run)
    assert [a["cause"] for a in found] == ["node_failure", "node_failure", "succeeded"]
    assert (found[0]["avoided"], found[1]["avoided"]) == ("", lost)
    assert f"{lost} was lost 1 time(s) in a row, and is avoided from now on" in said


def test_failing_program_is_named_with_its_rank_and_retry_goes_on(cluster: Cluster) -> None:
    flag = cluster.work / "fail"
    flag.touch()
    run = cluster.launch(*QUICK, "machine.nodes=2", *cluster.probe(fail_while=str(flag)))
    end = cluster.wait(run)

    assert end["state"] == "FAILED"
    (first,) = attempts(run)
    assert first["cause"] == "user_error" and first["message"] == f"ValueError: told to fail by {flag}"
    assert first["first_rank"] in (0, 1)
    errors = cluster.fairlead("logs", str(run), "--errors").stdout
    assert "told to fail by" in errors and "first to fail: rank" in errors

    flag.unlink()
    cluster.fairlead("retry", str(run))
    assert cluster.wait(run)["state"] == "SUCCEEDED"
    assert [a["state"] for a in attempts(run)] == ["FAILED", "SUCCEEDED"]


def test_dead_controller_is_an_error_that_says_so_and_training_goes_on(cluster: Cluster) -> None:
    hold = cluster.work / "hold"
    hold.touch()
    words = cluster.probe(hold_while=str(hold))
    run = cluster.launch(*SLOW, "train.epochs=10", "job.hang.step_s=300", *words)
    until(lambda: _is_training(run))
    cluster.testbed("stop-ctld")
    try:
        status = cluster.fairlead("status", str(run), check=False)
        queued = cluster.fairlead("list", check=False)
        hold.unlink()
        until(lambda: len(steps(run)) > 10)
    finally:
        cluster.testbed("start-ctld")

    assert status.returncode == 3 and "squeue" in status.stderr and "scontrol ping" in status.stderr
    assert "Traceback" not in status.stderr + queued.stderr
    assert cluster.wait(run)["state"] == "SUCCEEDED"


def test_client_killed_at_any_instant_leaves_no_job_twice_and_none_unrecorded(cluster: Cluster) -> None:
    words = [sys.executable, "-m", "launchers.cli", "launch", "--config-dir", str(TESTBED / "conf")]
    words += ["launcher=slurm", "site=testbed", "machine=cpu-small", *QUICK, "name=killed", "train.max_steps=1"]
    begun = datetime.datetime.now()
    whole_s = _duration(words, cluster.work)
    chance = random.Random(20261120)
    for _ in range(8):
        client = subprocess.Popen(words, cwd=cluster.work, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(whole_s * (0.4 + 0.6 * chance.random()))
        client.send_signal(signal.SIGKILL)
        client.wait()
    time.sleep(2)  # an sbatch of a killed client may still be on its way

    said = until(lambda: _settled(cluster))
    runs = [Path(job["run_dir"]) for job in said]
    recorded_ids = [row["slurm_id"] for run in runs for row in _journal(run) if "slurm_id" in row]
    until(lambda: set(recorded_ids) <= set(_slurm_names(begun)))  # the accounting hears of a job a little later
    names = list(_slurm_names(begun).values())
    for job in said:
        run = Path(job["run_dir"])
        accepted = [n for n in names if n == run.name]
        assert len(accepted) <= 1
        assert bool(accepted) == any("slurm_id" in row for row in _journal(run) if row["intent"] == run.name)
    recorded = {Path(job["run_dir"]).name for job in said}
    assert {n.removesuffix(".finish") for n in names if n.startswith("killed-")} <= recorded
    for job in said:
        cluster.fairlead("cancel", job["job"])


def _settled(cluster: Cluster) -> list[dict[str, Any]]:
    """All jobs, once it is known what became of each submission: while an sbatch is on its way, nobody can say."""
    said: list[dict[str, Any]] = json.loads(cluster.fairlead("list", "--json").stdout)
    submissions = [s for job in said for s in Journal(Run(Path(job["run_dir"]))).submissions()]
    return [] if any(s.is_open for s in submissions) else said


def _duration(words: list[str], work: Path) -> float:
    begun = time.monotonic()
    subprocess.run(words, check=True, cwd=work, timeout=280, stdout=subprocess.DEVNULL)
    return time.monotonic() - begun


def _slurm_names(since: datetime.datetime) -> dict[str, str]:
    """The name of each job that Slurm has accepted, by its id."""
    argv = ["sacct", "-X", f"--starttime={since:%FT%T}", "--noheader", "--parsable2", "--format=JobID,JobName%128"]
    said = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True).stdout
    rows = [line.split("|") for line in said.splitlines()]
    return {slurm_id.partition("_")[0]: name for slurm_id, name in rows}


def _elapsed_s(run: Path) -> int:
    """What Slurm's accounting says that a job held its nodes, over all its stays."""
    (slurm_id,) = {row["slurm_id"] for row in _journal(run) if row["intent"] == run.name and "slurm_id" in row}
    argv = ["sacct", "-X", "-D", "--noheader", "--parsable2", "--format=ElapsedRaw", f"--jobs={slurm_id}"]
    said = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True).stdout
    return sum(map(int, said.split()))


def _slurm(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True).stdout


def _journal(run: Path) -> list[dict[str, str]]:
    path = run / "submit.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
