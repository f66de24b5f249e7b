"""What happens to trials' programs, supervisors and hosts while a search or a grid runs on the real cluster.

A program that hangs, a supervisor that is killed in each phase, a host that is taken: the others go on, nothing that
was completed is lost, and the same command completes the rest.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.harness import Cluster, attempts, until
from tests.cluster.searching import program, programs, searching, supervisors, trials_of

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]
SKEW = """
case $(hostname) in n2) off=+1h ;; n3) off=-1h ;; *) off= ;; esac
if [ -n "$off" ]; then
  export FAKETIME=$off LD_PRELOAD=$(echo /usr/lib/*/faketime/libfaketimeMT.so.1) NO_FAKE_STAT=1 FAKE_UTIME=1
  export PATH=$(dirname "$BASH_SOURCE")/without:$PATH
fi
"""
"""Another clock for the supervisor; files, Slurm and its programs keep the right one (Debian's package faketime)."""
ONE_PLACE = "launcher.max_parallel=1"
"""Nothing else begins until a trial has given its place free."""


def _states(run: Path) -> dict[int, str]:
    return {number: trial.state for number, trial in trials_of(run).items()}


def _best(run: Path) -> int:
    ended = [t for t in trials_of(run).values() if t.state == "SUCCEEDED"]
    return min(ended, key=lambda t: t.reports[-1].metrics["loss"]).number


def test_trial_that_hangs_frees_its_slot_and_has_failed(cluster: Cluster) -> None:
    run = cluster.launch(
        *searching(cluster, {"trials": 4}, HANG="1"), ONE_PLACE, "job.notice_s=1", "job.silent_min=0.5"
    )

    end = cluster.wait(run)

    assert _states(run) == {0: "SUCCEEDED", 1: "FAILED", 2: "SUCCEEDED", 3: "SUCCEEDED"}
    (hung,) = attempts(run, 1)
    assert (hung["cause"], hung["message"]) == ("hang", "it printed and reported nothing for 0.5 minutes")
    assert end["result"]["best_member"] == _best(run)
    assert (programs(run), supervisors(run)) == ([], {})
    assert "for a command job.silent_min" in cluster.fairlead("logs", str(run), "--errors").stdout


def test_trial_that_hangs_until_its_time_limit_says_so_and_frees_its_slot(cluster: Cluster) -> None:
    limit = ("machine.time_limit_min=2", "job.notice_s=60")
    run = cluster.launch(*searching(cluster, {"trials": 3}, HANG="1"), *limit, ONE_PLACE)

    end = cluster.wait(run, timeout_s=500)

    assert _states(run) == {0: "SUCCEEDED", 1: "TIMEOUT", 2: "SUCCEEDED"}
    assert attempts(run, 1)[-1]["message"] == "did not save before the time limit"
    assert end["result"]["best_member"] == _best(run)
    assert (programs(run), supervisors(run)) == ([], {})


def test_supervisor_killed_while_it_asks_or_tells_costs_no_completed_result(cluster: Cluster) -> None:
    words = searching(cluster, {"trials": 4}, STEPS="4", PAUSE_S="0.5", HOLD_TELL="1")
    run = cluster.launch(*words, "launcher.max_parallel=2")
    until(lambda: (run / "members/1/attempt-0/rank-9.error.json").exists() and not programs(run))
    os.kill(supervisors(run)[1], signal.SIGKILL)  # its program has ended, its outcome is not written
    with _held(run / "study" / "ask.lock"):
        until(lambda: {2, 3} <= supervisors(run).keys())
        os.kill(supervisors(run)[3], signal.SIGKILL)
        until(lambda: 3 not in supervisors(run))
    first = cluster.wait(run)
    before = {number: trial.point for number, trial in trials_of(run).items()}

    assert [m["state"] for m in first["members"]] == ["SUCCEEDED", "FAILED", "SUCCEEDED", "FAILED"]
    assert cluster.launch(*words, "launcher.max_parallel=2") == run
    end = cluster.wait(run)

    after = trials_of(run)
    assert (end["state"], len(after)) == ("SUCCEEDED", 4)
    assert {n: after[n].point for n in before} == before
    assert [[r.step for r in t.reports] for t in after.values()] == [[1, 2, 3, 4]] * 4
    assert [len(attempts(run, n)) for n in after] == [1, 2, 1, 1], "who was killed while it asked had not begun"
    assert end["result"]["best_member"] == _best(run)


def test_hosts_whose_clocks_are_an_hour_off_are_in_one_search(cluster: Cluster) -> None:
    """One is ahead and one behind. What judges by time (limits, pruning, leases) goes by the clock of the files."""
    more = {"pruning": {"rule": "median", "min_trials": 2}, "limits": {"wall_min": 30}}
    (cluster.work / "skew.sh").write_text(SKEW)
    (cluster.work / "without").mkdir()
    for command in ("srun", "squeue", "scancel", "scontrol", "sbatch"):
        # They must not even load it: munge's answers then come too late for srun, now and then.
        path = cluster.work / "without" / command
        path.write_text(f'#!/bin/sh\nunset LD_PRELOAD\nexec {shutil.which(command)} "$@"\n')
        path.chmod(0o700)
    setup = ("machine.cpus_per_rank=6", "job.silent_min=2", f"site.setup=['. {cluster.work}/skew.sh']")
    before = time.time()
    run = cluster.launch(*searching(cluster, more, STEPS="4", PAUSE_S="0.3"), *setup)

    end = cluster.wait(run)

    trials = trials_of(run).values()
    assert (end["state"], len(trials)) == ("SUCCEEDED", 8)
    assert {t.state for t in trials} <= {"SUCCEEDED", "PRUNED"}
    assert any(abs((t.reports[0].t or 0) - t.asked) > 3000 for t in trials), "no trial was on a host that is off"
    for trial in trials:
        assert before - 1 <= trial.asked <= (trial.started or 0) <= (trial.ended or 0) <= time.time() + 1


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """A lock that nobody else gets meanwhile."""
    with path.open("a") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield


def test_grid_under_faults_has_the_results_of_an_undisturbed_one(cluster: Cluster) -> None:
    """One member is preempted, and another loses its host."""
    grid = ("-m", "params.x=0.1,0.2,0.3,0.4,0.5,0.6")
    here = Cluster(cluster.work, first=())
    calm = here.launch(*program(cluster), "name=calm", *grid)
    gate = cluster.work / "gate"
    words = program(cluster, PAUSE_S="0.5", GATE=str(gate))
    run = cluster.launch(*words, "name=faults", "machine.cpus_per_rank=6", *grid)
    until(lambda: len(_hosts(run)) >= 3)
    hosts = _hosts(run)
    lost, preempted = list(hosts)[:2]
    urgent = ["sbatch", "--partition=urgent", "--exclusive", "--output=/dev/null", f"--nodelist={hosts[preempted]}"]
    try:
        cluster.testbed("kill-host", hosts[lost].removeprefix("n"))
        subprocess.run([*urgent, "--wrap=sleep 1"], check=True, timeout=30, capture_output=True)
        until(lambda: attempts(run, preempted))
        gate.touch()
        until(lambda: len(list(run.glob(f"members/{lost}/attempt-*"))) > 1)
    finally:
        cluster.testbed("start-host", hosts[lost].removeprefix("n"))

    end, undisturbed = cluster.wait(run), here.wait(calm)

    assert end["state"] == "SUCCEEDED"
    assert [attempts(run, m)[0]["cause"] for m in (lost, preempted)] == ["node_failure", "preempted"]
    assert _told(end) == _told(undisturbed)
    assert [_reported(run, m) for m in range(6)] == [_reported(calm, m) for m in range(6)]


def _hosts(run: Path) -> dict[int, str]:
    """Host of each member that runs, and has reported."""
    reported = {int(path.parts[-3]) for path in run.glob("members/*/attempt-0/reports.jsonl")}
    begun = {m: json.loads((run / f"members/{m}/attempt-0/started.json").read_text()) for m in reported}
    return {m: place["slurm_job_nodelist"] for m, place in begun.items() if not attempts(run, m)}


def _told(end: dict[str, Any]) -> tuple[Any, ...]:
    """What a job comes to, but for its name and place."""
    members = [(m["point"], m["state"], m["step"], m["metrics"]) for m in end["members"]]
    return (end["state"], members, *(end["result"][k] for k in ("best_member", "metrics", "objective", "members")))


def _reported(run: Path, member: int) -> dict[int, float]:
    """The last word of each step, over all attempts."""
    paths = sorted(run.glob(f"members/{member}/attempt-*/reports.jsonl"))
    rows = [json.loads(line) for path in paths for line in path.read_text().splitlines()]
    return {row["step"]: row["metrics"]["loss"] for row in rows}
