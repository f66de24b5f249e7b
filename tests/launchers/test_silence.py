"""Programs that are not ours and hang: found by their silence, told, ended, and where they stood written down."""

from __future__ import annotations

import signal
import sys
from functools import partial
from pathlib import Path

import pytest

from conf.job_schema import Metrics, Restarts
from launchers.host import outside, watchdog
from launchers.host.watchdog import Silence, Watchdog
from launchers.run_folder.record import Attempt, Run, make_private
from tests.launchers.attempted import Make, Start, ended, made, outcomes, plan_of


@pytest.fixture
def make_run(workdir: Path) -> Make:
    return partial(made, workdir)


QUIET = {"notice": "SIGTERM", "silent_min": 0.1, "metrics": Metrics(kind="jsonl")}
SAYING = "import json, os, signal, sys, time\nreports = open(os.environ['FAIRLEAD_REPORTS'], 'a', buffering=1)\n"


@pytest.mark.parametrize(
    "before",
    ["", "print('begun')", "reports.write('{\"loss\": 1}\\n')"],
    ids=["from its start", "after output", "after a report"],
)
def test_watchdog_program_that_says_nothing_more_is_ended(make_run: Make, start: Start, before: str) -> None:
    deaf = ("env", "--ignore-signal=TERM")  # from its very start
    run = make_run(*deaf, sys.executable, "-Sc", f"{SAYING}{before}\ntime.sleep(600)", **QUIET)

    assert ended(start(run)) == 1

    (found,) = outcomes(run)
    assert (found["state"], found["cause"], found["exit_code"]) == ("FAILED", "hang", -signal.SIGKILL)
    assert found["message"] == "it printed and reported nothing for 0.1 minutes"
    assert found["hung_since"] < found["ended"]


@pytest.mark.parametrize("says", ["print(step)", "reports.write('{\"speed\": 1}\\n')"], ids=["prints", "reports"])
def test_watchdog_program_that_prints_or_reports_is_alive(make_run: Make, start: Start, says: str) -> None:
    """Twice as long as it may be silent."""
    run = make_run(sys.executable, "-Sc", f"{SAYING}for step in range(120): {says}; time.sleep(0.1)", **QUIET)

    assert ended(start(run)) == 0


def test_watchdog_program_that_hung_may_save_and_is_started_again(make_run: Make, start: Start) -> None:
    code = f"""{SAYING}
kept = os.environ["AIP_CHECKPOINT_DIR"] + "state"
def save(*_):
    open(kept, "w").close(); os._exit(75)
signal.signal(signal.SIGTERM, save)
time.sleep(0 if os.path.exists(kept) else 600)
"""
    run = make_run(sys.executable, "-Sc", code, **QUIET, restarts=Restarts(hang=1))

    assert ended(start(run)) == 0

    assert [(o["state"], o["cause"]) for o in outcomes(run)] == [("RESTARTED", "hang"), ("SUCCEEDED", "succeeded")]


LOCKED = """
import subprocess, sys, threading
child = subprocess.Popen([sys.executable, "-c", "import ctypes; ctypes.CDLL(None).pause()"])
lock = threading.Lock()
def take():
    with lock:
        return
with lock:
    thread = threading.Thread(target=take, name="second")
    thread.start()
    thread.join()
"""


def test_watchdog_command_that_is_silent_leaves_the_stacks_of_all_its_processes(make_run: Make, start: Start) -> None:
    script = f"{sys.executable} -c '{LOCKED}'; true"
    run = make_run("sh", "-c", script, **QUIET)

    assert ended(start(run)) == 1

    seen = (run.path / "members/0/attempt-0/stacks-0.txt").read_text()
    assert seen.count("\nprocess ") == 3 and seen.rindex("(sh)") > seen.rindex("in take")
    assert all(word in seen for word in (" in take", " in join", " [second] "))
    assert [o["cause"] for o in outcomes(run)] == ["hang"]


def test_look_from_outside_at_who_is_not_here_writes_nothing(workdir: Path) -> None:
    outside.look(workdir, [0, 1])

    assert not list(workdir.iterdir())


def test_watchdog_program_without_a_limit_may_be_silent(make_run: Make, start: Start) -> None:
    run = make_run(sys.executable, "-Sc", "import time; time.sleep(3)", **{**QUIET, "silent_min": None})

    assert ended(start(run)) == 0


def test_silence_that_nobody_could_hear_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Storage that does not answer, at first with errors and then not at all."""
    clock = [0.0]
    monkeypatch.setattr(watchdog.time, "monotonic", lambda: clock[0])
    silence, heard = Silence(), []
    for pause_s, can_hear in [(0.0, True), (1.0, True), (600.0, False), (600.0, True), (1.0, True), (600.0, True)]:
        clock[0] += pause_s
        if can_hear:
            heard.append(silence.look("the same"))
        else:
            silence.miss()

    assert heard == [0.0, 1.0, 1.0, 2.0, 2.0 + watchdog.LOOK_S]
    assert silence.look("another") == 0.0


def test_watchdog_that_has_nothing_to_watch_does_nothing(workdir: Path) -> None:
    run = Run(workdir / "d-1")
    make_private(run.member(0).path / "attempt-0")
    watching = Watchdog(plan_of(run, ("true",)), Attempt(run.member(0).path / "attempt-0"), print, print)

    watching.start()

    assert (watching.wanted, watching.finish()) == (False, None)
