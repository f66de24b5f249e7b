"""Trials of real programs that are watched while they run: who is stopped, and how it ends."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conf.job_schema import Metrics
from launchers.host.judge import why_pruned
from launchers.run_folder.record import make_private, read_json, read_lines, write_json
from tests.launchers.judged import Made, Start, ended, maker, of_member_7, outcome, reporting, until


@pytest.fixture
def made(workdir: Path) -> Made:
    return maker(workdir)


@pytest.fixture
def start(start: Start) -> Start:
    return of_member_7(start)


@pytest.mark.parametrize(
    ("told", "code"), [("os._exit(75)", 75), ("os._exit(0)", 0), ("os._exit(3)", 3)], ids=["saves", "well", "badly"]
)
def test_judge_stops_a_trial_that_will_not_win_however_it_leaves(
    made: Made, start: Start, told: str, code: int
) -> None:
    run, _ = made(reporting(told=told))
    begun = time.monotonic()

    assert ended(start(run))[0] == 0

    found = outcome(run)
    assert (found["state"], found["cause"], found["exit_code"]) == ("PRUNED", "pruned", code)
    assert found["message"].startswith("median: the best loss")
    assert why_pruned(run.member(7)) == found["message"]
    assert time.monotonic() - begun < 90, "by itself it would take ten minutes"


def test_judge_program_that_does_not_listen_is_killed_after_the_notice(made: Made, start: Start) -> None:
    run, _ = made(reporting(told="pass"), notice_s=1)

    assert ended(start(run))[0] == 0

    assert (outcome(run)["state"], outcome(run)["exit_code"]) == ("PRUNED", -9)


def test_judge_leaves_a_good_trial_alone(made: Made, start: Start) -> None:
    run, _ = made("import json, os, time\n" + reporting("0.5 / step").partition("\n")[2].replace("12_000", "40"))

    assert ended(start(run))[0] == 0

    (attempt,) = run.member(7).attempts()
    assert (outcome(run)["state"], why_pruned(run.member(7))) == ("SUCCEEDED", None)
    rows = read_lines(attempt.path / "reports.jsonl")
    assert [(r["step"], r["metrics"]) for r in rows] == [(s, {"loss": 0.5 / s}) for s in range(1, 40)]
    assert (attempt.path / "alive").exists()


def test_judge_stops_a_trial_of_nan(made: Made, start: Start) -> None:
    run, _ = made(reporting("float('nan')"), others=0)

    ended(start(run))

    assert outcome(run)["message"].startswith("diverged: loss is nan at report ")


def test_judge_hears_our_trainers_spool(made: Made, start: Start) -> None:
    code = reporting().replace(
        'os.environ["FAIRLEAD_REPORTS"]', 'os.environ["FAIRLEAD_ATTEMPT_DIR"] + "/metrics.jsonl"'
    )
    code = code.replace('{"step": step, **metrics}', '{"t": 1000 * time.time(), "step": step, "metrics": metrics}')
    run, _ = made(code, kind="trainer", metrics=Metrics())
    plan = read_json(run.plan)
    plan["plans"][0]["pools"][0]["program"] = [sys.executable, "-ISc", code]
    write_json(run.plan, plan)

    ended(start(run))

    assert outcome(run)["state"] == "PRUNED"
    assert not (run.member(7).attempts()[0].path / "reports.jsonl").exists()


def test_judge_of_a_plain_job_collects_and_prunes_nobody(made: Made, start: Start) -> None:
    run, _ = made(reporting("float('nan')").replace("12_000", "5") + "sys.stdout.write('loss=3')", search=None)
    make_private(run.member(7).path)

    assert ended(start(run))[0] == 0

    (attempt,) = run.member(7).attempts()
    assert [r["step"] for r in read_lines(attempt.path / "reports.jsonl")] == [1, 2, 3, 4]
    assert not (attempt.path / "alive").exists()


def test_judge_members_parameters_reach_the_program(made: Made, start: Start) -> None:
    run, _ = made("import sys; print(sys.argv[1:])")

    ended(start(run))

    assert run.member(7).attempts()[0].rank_log(0).read_text() == "['--lr=0.1']\n"


def test_judge_only_rank_0_is_heard(made: Made, start: Start) -> None:
    code = "import os; open(os.environ['FAIRLEAD_REPORTS'], 'a').write('{\"loss\": %s}' % os.environ['RANK'])"
    run, _ = made(code)
    plan = read_json(run.plan)
    plan["plans"][0]["pools"][0]["ranks_per_node"] = 3
    write_json(run.plan, plan)

    ended(start(run))

    (attempt,) = run.member(7).attempts()
    assert [r["metrics"] for r in read_lines(attempt.path / "reports.jsonl")] == [{"loss": 0.0}]
    assert {p.name for p in attempt.path.glob("program.jsonl*")} == {
        "program.jsonl", "program.jsonl.rank-1", "program.jsonl.rank-2",
    }  # fmt: skip


def test_judge_trial_that_was_stopped_is_not_run_again(made: Made, start: Start) -> None:
    """Its supervisor died after the word was on disk and before the trial had left."""
    run, _ = made("print('ran')")
    attempt = run.member(7).path / "attempt-0"
    make_private(attempt)
    write_json(attempt / "pruned.json", {"why": "median: it will not win", "t": 1.0})

    assert ended(start(run))[0] == 0

    assert [outcome(run, n)["state"] for n in (0, 1)] == ["REQUEUED", "PRUNED"]
    assert outcome(run)["message"] == "median: it will not win"
    assert not (run.member(7).path / "attempt-1" / "rank-0.log").exists()


def test_judge_preempted_while_it_is_stopped_is_pruned(made: Made, start: Start) -> None:
    run, _ = made(reporting(told="time.sleep(1); os._exit(75)"))
    process = start(run)
    until(lambda: why_pruned(run.member(7)))

    process.send_signal(signal.SIGTERM)

    assert ended(process)[0] == 0
    assert outcome(run)["state"] == "PRUNED"


def test_judge_cancelled_by_the_user_is_cancelled(made: Made, start: Start) -> None:
    run, _ = made(reporting("0.0"))
    process = start(run)
    until(lambda: run.member(7).attempts() and (run.member(7).attempts()[0].path / "reports.jsonl").exists())
    write_json(run.cancelled, {})

    process.terminate()

    assert ended(process)[0] == 1
    assert outcome(run)["state"] == "CANCELLED"


def test_supervisor_of_an_ordinary_job_loads_nothing_of_searches(root: Path) -> None:
    code = """
import sys, launchers.host.supervise
of_searches = ("sweeps", "launchers.search", "launchers.host.judge", "launchers.host.reports")
print([m for m in sys.modules if m.startswith(of_searches)])
"""

    done = subprocess.run(
        [sys.executable, "-S", "-c", code], env={"PYTHONPATH": str(root)}, capture_output=True, text=True, check=True
    )

    assert done.stdout == "[]\n"
