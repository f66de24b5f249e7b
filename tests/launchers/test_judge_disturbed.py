"""What disturbs a judge (kills, full disks, damaged files, endless output) disturbs no training."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from conf.job_schema import Metrics
from launchers.run_folder.record import read_json, read_lines, write_json
from tests.launchers.judged import Made, Start, ended, maker, of_member_7, outcome, reporting, until


@pytest.fixture
def made(workdir: Path) -> Made:
    return maker(workdir)


@pytest.fixture
def start(start: Start) -> Start:
    return of_member_7(start)


def test_judge_killed_with_its_supervisor_loses_no_report(made: Made, start: Start) -> None:
    """kill -9: what the program said by then and nobody had collected is collected by the next attempt."""
    code = reporting("0.0").replace("time.sleep(0.05)", "time.sleep(60 if step == 9 else 0)")
    run, _ = made(code)
    first = start(run, patch="import launchers.host.reports as r; r.Reports.collect = lambda *_: []")
    until(lambda: len(read_lines(run.member(7).path / "attempt-0" / "program.jsonl")) == 9)
    first.kill()
    first.wait()
    plan = read_json(run.plan)
    plan["plans"][0]["pools"][0]["program"] = [sys.executable, "-ISc", "pass"]
    write_json(run.plan, plan)

    assert ended(start(run))[0] == 0

    rows = read_lines(run.member(7).path / "attempt-0" / "reports.jsonl")
    assert [r["step"] for r in rows] == list(range(1, 10))


def test_judge_disk_full_is_told_once_and_the_trial_stopped_when_it_can_be(made: Made, start: Start) -> None:
    patch = """
import launchers.host.judge as j, launchers.host.reports as r, time
began, write, store = [], j.write_json, r._store
def full(real):
    def act(*words):
        began.append(time.monotonic())
        if began[-1] - began[0] < 3:
            raise OSError(28, "No space left on device")
        real(*words)
    return act
j.write_json, r._store = full(write), full(store)
"""
    run, _ = made(reporting())

    code, said = ended(start(run, patch=patch))

    assert code == 0
    assert said.count("No space left on device") == 1
    assert outcome(run)["state"] == "PRUNED"
    rows = read_lines(run.member(7).attempts()[0].path / "reports.jsonl")
    assert [r["step"] for r in rows] == list(range(1, len(rows) + 1))


def test_judge_damaged_file_of_another_trial_is_told_and_training_goes_on(made: Made, start: Start) -> None:
    run, _ = made(reporting("0.5 / step").replace("12_000", "60"))
    (run.member(2).point).write_text('{"point": ')

    code, said = ended(start(run))

    assert (code, outcome(run)["state"]) == (0, "SUCCEEDED")
    assert said.count("is not valid JSON") == 1


def test_judge_prints_and_binary_and_endless_lines_do_not_disturb(made: Made, start: Start) -> None:
    code = "import sys; sys.stdout.buffer.write(bytes(30 << 20) + b'\\nloss=1\\n\\xff\\xfe' * 10)"
    run, _ = made(code, metrics=Metrics(kind="pattern", pattern="loss=(?P<loss>.*)"))

    assert ended(start(run))[0] == 0

    rows = read_lines(run.member(7).attempts()[0].path / "reports.jsonl")
    assert [r["metrics"] for r in rows] == [{"loss": 1.0}] * 10
