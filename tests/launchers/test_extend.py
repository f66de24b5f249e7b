"""The verb `extend`: a larger budget, the members that it pays for, and going on where it was enough."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from conf import schema
from conf.sweep_schema import Limits
from launchers.errors import SpecError
from launchers.jobs.status import status_of
from launchers.queue import local
from launchers.run_folder.journal import Journal
from launchers.run_folder.record import read_json, read_lines, write_json
from launchers.search.extend import Wish, extend
from launchers.search.study import Study
from tests.cluster.harness import until
from tests.conftest import Command
from tests.launchers.extended import POINT, emptied, indices, launched, on_slurm, queue
from tests.launchers.tracked import spec_of
from tests.launchers.tried import accuracies, ask, make_search, search_of, start

# --- what it does -------------------------------------------------------------------------------------


def test_extend_of_a_finished_search_queues_the_new_members_alone(cluster: Any, workdir: Path) -> None:
    run = launched(workdir)
    accuracies(run, [0.5, 0.6, 0.7, None])
    write_json(run.result, {"best_member": 2})
    emptied(cluster)

    done = extend(run, Wish(trials=7))

    assert (done.members, indices(run)) == ((4, 5, 6), [0, 1, 2, 3, 4, 5, 6])
    assert read_lines(run.members_file)[6] == {"index": 6, "late": True, "point": {}, "sections": {}}
    assert Study(run).search.trials == 7
    assert [(j["name"], j["array"], j["after"]) for j in queue(workdir)][2:] == [
        ("digits-1.r1", "4-6", ""),
        ("digits-1.r1.finish", "", "102"),
    ]
    assert not run.result.exists()
    assert (run.path / "result.0.json").exists()
    assert done.document() == {"job": "digits-1", "members": [4, 5, 6], "budget": {"trials": 7}}


def test_extend_of_a_running_search_keeps_the_limit_and_has_one_finish_step(cluster: Any, workdir: Path) -> None:
    run = launched(workdir, spec=on_slurm(max_parallel=2))
    start(run, 0, POINT)

    extend(run, Wish(trials=6))

    assert [(j["name"], j["array"], j["after"]) for j in queue(workdir)] == [
        ("digits-1", "0-3%2", ""),
        ("digits-1.finish", "", "100"),
        ("digits-1.r1", "4-5%2", "100"),
        ("digits-1.r1.finish", "", "100:102"),
    ]
    assert [call["argv"] for call in cluster.calls("scancel")] == [["--quiet", "--state=PENDING", "101"]]


def test_extend_brings_back_members_that_were_not_needed_any_more(cluster: Any, workdir: Path) -> None:
    run = launched(workdir, 6, limits=Limits(wall_min=10))
    accuracies(run, [0.5, 0.6])
    write_json(Study(run).over, {"why": "11 minutes have passed", "t": 0})
    emptied(cluster)
    assert [m.state for m in status_of(run).members][2:] == ["SKIPPED"] * 4

    done = extend(run, Wish(trials=8, wall_min=10**8))

    assert done.members == (2, 3, 4, 5, 6, 7)
    assert Study(run).search.limits.wall_min == 10**8
    assert not Study(run).over.exists()


def test_extend_of_limits_alone_while_it_runs_queues_nothing(cluster: Any, workdir: Path) -> None:
    run = launched(workdir, limits=Limits(gpu_hours=5, max_failed=3))
    start(run, 0, POINT)
    before = queue(workdir)

    done = extend(run, Wish(gpu_hours=7.5, max_failed=9))

    assert (done.members, queue(workdir)) == ((), before)
    assert Study(run).search.limits == Limits(gpu_hours=7.5, max_failed=9)
    assert read_json(Study(run).budget)["limits"] == {"gpu_hours": 7.5, "max_failed": 9}


def test_extend_twice_keeps_what_was_raised_before(cluster: Any, workdir: Path) -> None:
    run = launched(workdir, limits=Limits(gpu_hours=5))
    extend(run, Wish(trials=5))
    extend(run, Wish(gpu_hours=6))
    extend(run, Wish(trials=6))

    assert (Study(run).search.trials, Study(run).search.limits.gpu_hours) == (6, 6)
    assert indices(run) == [0, 1, 2, 3, 4, 5]


def test_extend_of_a_cancelled_search_goes_on(cluster: Any, workdir: Path) -> None:
    run = launched(workdir)
    accuracies(run, [0.5])
    write_json(run.cancelled, {"by": "me", "t": time.time()})
    emptied(cluster)

    done = extend(run, Wish(trials=5))

    assert done.members == (1, 2, 3, 4)
    assert not run.cancelled.exists()
    assert (run.path / "cancelled.0.json").exists()


def test_extend_leaves_trials_that_have_a_point_to_retry(cluster: Any, workdir: Path) -> None:
    run = launched(workdir)
    accuracies(run, [0.5, None])
    ask(run, 2, POINT)  # its node went off
    emptied(cluster)

    assert extend(run, Wish(trials=5)).members == (3, 4)


def test_extend_of_members_that_share_allocations_queues_their_element_again(cluster: Any, workdir: Path) -> None:
    run = launched(workdir, 3, spec=on_slurm(members_per_allocation=2))
    accuracies(run, [0.5, 0.6, 0.7])
    emptied(cluster)

    extend(run, Wish(trials=6))

    assert [s.indices for s in Journal(run).submissions() if s.kind == "members"] == [(0, 1, 2), (3, 4, 5)]
    assert [j["array"] for j in queue(workdir)][2] == "1-2"


# --- going on although it found enough, or trouble ----------------------------------------------------


def test_extend_again_counts_failures_anew(cluster: Any, workdir: Path) -> None:
    run = launched(workdir, 9, limits=Limits(same_failures=2))
    accuracies(run, [None, None, None])
    write_json(Study(run).over, {"why": "the last 2 trials that ended failed alike: ValueError: no", "t": 0})
    emptied(cluster)

    with pytest.raises(SpecError, match="would still be over: the last 2 trials that ended failed alike"):
        extend(run, Wish(trials=10))
    done = extend(run, Wish(again=True))

    assert done.members == (3, 4, 5, 6, 7, 8)
    assert Study(run).search.limits.same_failures == 4
    assert not Study(run).over.exists()


def test_extend_again_counts_progress_anew_and_forgets_the_target(cluster: Any, workdir: Path) -> None:
    run = launched(workdir, 9, limits=Limits(no_progress_trials=2, target=0.8))
    accuracies(run, [0.9, 0.5, 0.4, 0.3])
    emptied(cluster)

    extend(run, Wish(trials=12, again=True))

    assert (Study(run).search.limits.no_progress_trials, Study(run).search.limits.target) == (4, None)


def test_extend_again_leaves_limits_that_stop_nothing(cluster: Any, workdir: Path) -> None:
    limits = Limits(no_progress_trials=20, target=0.99)
    run = launched(workdir, limits=limits)
    accuracies(run, [0.9, 0.5])

    extend(run, Wish(trials=5, again=True))

    assert Study(run).search.limits == limits


# --- as a command, and on this machine ----------------------------------------------------------------


def test_extend_as_a_command(cluster: Any, workdir: Path, fairlead: Command) -> None:
    run = launched(workdir, limits=Limits(gpu_hours=5))

    done = fairlead("extend", str(run.path), "--trials", "6", "--gpu-hours", "9.5")
    document = json.loads(fairlead("extend", str(run.path), "--trials", "7", "--json").stdout)
    refused = fairlead("extend", str(run.path), "--trials", "7")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "digits-1   2 member(s) queued   trials 6, gpu_hours 9.5\n"
    assert document == {"job": "digits-1", "members": [6], "budget": {"trials": 7, "gpu_hours": 9.5}}
    assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 3)


LAUNCH = """
import sys
from pathlib import Path
from launchers.queue.handover import submit_members
from launchers.plan import plans_from
from launchers.run_folder.record import Run, read_json
run = Run(Path(sys.argv[1]))
submit_members(run, plans_from(read_json(run.plan)), [0, 1])
"""
QUICK = """
import sys, time
from pathlib import Path
from launchers.run_folder.record import Run, mark_ended, write_json
run, index = Run(Path(sys.argv[1])), int(sys.argv[sys.argv.index("--member") + 1])
attempt = run.member(index).path / "attempt-0"
attempt.mkdir(parents=True)
write_json(run.member(index).point, {"point": {}, "sections": {}, "asked": time.time(), "reserved_gpu_hours": 0})
until = time.monotonic() + 200
while not (run.path / "go").exists() and time.monotonic() < until:
    time.sleep(0.05)
write_json(attempt / "outcome.json", {"state": "SUCCEEDED", "cause": "succeeded", "message": "", "ended": time.time()})
mark_ended(run, index, 0, "SUCCEEDED")
"""


@pytest.mark.parametrize("late", [False, True])
def test_extend_on_this_machine_adds_to_the_queue_that_runs_or_starts_one(
    workdir: Path, root: Path, fairlead: Command, late: bool
) -> None:
    spec = dataclasses.replace(spec_of(kind="none"), launcher=schema.Launcher(kind="local", max_parallel=2))
    run = make_search(workdir / "runs", search_of(2), spec=spec, fresh=True, kind="none")
    code = run.code / "fairlead"
    (code / "launchers" / "host").mkdir(parents=True)
    for folder in ("launchers", "launchers/host"):
        for path in (p for p in (root / folder).glob("*") if p.suffix == ".py" or (p.is_dir() and p.name != "host")):
            (code / folder / path.name).symlink_to(path)
    for name in ("conf", "sweeps"):
        (code / name).symlink_to(root / name)
    (code / "launchers" / "host" / "supervise.py").unlink()
    (code / "launchers" / "host" / "supervise.py").write_text(QUICK)
    env = {**os.environ, "PYTHONPATH": str(root)}
    subprocess.run([sys.executable, "-c", LAUNCH, str(run.path)], env=env, check=True, timeout=90)
    if late:
        (run.path / "go").touch()
        until(lambda: not local.is_alive(run), 100, pause_s=0.1)

    done = fairlead("extend", str(run.path), "--trials", "5", "--json")
    (run.path / "go").touch()
    assert json.loads(done.stdout)["members"] == [2, 3, 4], done.stderr
    until(lambda: not local.is_alive(run), 200, pause_s=0.1)

    assert read_json(run.result)["members"] == {"SUCCEEDED": 5}
    assert [m.attempts for m in status_of(run).members] == [1] * 5
    assert bool(list(run.path.glob("result.*.json"))) is late
