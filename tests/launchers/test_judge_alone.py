"""The judge without a supervisor: when it says its word, whom it asks and how often, and what that costs."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from conf.sweep_schema import Pruning
from launchers.host import judge
from launchers.host.judge import Judge, why_pruned
from launchers.plan import Plan
from launchers.run_folder.record import Attempt, Run, make_private, read_json, read_lines
from tests.launchers.judged import SEARCH, Made, maker, trial, until


@pytest.fixture
def made(workdir: Path) -> Made:
    return maker(workdir)


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
