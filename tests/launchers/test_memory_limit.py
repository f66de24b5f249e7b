"""The memory of a member on this machine: counted as a cluster would, and held to machine.mem_gb."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from launchers.host.leftovers import Process, descended
from launchers.host.memory_limit import GB, too_much
from launchers.host.resident import kept_kb, resident
from launchers.plan import plans_document
from launchers.run_folder.record import Run, append_line, read_lines, write_json
from tests.cluster.harness import ROOT, Cluster, attempts
from tests.launchers.attempted import Start, ended, until
from tests.launchers.planned import composed, planned
from tests.launchers.supervised import alive, outcome
from tests.plans import plan_of_run, pool_plan

OFTEN = "import launchers.host.memory_limit as m; m.LOOK_S = m.CONFIRM_S = 0.02; m.SHARE = 1"
TAKES = "import time; kept = bytearray(b'x') * ({} << 20); time.sleep(600)"
IN_A_CHILD = f"import subprocess, sys; subprocess.run([sys.executable, '-Sc', {TAKES.format(300)!r}])"
SHARES = """
import os, time
kept = bytearray(b"x") * (150 << 20)
for _ in range(4):
    if os.fork() == 0:
        time.sleep(600)
time.sleep(3)
"""

MAPS = """
import mmap, os, time
with open({!r}, "rb") as f:
    data = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)
sum(data[i] for i in range(0, len(data), 4096))
assert int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") > 400 << 20
time.sleep(2)
"""


def run_of(workdir: Path, program: str, mem_gb: float | None, ranks: int = 1) -> Run:
    run = Run(workdir / "runs" / "d-1")
    run.path.mkdir(parents=True)
    pool = pool_plan((sys.executable, "-Sc", program), ranks_per_node=ranks, mem_gb=mem_gb)
    write_json(run.plan, plans_document([plan_of_run(run, pool)]))
    write_json(run.spec, {"name": "d"})
    append_line(run.members_file, {"index": 0, "point": {}, "sections": {}})
    return run


@pytest.mark.parametrize(
    ("program", "ranks"),
    [(TAKES.format(300), 1), (TAKES.format(150), 2), (IN_A_CHILD, 1)],
    ids=["a rank", "two ranks together", "what a rank began"],
)
def test_ranks_that_take_more_than_their_node_has_are_ended(
    workdir: Path, start: Start, program: str, ranks: int
) -> None:
    run = run_of(workdir, program, 0.25, ranks)

    assert ended(start(run, patch=OFTEN)) == 1

    assert (outcome(run)["state"], outcome(run)["cause"]) == ("FAILED", "out_of_memory")
    assert outcome(run)["message"].startswith("its processes took 0.")
    assert outcome(run)["message"].endswith(" GB, but machine.mem_gb is 0.25")
    until(lambda: not alive(str(run.path)))


def test_memory_that_processes_share_counts_once(workdir: Path, start: Start) -> None:
    run = run_of(workdir, SHARES, 0.25)

    assert ended(start(run, patch=OFTEN)) == 0

    assert outcome(run)["state"] == "SUCCEEDED"


def test_memory_of_mapped_files_counts_not(workdir: Path, start: Start) -> None:
    data = workdir / "tokens.bin"
    with data.open("wb") as f:
        f.truncate(400 << 20)
    run = run_of(workdir, MAPS.format(str(data)), 0.25)

    assert ended(start(run, patch=OFTEN)) == 0

    assert outcome(run)["state"] == "SUCCEEDED"


def test_resident_is_asked_of_the_kernel_in_parts_only_where_it_may_be_too_much() -> None:
    shares = subprocess.Popen([sys.executable, "-Sc", SHARES.replace("time.sleep(3)", "print(1, flush=True)\ninput()")],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)  # fmt: skip
    assert shares.stdout is not None and shares.stdin is not None
    shares.stdout.readline()
    children = Path(f"/proc/{shares.pid}/task/{shares.pid}/children").read_text().split()
    pids = [shares.pid, *map(int, children)]

    added_up, in_parts = resident(pids, GB), resident(pids, 0)

    os.killpg(shares.pid, 9)
    shares.communicate()
    assert len(pids) == 5 and added_up > 5 * (150 << 20) and (150 << 20) < in_parts < (200 << 20)
    assert resident(pids, 0) == 0, "who is gone has nothing"


@pytest.mark.parametrize(
    ("said", "kb"),
    [
        ("Rss: 900 kB\nPss_Anon: 300 kB\nPss_File: 390 kB\nPss_Shmem: 10 kB\nPrivate_Dirty: 200 kB\n", 310),
        ("Rss: 900 kB\nPss: 700 kB\nShared_Dirty: 500 kB\nPrivate_Dirty: 200 kB\n", 200),
        ("", 0),
    ],
    ids=["in parts", "before Linux 5.4", "nothing"],
)
def test_memory_is_never_more_than_is_a_processes_own(said: str, kb: int) -> None:
    assert kept_kb(said) == kb


def test_descended_are_those_that_are_there_and_what_they_began() -> None:
    parents = {1: 0, 2: 1, 3: 2, 4: 3, 5: 1, 7: 6}
    there = {pid: Process(parent=parent, group=1, session=1, start=f"at {pid}") for pid, parent in parents.items()}

    assert descended([2, 7, 9], there) == {2: "at 2", 3: "at 3", 4: "at 4", 7: "at 7"}


@pytest.mark.parametrize(
    ("node", "said"),
    [
        ("", "its processes took 2.01 GB, but machine.mem_gb is 2"),
        ("workerpool1-0", "the processes of workerpool1-0 took 2.01 GB, but its machine.mem_gb is 2"),
    ],
)
def test_what_is_said_has_both_values_and_whose_they_are(node: str, said: str) -> None:
    assert too_much(node, 2 * GB + 1, 2) == said


@pytest.mark.parametrize(("launcher", "mem_gb"), [("local", 1024), ("slurm", None)])
def test_only_this_machine_has_no_slurm_that_sees_to_it(launcher: str, mem_gb: float | None) -> None:
    plan = planned(composed(f"launcher={launcher}", "experiment=digits"))

    assert [pool.mem_gb for pool in plan.pools] == [mem_gb]


ONCE = """
import pathlib, time
begun = pathlib.Path({begun!r})
begun.write_text(begun.read_text() + "x" if begun.exists() else "x")
kept = bytearray(b"x") * ((200 if len(begun.read_text()) < {times} else 1) << 20)
time.sleep(600)
"""
WAITS = """
import pathlib, time
begun = pathlib.Path({begun!r})
while not begun.exists() or len(begun.read_text()) < {times}:
    time.sleep(0.1)
"""


@pytest.fixture
def laptop(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return Cluster(workdir, first=("job=command", "tracking=none", "job.metrics.kind=none", "machine.mem_gb=1"))


def launched(laptop: Cluster, chief: str, worker: str, *more: str) -> Run:
    """A chief, and a worker that may take less memory."""
    for name, text in (("chief", chief), ("worker", worker)):
        (laptop.work / f"{name}.py").write_text(text)
    pools = "pools=[{},{machine: {mem_gb: 0.15}, job: {command: [python3, worker.py]}}]"
    laptop.fairlead("launch", *laptop.first, "job.command=[python3,chief.py]", pools, *more, check=False)
    (run,) = (path.parent for path in (laptop.work / "runs").glob("*/spec.json"))
    return Run(run)


def test_worker_here_that_takes_too_much_is_started_again_alone(laptop: Cluster) -> None:
    """As where Slurm's kernel ends it: the chief runs on, and has its own end."""
    begun = str(laptop.work / "begun")

    run = launched(laptop, WAITS.format(begun=begun, times=2), ONCE.format(begun=begun, times=2))

    assert [a["state"] for a in attempts(run.path)] == ["SUCCEEDED"]
    rows = read_lines(run.member(0).attempts()[0].path / "workers.jsonl")
    assert [(row["replica"], row["exit_code"]) for row in rows] == [("workerpool1-0", -9)]


def test_worker_here_that_takes_too_much_each_time_ends_all_and_is_named(laptop: Cluster) -> None:
    run = launched(laptop, "import time; time.sleep(600)", TAKES.format(200), "job.worker_restarts=1")

    (end,) = attempts(run.path)
    assert (end["state"], end["cause"], end["first_rank"]) == ("FAILED", "out_of_memory", 1)
    assert end["message"].startswith("the processes of workerpool1-0 took 0.")
    assert end["message"].endswith(" GB, but its machine.mem_gb is 0.15")
    assert len(read_lines(run.member(0).attempts()[0].path / "workers.jsonl")) == 1


def test_worker_here_that_took_too_much_and_fails_otherwise_is_not_blamed_for_memory(laptop: Cluster) -> None:
    begun = laptop.work / "begun"
    worker = ONCE.format(begun=str(begun), times=2).replace(
        "time.sleep(600)", "raise SystemExit(7 if len(kept) == 1 << 20 else time.sleep(600))"
    )

    limits = ("job.worker_restarts=1", "job.restarts.worker=0")
    run = launched(laptop, "import time; time.sleep(600)", worker, *limits)

    (end,) = attempts(run.path)
    assert (end["cause"], end["message"]) == ("worker", "workerpool1-0 failed 2 times, and last exited with status 7")
