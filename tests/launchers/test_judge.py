"""Trials that are watched while they run: who is stopped, how, and that nothing disturbs the supervisor."""

from __future__ import annotations

import dataclasses
import functools
import gc
import itertools
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conf import schema
from conf.document import to_document
from conf.job_schema import Metrics
from conf.sweep_schema import Parameter, Pruning, Search
from launchers.config.check import check_all
from launchers.host import judge
from launchers.host.judge import Judge, why_pruned
from launchers.plan import Plan, plans_document
from launchers.planning import Facts, plan_of
from launchers.run_folder.record import (
    Attempt,
    Run,
    append_line,
    make_private,
    mark_ended,
    read_json,
    read_lines,
    write_json,
)
from launchers.search.expand import compose_all
from tests.launchers.tracked import put_our_code

Made = Callable[..., tuple[Run, Plan]]
Start = Callable[..., "subprocess.Popen[str]"]
SEARCH = Search(
    kind="search",
    algorithm="random",
    parameters={"params.lr": Parameter(type="double", min=0, max=1)},
    trials=20,
    pruning=Pruning(rule="median", min_trials=2),
)
REPORTING = """
import json, os, signal, sys, time
def report(step, **metrics):
    with open(os.environ["FAIRLEAD_REPORTS"], "a") as f:
        f.write(json.dumps({"step": step, **metrics}) + "\\n")
def told(*_):
    TOLD
signal.signal(signal.SIGTERM, told)
for step in range(1, 12_000):
    report(step, loss=LOSS)
    time.sleep(0.05)
"""


@functools.cache
def composed() -> schema.Spec:
    return check_all(compose_all(["job=command", "job.command=[program]", "job.metrics.kind=jsonl"]))[0]


@pytest.fixture
def made(workdir: Path) -> Made:
    """A frozen search over a command; `others` are the losses, step by step, of trials that have ended."""

    def make(code: str = "pass", *, others: int = 4, search: Search | None = SEARCH, **of_job: Any) -> tuple[Run, Plan]:
        run = Run(workdir / "runs" / "d-1")
        make_private(run.path)
        make_private(run.code / "project")
        put_our_code(run.path)
        job = dataclasses.replace(composed().job, command=(sys.executable, "-ISc", code), **of_job)
        objective = schema.Objective(metric="loss", goal="minimize")
        spec = dataclasses.replace(composed(), job=job, sweep=search, objective=objective)
        plan = plan_of(spec, Facts(job=run.id, run_dir=run.path, python=sys.executable, members=20))
        write_json(run.spec, to_document(spec))
        write_json(run.plan, plans_document([plan]))
        for index in range(20):
            append_line(run.members_file, {"index": index, "point": {}, "sections": {}, "late": search is not None})
        for index in range(others):
            trial(run, index, [1.0 / step for step in range(1, 200)])
        if search:
            claim(run, 7)
        return run, plan

    return make


def claim(run: Run, index: int) -> None:
    make_private(run.member(index).path)
    document = {
        "point": {"params.lr": 0.1},
        "sections": {"params": {"lr": 0.1}},
        "asked": 1.0,
        "reserved_gpu_hours": 0.0,
    }
    write_json(run.member(index).point, document)


def trial(run: Run, index: int, losses: list[float], state: str = "SUCCEEDED") -> None:
    """A trial that has ended."""
    claim(run, index)
    attempt = Attempt(run.member(index).path / "attempt-0")
    make_private(attempt.path)
    for step, loss in enumerate(losses, 1):
        with (attempt.path / "reports.jsonl").open("a") as f:
            f.write(json.dumps({"t": 1.0 + step, "step": step, "metrics": {"loss": loss}}) + "\n")
    outcome = {"state": state, "cause": "succeeded", "message": "", "started": 1.0, "ended": 2.0}
    write_json(attempt.outcome, outcome)
    mark_ended(run, index, 0, state)


@pytest.fixture
def start(start: Start) -> Start:
    """The supervisor of member 7, without site-packages: a node may have none."""
    return lambda run, **more: start(run, "--member", "7", flags=["-S"], **more)


def ended(process: subprocess.Popen[str], timeout_s: float = 90) -> tuple[int, str]:
    said, _ = process.communicate(timeout=timeout_s)
    assert "Traceback" not in said, said
    return process.returncode, said


def outcome(run: Run, attempt: int = -1) -> dict[str, Any]:
    found: dict[str, Any] = read_json(run.member(7).attempts()[attempt].outcome)
    return found


def until(what: Callable[[], Any], timeout_s: float = 90) -> None:
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.02)


def reporting(loss: str = "5.0", told: str = "os._exit(75)") -> str:
    return REPORTING.replace("LOSS", loss).replace("TOLD", told)


# --- with real programs -------------------------------------------------------------------------------


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


# --- the judge alone ----------------------------------------------------------------------------------


class Ranks:
    """Written down: what they were told, and what stood on disk by then."""

    def __init__(self, run: Run) -> None:
        self.run, self.said = run, list[tuple[str, bool]]()
        self.told = 0.0

    def leave(self) -> None:
        self.told = time.monotonic()
        self.said.append(("leave", why_pruned(self.run.member(7)) is not None))

    def kill(self) -> None:
        self.said.append(("kill", True))


def judging(run: Run, plan: Plan, number: int = 0) -> tuple[Judge, Ranks, Path]:
    path = run.member(7).path / f"attempt-{number}"
    make_private(path)
    ranks = Ranks(run)
    return Judge(run, plan, Attempt(path), ranks.leave, ranks.kill), ranks, path


def report(path: Path, step: int, loss: float | str) -> None:
    with (path / "program.jsonl").open("a") as f:
        f.write(json.dumps({"step": step, "loss": loss}) + "\n")


def test_judge_writes_its_word_before_it_says_it(made: Made) -> None:
    watching, ranks, path = judging(*made())
    watching.start()
    report(path, 1, 5.0)
    until(lambda: ranks.said)

    why = watching.finish()

    assert why.startswith("median")
    assert ranks.said == [("leave", True)]
    assert read_json(path / "pruned.json")["why"] == why


def test_judge_says_it_once_and_insists_after_the_notice(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "KILL_AGAIN_S", 0.5)
    watching, ranks, path = judging(*made(notice_s=2))
    watching.start()
    report(path, 1, 5.0)
    until(lambda: ranks.said)
    report(path, 2, 5.0)
    until(lambda: len(ranks.said) > 2)
    watching.finish()

    assert [what for what, _ in ranks.said[:3]] == ["leave", "kill", "kill"]
    assert time.monotonic() - ranks.told > 2


def test_judge_end_before_the_word_is_an_end_by_itself(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge.Reports, "pause_s", 60.0)
    watching, ranks, path = judging(*made())
    watching.start()
    report(path, 1, 5.0)

    assert watching.finish() == ""

    assert ranks.said == []
    assert [r["step"] for r in read_lines(path / "reports.jsonl")] == [1]


def test_judge_that_was_never_started_can_finish(made: Made) -> None:
    watching, _, path = judging(*made())
    report(path, 1, 5.0)

    assert watching.finish() == ""

    assert len(read_lines(path / "reports.jsonl")) == 1


def test_judge_counts_what_earlier_attempts_said(made: Made) -> None:
    """A trial of asha that goes on after a preemption is at the report it had come to."""
    search = dataclasses.replace(SEARCH, pruning=Pruning(rule="median", min_trials=2, min_step=3))
    run, plan = made(search=search)
    _, _, before = judging(run, plan)
    for step in (1, 2):
        report(before, step, 5.0)
    judging(run, plan)[0].finish()
    watching, ranks, path = judging(run, plan, number=1)
    watching.start()

    report(path, 3, 5.0)
    until(lambda: ranks.said)

    why = watching.finish()
    assert "up to report 3" in why


def test_judge_without_a_new_report_asks_nobody(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("launchers.search.study.Study.trials", lambda self, gone=(): asked.append(1) or [])
    watching, _, path = judging(*made())
    watching.start()
    report(path, 1, 0.1)
    until(lambda: asked)
    time.sleep(2.5)
    watching.finish()

    assert asked == [1]


def test_judge_looks_at_the_others_every_five_seconds_at_most(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "OTHERS_EVERY_S", 2.0)
    asked: list[tuple[float, float]] = []
    watching, _, path = judging(*made())
    real, begun = watching._verdict, [0.0]

    def verdict() -> str | None:
        begun[0] = time.monotonic()
        return real()

    monkeypatch.setattr(watching, "_verdict", verdict)
    monkeypatch.setattr(
        "launchers.search.study.Study.trials", lambda self, gone=(): asked.append((begun[0], time.monotonic())) or []
    )
    watching.start()
    for step in range(1, 600):
        report(path, step, 0.1)
        time.sleep(0.1)
        if len(asked) == 4:
            break
    watching.finish()

    assert len(asked) == 4
    assert min(later - earlier for (earlier, _), (_, later) in itertools.pairwise(asked)) > 2


def test_judge_of_many_trials_costs_a_few_ms_a_second(made: Made) -> None:
    """The first look at sixty others takes long; the next ones are as much rarer."""
    run, plan = made(others=0)
    for index in [i for i in range(20) if i != 7]:
        trial(run, index, [0.5 + 1.0 / step for step in range(1, 400)])
    watching, _, path = judging(run, plan)
    costs = []
    real = watching._verdict

    def verdict() -> str | None:
        begun = time.thread_time()
        why = real()
        costs.append(time.thread_time() - begun)
        return why

    watching._verdict = verdict  # type: ignore[method-assign]
    gc.collect()  # of all that the tests before left: it would count as the judge's
    watching.start()
    begun = time.monotonic()
    for step in range(1, 80):
        report(path, step, 0.1)
        time.sleep(0.1)
    watching.finish()

    first = max(costs)
    assert sum(costs) - first < 0.01 * (time.monotonic() - begun)


def test_judge_that_hangs_does_not_hold_the_supervisor(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "JOIN_S", 0.3)
    watching, ranks, path = judging(*made())
    free = threading.Event()
    ranks.leave = lambda: free.wait(200)  # type: ignore[assignment, method-assign, return-value]
    watching._leave = ranks.leave
    watching.start()
    report(path, 1, 5.0)
    until(lambda: why_pruned(watching._run.member(7)))
    begun = time.monotonic()

    why = watching.finish()
    free.set()

    assert time.monotonic() - begun < 90
    assert why.startswith("median")


def test_judge_reports_that_cannot_be_opened_are_tried_again(
    made: Made, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    real, full = judge.Reports, [True]

    def opened(*words: Any) -> Any:
        if full[0]:
            raise OSError(28, "No space left on device")
        return real(*words)

    monkeypatch.setattr(judge, "Reports", opened)
    watching, ranks, path = judging(*made())
    watching.start()
    report(path, 1, 5.0)
    time.sleep(1.2)
    full[0] = False
    monkeypatch.setattr(judge, "Reports", real)
    until(lambda: ranks.said)
    watching.finish()

    assert capsys.readouterr().out.count("No space left") == 1


@pytest.mark.parametrize("text", ["", "{", "[]", '{"t": 1}', "\x00"])
def test_why_pruned_damaged_word_still_decides(made: Made, text: str) -> None:
    run, plan = made()
    _, _, path = judging(run, plan)
    (path / "pruned.json").write_text(text)

    assert why_pruned(run.member(7)) == "pruned"
