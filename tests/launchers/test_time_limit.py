"""The time limit where Slurm does not see to it: notice, the end, and what becomes of the member."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from conf.job_schema import Restarts
from launchers.host import limits
from launchers.run_folder.record import Run, read_json
from tests.cluster.harness import ROOT, Cluster, attempts
from tests.launchers.attempted import AT_ONCE, Make, Start, ended, until
from tests.launchers.supervised import SAVE_ON_TERM, STUBBORN, alive, log, maker, outcome, ready
from tests.plans import plan_of_run, pool_plan

SOON = {"time_limit_min": 1, "notice_s": 52}
"""Notice after eight seconds."""
KILLED_SOON = "import launchers.host.limits as l; l.after_notice_s = lambda plan: 0.5"
FIRST_LEAVES_AT_ONCE = """
import os, signal, sys, time
def told(number, frame):
    if os.environ["RANK"] == "0":
        print("left", flush=True)
        sys.exit(75)
    time.sleep(2)
    print("saved", flush=True)
    sys.exit(75)  # saved
signal.signal(signal.SIGTERM, told)
time.sleep(60)
"""
TOLD_AND_ENDED = "import launchers.host.ranks as r; r.KILL_AFTER_S = 0.0"
"""As one that is told to end, not given notice."""


@pytest.fixture
def make_run(workdir: Path) -> Make:
    return maker(workdir)


@pytest.fixture
def laptop(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return Cluster(workdir, first=())


@pytest.mark.parametrize("notice", ["SIGUSR2", "SIGTERM"])
def test_program_that_saves_when_told_goes_back_to_the_queue(make_run: Make, start: Start, notice: str) -> None:
    run = make_run(SAVE_ON_TERM, ranks=2, notice=notice, **SOON)

    assert ended(start(run)) == 1

    assert (outcome(run)["state"], outcome(run)["cause"]) == ("REQUEUED", "timeout")
    assert outcome(run)["message"] == "saved before the time limit"
    assert [log(run, r) for r in (0, 1)] == ["saved\n", "saved\n"]


def test_program_that_does_not_leave_is_ended(make_run: Make, start: Start) -> None:
    run = make_run(STUBBORN, ranks=2, notice="SIGTERM", **SOON)

    assert ended(start(run, patch=KILLED_SOON)) == 1

    assert (outcome(run)["state"], outcome(run)["cause"]) == ("FAILED", "timeout")
    assert outcome(run)["message"] == "did not save before the time limit"
    until(lambda: not alive(str(run.path)))


@pytest.mark.parametrize(("ours", "saves", "state"), [(1, 1, "REQUEUED"), (1, 0, "FAILED"), (0, 1, "FAILED")])
def test_trainer_that_is_ended_at_the_limit_goes_on_from_what_it_saved_before(
    make_run: Make, start: Start, tmp_path: Path, ours: int, saves: int, state: str
) -> None:
    """Another program may well begin anew, again and again."""
    save = 'os.mkdir(os.environ["AIP_CHECKPOINT_DIR"] + "step-00000006")\nopen(' if saves else "open("
    stage = {"stage_dir": str(tmp_path / "staged")} if ours else {}
    run = make_run(STUBBORN.replace("open(", save), notice="SIGTERM", **SOON, **stage)

    assert ended(start(run, patch=KILLED_SOON)) == 1

    assert (outcome(run)["state"], outcome(run)["cause"]) == (state, "timeout")


def test_program_may_use_all_of_its_notice(make_run: Make, start: Start) -> None:
    """It is no word to end, after which a program has KILL_AFTER_S."""
    slow = SAVE_ON_TERM.replace("print(", "time.sleep(1); print(")
    run = make_run(slow, notice="SIGTERM", **SOON)

    assert ended(start(run, patch=TOLD_AND_ENDED)) == 1

    assert outcome(run)["message"] == "saved before the time limit"


def test_rank_that_saves_has_all_of_its_notice_also_where_another_has_left(make_run: Make, start: Start) -> None:
    run = make_run(FIRST_LEAVES_AT_ONCE, ranks=2, notice="SIGTERM", **SOON)

    assert ended(start(run, patch=TOLD_AND_ENDED)) == 1

    assert (outcome(run)["state"], outcome(run)["cause"]) == ("REQUEUED", "timeout")
    assert [log(run, r) for r in (0, 1)] == ["left\n", "saved\n"]


def test_rank_that_fails_after_its_notice_is_not_hidden_by_one_that_has_saved(make_run: Make, start: Start) -> None:
    run = make_run(
        FIRST_LEAVES_AT_ONCE.replace("sys.exit(75)  # saved", "sys.exit(3)"), ranks=2, notice="SIGTERM", **SOON
    )

    assert ended(start(run)) == 1

    assert (outcome(run)["exit_code"], outcome(run)["first_rank"]) == (3, 1)


def test_ranks_that_start_when_the_others_were_to_be_ended_are_ended_too(make_run: Make, start: Start) -> None:
    """Nobody was there at the first try."""
    late = f"{KILLED_SOON}; l.after_notice_s = lambda plan: 0.0; l.KILL_AGAIN_S = 0.2"
    late += """
import time, launchers.host.ranks as r, launchers.host.trying as t
r.Processes.give_notice = lambda self, number: None
before = t.Try._prepare_member
def prepare(self):
    while not self.signals:
        time.sleep(0.01)
    time.sleep(0.3)
    before(self)
t.Try._prepare_member = prepare
"""
    run = make_run(STUBBORN, notice="SIGTERM", time_limit_min=1, notice_s=60)

    assert ended(start(run, patch=late)) == 1

    assert (outcome(run)["state"], outcome(run)["cause"]) == ("FAILED", "timeout")


def test_member_goes_back_as_often_as_its_job_may(make_run: Make, start: Start) -> None:
    run = make_run("raise SystemExit(75)", max_requeues=1)

    for _ in range(2):
        assert ended(start(run)) == 1

    states = [read_json(a.outcome)["state"] for a in run.member(0).attempts()]
    assert states == ["REQUEUED", "FAILED"]
    assert "job.max_requeues is 1" in outcome(run)["message"]


def test_whoever_is_stopped_after_the_notice_does_not_come_back(make_run: Make, start: Start) -> None:
    """Its queue ends with it."""
    run = make_run(SAVE_ON_TERM.replace("signal.SIGUSR2, leave", "signal.SIGUSR2, signal.SIG_IGN"))
    process = start(run)
    until(ready(run))

    for number in (signal.SIGUSR2, signal.SIGTERM):
        process.send_signal(number)

    assert ended(process) == 1
    assert (outcome(run)["state"], outcome(run)["cause"]) == ("CANCELLED", "cancelled")


def test_a_restart_gets_no_more_time(make_run: Make, start: Start) -> None:
    """Each attempt is told the same end, and where there is no time left the queue has it."""
    crash = """
import os, signal, time
while not os.path.exists(os.environ["FAIRLEAD_ATTEMPT_DIR"] + "/limits.json"):
    time.sleep(0.01)
os.kill(os.getpid(), signal.SIGSEGV)
"""
    run = make_run(crash, restarts=Restarts(crash=1), time_limit_min=9)

    assert ended(start(run, patch=AT_ONCE)) == 1

    first, second = (json.loads((a.path / "limits.json").read_text()) for a in run.member(0).attempts())
    assert first == second and first["ends_at"] is not None


def test_a_crash_with_no_time_left_is_tried_again_from_the_queue(make_run: Make, start: Start) -> None:
    run = make_run("import os; os.abort()", restarts=Restarts(crash=1), time_limit_min=1, notice_s=59)

    assert ended(start(run)) == 1

    assert (outcome(run)["state"], outcome(run)["cause"]) == ("REQUEUED", "crash")
    assert len(run.member(0).attempts()) == 1


@pytest.mark.parametrize(
    ("more", "ends_at"),
    [
        ({"time_limit_min": 10}, 1590.0),
        ({}, None),
        ({"launcher": "pool", "time_limit_min": 10}, 1490.0),
        ({"launcher": "pool", "time_limit_min": 5}, 1290.0),
    ],
    ids=["here", "no limit", "pool ends before", "pool"],
)
def test_ranks_are_told_when_they_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any], ends_at: float | None
) -> None:
    place = {"pool": "p", "job": "7", "nodes": ["n1"], "ends_at": 1500.0}
    monkeypatch.setenv("FAIRLEAD_PLACE", json.dumps(place))
    plan = plan_of_run(Run(tmp_path), pool_plan(("true",)), **more)

    assert limits.here(plan, 1000.0) == {"ends_at": ends_at, "notice_s": {"SIGTERM": 30.0, "SIGUSR2": 50.0}}


SAVES = """trap 'echo saved; exit 75' TERM; [ $FAIRLEAD_ATTEMPT = 0 ] || exit 0; while true; do sleep 0.1; done"""
WORKER = "trap 'exit 0' TERM; while true; do sleep 0.1; done"
POOLS = f'pools=[{{}},{{job: {{command: [bash, -c, "{WORKER}"]}}}}]'


@pytest.mark.parametrize("words", [(), (POOLS,)], ids=["one pool", "two pools"])
def test_job_on_this_machine_goes_on_after_its_time_limit(laptop: Cluster, words: tuple[str, ...]) -> None:
    limit = ("machine.time_limit_min=1", "job.notice_s=50", "tracking=none")

    done = laptop.fairlead("launch", "job=command", *limit, f'job.command=[bash,-c,"{SAVES}"]', *words)

    assert "SUCCEEDED" in done.stdout
    (run,) = (path.parent for path in (laptop.work / "runs").glob("*/spec.json"))
    assert [(a["state"], a["cause"]) for a in attempts(run)] == [("REQUEUED", "timeout"), ("SUCCEEDED", "succeeded")]


def test_trainer_on_this_machine_goes_on_from_what_it_saved_at_its_time_limit(laptop: Cluster) -> None:
    limit = ("machine.time_limit_min=1", "job.notice_s=20", "train.epochs=30", "data.set=iris", "model=mlp")

    laptop.fairlead("launch", "experiment=digits", *limit, "train.batch_size=20", *laptop.probe(first_s=0.4))

    (run,) = (path.parent for path in (laptop.work / "runs").glob("*/spec.json"))
    first, second = attempts(run)
    assert (first["state"], first["cause"], second["state"]) == ("REQUEUED", "timeout", "SUCCEEDED")
    assert "goes on from step" in (run / "members/0/attempt-1/rank-0.log").read_text()
