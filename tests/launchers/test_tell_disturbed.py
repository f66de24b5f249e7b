"""What a trial said and how it ended, when it or its supervisor is killed in the middle of saying so."""

from __future__ import annotations

import os
import random
import signal
import sys
from pathlib import Path

import pytest

from launchers.run_folder.record import Run, ended_members, read_json, read_lines, write_json
from launchers.search.study import LEASE_S, Study
from sweeps.trials import Trial
from tests.launchers.judged import Made, Start, ended, maker, of_member_7, until

FIVE = """
import json, os
with open(os.environ["FAIRLEAD_REPORTS"], "a") as f:
    for step in range(1, 6):
        f.write(json.dumps({"step": step, "loss": 1 / step}) + "\\n")
        f.flush()
"""
TORN = """
import json, os, time
with open(os.environ["FAIRLEAD_REPORTS"], "a") as f:
    f.write(json.dumps({"step": 1, "loss": 0.5}) + "\\n" + json.dumps({"step": 2, "loss": 0.12345})[:-4])
    f.flush()
time.sleep(600)
"""
DIES = """
import os, signal
def trace(frame, event, arg):
    global begun, left
    if "/launchers/" not in frame.f_code.co_filename:
        return None
    begun = begun or frame.f_code.co_name == "finish"
    if begun and event == "line":
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    return trace
begun, left = False, LINE
sys.settrace(trace)
"""
"""A supervisor that is killed before its n-th line after its ranks have left."""
LINES = [*random.Random(11).sample(range(1, 540), 5), *random.Random(12).sample(range(540, 620), 6)]
"""From there to the last entry there are about 600; the outcome is written in the last 50 of them."""


@pytest.fixture
def made(workdir: Path) -> Made:
    return maker(workdir)


@pytest.fixture
def start(start: Start) -> Start:
    return of_member_7(start)


def seven(run: Run, gone: bool = False) -> Trial:
    trials = {t.number: t for t in Study(run).trials({7} if gone else ())}
    assert sorted(trials) == [0, 1, 2, 3, 7], "there is each once"
    return trials[7]


def program(run: Run, code: str) -> None:
    plan = read_json(run.plan)
    plan["plans"][0]["pools"][0]["program"] = [sys.executable, "-ISc", code]
    write_json(run.plan, plan)


def grow_old(path: Path) -> None:
    """As if nobody had been heard of for some minutes."""
    for each in (path, *path.iterdir()):
        then = each.stat().st_mtime - LEASE_S - 60
        os.utime(each, (then, then))


@pytest.mark.parametrize("line", LINES)
def test_supervisor_killed_while_it_ends_a_trial_loses_no_result(made: Made, start: Start, line: int) -> None:
    run, _ = made(FIVE)
    process = start(run, patch=DIES.replace("LINE", str(line)))
    process.communicate(timeout=200)
    assert process.returncode in (-signal.SIGKILL, 0)
    (attempt,) = run.member(7).attempts()
    has_outcome = attempt.outcome.exists()

    assert seven(run).state == ("SUCCEEDED" if has_outcome else "RUNNING")
    grow_old(attempt.path)
    assert (7 in Study(run).silent()) == (7 not in ended_members(run)), "nobody waits for it for ever"
    assert seven(run, gone=True).state == ("SUCCEEDED" if has_outcome else "LOST")

    if not has_outcome:  # Slurm runs it again
        program(run, "pass")
        assert ended(start(run))[0] == 0
    trial = seven(run)
    assert [(r.step, r.metrics["loss"]) for r in trial.reports] == [(step, 1 / step) for step in range(1, 6)]
    assert (trial.state, trial.attempts) == ("SUCCEEDED", 1 if has_outcome else 2)
    assert len(read_lines(attempt.path / "reports.jsonl")) == 5


@pytest.mark.parametrize("which", ["program", "supervisor"])
def test_trial_killed_in_the_middle_of_a_report_has_the_whole_ones(made: Made, start: Start, which: str) -> None:
    run, _ = made(TORN)
    process = start(run)
    until(lambda: seven(run).reports)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()

    os.kill(int(children[0]) if which == "program" else process.pid, signal.SIGKILL)

    process.communicate(timeout=200)
    if which == "supervisor":
        os.kill(int(children[0]), signal.SIGKILL)
        program(run, "raise SystemExit(1)")
        assert ended(start(run))[0] == 1
    assert [(r.step, r.metrics) for r in seven(run).reports] == [(1, {"loss": 0.5})]
    assert seven(run).state == "FAILED"
