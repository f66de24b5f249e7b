"""launcher.max_wait_min on a real Slurm: what does not begin in time is EXPIRED, what has begun once never is."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from launchers.run_folder.record import read_lines
from tests.cluster.harness import ON_SLURM, TESTBED, Cluster, attempts, until
from tests.cluster.searching import searching

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]
WAIT_S = 15
"""How long a job may wait that is to begin: one of two pools is begun by the backfill alone, which takes its time."""
IN_VAIN_S = 3
"""And one whose host somebody else has taken."""
HOST = "short"
"""A partition of one host."""
SMALL = ("machine.mem_gb=0.5", "machine.time_limit_min=2", "job.notice_s=10", "tracking=none")
TWO_POOLS = "pools=[{},{machine: {mem_gb: 0.6, partition: batch}}]"
"""The chief waits, and the worker with it."""


@pytest.fixture
def waiting(cluster: Cluster, request: pytest.FixtureRequest) -> Cluster:
    """The command, for jobs that run on one host alone and may wait for it for a few seconds."""
    wait_s = IN_VAIN_S if "taken" in request.fixturenames else WAIT_S
    where = (f"launcher.max_wait_min={wait_s / 60}", f"machine.partition={HOST}")
    return Cluster(cluster.work, (*ON_SLURM, *SMALL, *where))


@pytest.fixture
def taken(waiting: Cluster) -> Iterator[str]:
    """Somebody has that host; the id of their job."""
    asked = ["sbatch", "--parsable", f"--partition={HOST}", "--exclusive", "--time=5", "--output=/dev/null"]
    job = said([*asked, "--wrap=sleep 200"])
    until(lambda: said(["squeue", "--noheader", f"--jobs={job}", "--format=%T"]) == "RUNNING")
    yield job
    said(["scancel", job])


def said(argv: list[str]) -> str:
    return subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True).stdout.strip()


def program(text: str) -> tuple[str, ...]:
    return ("job=command", "job.metrics.kind=none", f"job.command={json.dumps(['sh', '-c', text])}")


def submitted(run: Path) -> int:
    """How often members of a run were handed to Slurm."""
    return sum(row.get("kind") == "members" for row in read_lines(run / "submit.jsonl"))


def test_jobs_that_never_begin_expire_and_are_launched_again_by_retry(waiting: Cluster, taken: str) -> None:
    one = waiting.launch(*program("true"))
    many = waiting.launch(*program("true"), "-m", "params.x=1,2,3")
    several = waiting.launch(*program("true"), TWO_POOLS, "-m", "params.x=1,2", "launcher.max_parallel=1")
    late = waiting.launch(*searching(waiting, {"trials": 2}))

    for run, members in ((one, 1), (many, 3), (several, 2), (late, 2)):
        until(lambda: waiting.status(run)["counts"] == {"EXPIRED": members})  # noqa: B023
        assert not attempts(run)
    shown = waiting.fairlead("status", str(one)).stdout
    assert "EXPIRED did not begin in time (launcher.max_wait_min is 0.05): `fairlead retry" in " ".join(shown.split())
    said(["scancel", taken])
    assert waiting.wait(one)["state"] == "EXPIRED"
    waiting.fairlead("retry", str(one))
    assert waiting.wait(one)["state"] == "SUCCEEDED"


def test_member_that_has_begun_never_expires_whoever_puts_it_back(waiting: Cluster) -> None:
    first = "[ $FAIRLEAD_ATTEMPT -gt 0 ] && exit 0; touch $FAIRLEAD_MEMBER_DIR/begun; "
    by_slurm = waiting.launch(*program(f"{first} sleep 100"))
    by_us = waiting.launch(*program(f"{first} sleep {WAIT_S + 1}; exit 75"), TWO_POOLS, "job.max_requeues=1")
    until(lambda: (by_slurm / "members/0/begun").exists() and (by_us / "members/0/begun").exists())
    until(lambda: attempts(by_us))  # by now neither may have to begin any more

    said(["scontrol", "requeue", *waiting.queue(by_slurm.name)])

    for run, times in ((by_us, 1), (by_slurm, 2)):
        until(lambda: len(attempts(run)) == 2)  # noqa: B023
        assert waiting.wait(run)["state"] == "SUCCEEDED"
        assert [a["state"] for a in attempts(run)] == ["REQUEUED", "SUCCEEDED"]
        assert submitted(run) == times


def test_job_that_its_partition_never_allows_so_much_time_is_told_and_not_queued(waiting: Cluster) -> None:
    words = ("--config-dir", str(TESTBED / "conf"), *waiting.first, *program("true"), "machine.time_limit_min=90")

    done = waiting.fairlead("launch", *words, check=False)

    assert done.returncode == 2, done.stdout
    assert f"machine.time_limit_min is 90, but partition {HOST} allows 5" in done.stderr
    assert not list((waiting.work / "runs").glob("run-*"))
