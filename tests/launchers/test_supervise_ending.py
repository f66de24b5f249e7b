"""Ranks that are told to end, that do not listen, or that nobody told: all of them end, and it is recorded."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from launchers.run_folder.record import read_json, write_json
from tests.launchers.attempted import Make, Start, ended, until
from tests.launchers.supervised import REPORT, SAVE_ON_TERM, STUBBORN, alive, log, maker, outcome, ready


@pytest.fixture
def make_run(workdir: Path) -> Make:
    return maker(workdir)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_supervise_told_to_end_lets_ranks_save(make_run: Make, start: Start, number: signal.Signals) -> None:
    run = make_run(SAVE_ON_TERM, ranks=2)
    process = start(run)
    until(ready(run, 2))
    write_json(run.cancelled, {"by": "me", "t": 0})

    process.send_signal(number)

    assert ended(process) == 1
    assert (outcome(run)["state"], outcome(run)["cause"]) == ("CANCELLED", "cancelled")
    assert [log(run, r) for r in (0, 1)] == ["saved\n", "saved\n"]


def test_supervise_signals_that_come_often_are_harmless(make_run: Make, start: Start) -> None:
    run = make_run(SAVE_ON_TERM.replace("os._exit(75)", "time.sleep(0.5); os._exit(75)"), ranks=2)
    process = start(run)
    until(ready(run, 2))
    write_json(run.cancelled, {})

    for _ in range(5):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.02)

    assert ended(process) == 1
    assert outcome(run)["state"] == "CANCELLED"


def test_supervise_signal_before_the_ranks_are_there_is_not_lost(make_run: Make, start: Start) -> None:
    patch = """
import os, signal, launchers.host.trying as t
before = t.Try._prepare_member
def prepare(self):
    os.kill(os.getpid(), signal.SIGTERM)
    before(self)
t.Try._prepare_member = prepare
"""
    run = make_run("import time; time.sleep(600)")
    begun = time.monotonic()

    assert ended(start(run, patch=patch)) == 1

    assert time.monotonic() - begun < 90


def test_supervise_stuck_rank_is_killed_after_a_while(make_run: Make, start: Start) -> None:
    run = make_run(STUBBORN, ranks=2)
    process = start(run, patch="import launchers.host.ranks as r; r.KILL_AFTER_S = 0.3")
    until(ready(run, 2))
    write_json(run.cancelled, {})

    process.terminate()

    assert ended(process) == 1
    assert outcome(run)["state"] == "CANCELLED"
    until(lambda: not alive(str(run.path)))


def test_supervise_rank_stuck_after_anothers_failure_is_killed(make_run: Make, start: Start) -> None:
    code = "import os, sys\nif os.environ['RANK'] == '1':\n    sys.exit(7)\n" + STUBBORN
    run = make_run(code, ranks=2)

    assert ended(start(run, patch="import launchers.host.ranks as r; r.KILL_AFTER_S = 0.3")) == 1

    assert (outcome(run)["first_rank"], outcome(run)["exit_code"]) == (1, 7)
    until(lambda: not alive(str(run.path)))


def test_supervise_children_of_a_rank_end_with_it(make_run: Make, start: Start) -> None:
    """Data-loader workers, for example."""
    code = f"""
import os, subprocess, sys, time
subprocess.Popen([sys.executable, "-c", {STUBBORN!r}, "marker-" + os.environ["FAIRLEAD_JOB_ID"]])
while not os.path.exists(os.environ["FAIRLEAD_ATTEMPT_DIR"] + "/ready-0"):
    time.sleep(0.01)
sys.exit(5)
"""
    run = make_run(code, name=f"children-{os.getpid()}")

    assert ended(start(run, patch="import launchers.host.ranks as r; r.KILL_AFTER_S = 0.3")) == 1

    left = alive(f"marker-{run.id}")
    for pid in left:
        os.kill(int(pid), signal.SIGKILL)
    assert left == []


def test_supervise_cancelled_before_it_started_runs_nothing(make_run: Make, start: Start) -> None:
    run = make_run(REPORT)
    write_json(run.cancelled, {})

    assert ended(start(run)) == 1

    assert outcome(run)["state"] == "CANCELLED"
    assert not list(run.path.glob("members/0/attempt-0/env-*"))


def test_supervise_predecessor_without_a_word_is_settled(make_run: Make, start: Start) -> None:
    run = make_run(STUBBORN)
    first = start(run)
    until(ready(run))
    first.kill()
    first.wait()
    for pid in alive(str(run.path)):
        with contextlib.suppress(ProcessLookupError):  # it dies with its supervisor
            os.kill(int(pid), signal.SIGKILL)
    plan = read_json(run.plan)
    plan["plans"][0]["pools"][0]["program"] = [sys.executable, "-c", "pass"]
    write_json(run.plan, plan)
    for path in (run.member(0).path / "attempt-0").iterdir():  # an hour in the queue: nobody ran then
        os.utime(path, (path.stat().st_mtime - 3600,) * 2)

    assert ended(start(run)) == 0

    assert (outcome(run, attempt=0)["state"], outcome(run, attempt=0)["cause"]) == ("REQUEUED", "node_failure")
    assert outcome(run, attempt=1)["started"] - outcome(run, attempt=0)["ended"] > 3500
    assert outcome(run, attempt=1)["state"] == "SUCCEEDED"
