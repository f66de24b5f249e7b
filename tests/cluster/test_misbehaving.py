"""Programs that misbehave, on real hosts: the run stays bounded, its log readable, and the hosts as they were.

tests/launchers/test_misbehaving.py has the same on this machine, case by case.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cage import cage, inside
from tests.cluster.harness import Cluster, attempts, left_of, until

__all__ = ["cage"]
pytestmark = pytest.mark.slurm
PROGRAM = """
import os, signal, subprocess, sys, time
what = sys.argv[1].removeprefix("--what=")
SLEEP = [sys.executable, "-c", "import time; time.sleep(300)", os.environ["FAIRLEAD_MEMBER_DIR"]]
if what == "daemon":
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for fd in range(3):
                os.dup2(os.open(os.devnull, os.O_RDWR), fd)
            os.execv(SLEEP[0], SLEEP)
        os._exit(0)
    os.wait()
elif what == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    subprocess.Popen(SLEEP, start_new_session=True)
    print("deaf", flush=True)
    time.sleep(300)
elif what == "forks":
    for _ in range(1500):  # "without end", but for the machine's sake
        if os.fork() == 0:
            time.sleep(300)
            os._exit(0)
        time.sleep(0.003)
    time.sleep(300)
elif what == "line":
    for _ in range(1024):
        os.write(1, b"x" * 2**20)
elif what == "hoards":
    with open(os.environ["AIP_CHECKPOINT_DIR"] + "/kept", "wb") as file:
        file.write(os.urandom(150 * 10**6))
    time.sleep(300)
elif what == "shm":
    with open("/dev/shm/kept", "wb") as file:
        file.write(os.urandom(150 * 10**6))
    time.sleep(300)
elif what == "doubles":
    with open(sys.argv[2].removeprefix("--cage=") + "/cgroup.procs", "w") as file:
        file.write(str(os.getpid()))
    os.execvp("bash", ["bash", "-c", ":(){ :|:& };:; sleep 300"])
elif what == "binary":
    os.write(1, bytes(range(256)) * 4096)
elif what == "disk":
    with open("/tmp/fill", "wb", buffering=0) as file:
        while True:
            file.write(bytes(2**20))
print("\\nafter", flush=True)
"""
LIMITS = ("machine.mem_gb=0.5", "job.max_processes=150", "job.max_disk_gb=0.1")
JOB = ("job=command", "tracking=none", "job.metrics.kind=none", *LIMITS)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 16 MB that the hosts see; of the hosts of the test cluster it is the same."""
    if os.getuid() != 0:
        pytest.skip("needs root, to mount a small disk")
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m,mode=1777", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def log(run: Path, member: int) -> bytes:
    return b"".join(p.read_bytes() for p in sorted(run.glob(f"members/{member}/attempt-0/rank-0.log*")))


def drained() -> str:
    asked = ["sinfo", "--noheader", "--states=drain,down,fail", "--format=%N"]
    return subprocess.run(asked, capture_output=True, text=True, timeout=30, check=True).stdout.strip()


def test_program_that_doubles_without_end_is_ended_and_named(cluster: Cluster, cage: Path) -> None:
    (cluster.work / "program.py").write_text(PROGRAM)
    said = (f"job.command=[{sys.executable},program.py]", "params.what=doubles", f"params.cage={cage}")
    before = drained()

    run = cluster.launch(*JOB, *said)

    assert cluster.wait(run)["state"] == "FAILED"
    (end,) = attempts(run)
    assert end["cause"] == "user_error" and "and job.max_processes is 150" in end["message"]
    until(lambda: not cluster.queue(run.name))
    assert left_of(run) == [] and inside(cage) == [] and drained() == before


@pytest.mark.apptainer
def test_shared_memory_of_a_container_is_bounded_and_goes_with_the_job_also_where_its_supervisor_is_killed(
    cluster: Cluster,
) -> None:
    (cluster.work / "program.py").write_text(PROGRAM)
    box = ("container=pytorch-cpu", "job.command=[python3,program.py]", "machine.mem_gb=1")
    whole = cluster.launch(*JOB, *box, "params.what=shm", "container.shm_gb=0.1", "name=whole")
    killed = cluster.launch(*JOB, *box, "params.what=shm", "job.max_requeues=0", "machine.nodes=2", "name=killed")
    until(lambda: len([p for p in left_of(killed) if p.startswith("/dev/shm")]) > 0)

    os.kill(json.loads((killed / "members/0/attempt-0/started.json").read_text())["pid"], signal.SIGKILL)

    assert cluster.wait(whole)["state"] == "FAILED"
    assert "and container.shm_gb is 0.1" in attempts(whole)[0]["message"]
    until(lambda: not any(cluster.queue(run.name) for run in (whole, killed)))
    until(lambda: [left for run in (whole, killed) for left in left_of(run)] == [])


def test_programs_that_misbehave_stay_bounded_are_named_and_leave_the_hosts_clean(
    cluster: Cluster, small_disk: Path
) -> None:
    (cluster.work / "program.py").write_text(PROGRAM)
    here = f"job.command=[{sys.executable},program.py]"
    box = ("container=pytorch-cpu", "job.command=[python3,program.py]", f"site.scratch_dir={small_disk}")
    before = drained()
    deaf = cluster.launch(*JOB, here, "params.what=deaf", "name=deaf")
    filled = cluster.launch(*JOB, *box, "params.what=disk", "name=disk")
    whats = ("daemon", "forks", "line", "binary", "hoards")
    many = cluster.launch("-m", *JOB, here, f"params.what={','.join(whats)}", "name=many")
    until(lambda: log(deaf, 0))
    cluster.fairlead("cancel", str(deaf))
    ends = {run: cluster.wait(run) for run in (deaf, filled, many)}

    assert [end["state"] for end in ends.values()] == ["CANCELLED", "FAILED", "PARTIALLY_SUCCEEDED"]
    ended = {what: attempts(many, member)[0] for member, what in enumerate(whats)}
    assert {what: end["state"] for what, end in ended.items()} == {
        **dict.fromkeys(whats, "SUCCEEDED"),
        "forks": "FAILED",
        "hoards": "FAILED",
    }
    assert "and job.max_disk_gb is 0.1" in ended["hoards"]["message"]
    assert "and job.max_processes is 150" in ended["forks"]["message"]
    (full,) = attempts(filled)
    assert full["cause"] == "site" and "No space left on device" in full["message"]
    said = {what: log(many, member).decode() for member, what in enumerate(whats)}
    assert "1 process(es) that the program had left behind were ended" in said["daemon"]
    assert len(said["line"]) < 2**16 and said["line"].endswith("left out]\nafter\n")
    assert "\\x00\\x01" in said["binary"] and said["binary"].endswith("after\n")
    shown = cluster.fairlead("status", str(many), check=False).stdout
    assert "processes at once on one node, and job.max_processes is 150" in shown

    until(lambda: not any(cluster.queue(run.name) for run in ends))
    assert [left for run in ends for left in left_of(run)] == []
    assert list(small_disk.iterdir()) == []
    assert drained() == before
