"""What somebody who waits sees of a job: pace, what is left, the best; on a terminal, and in a log."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from launchers.jobs import progress
from launchers.jobs.progress import PACE_S, Watched, display
from launchers.jobs.status import JobStatus, MemberStatus
from launchers.run_folder.record import Run, read_json, write_json
from tests.conftest import ROOT
from tests.launchers.tracked import make_run
from tests.launchers.tried import make_search, search_of

T0_S = 1_800_000_000.0


def member(index: int = 0, state: Any = "RUNNING", step: int | None = None, **metrics: Any) -> MemberStatus:
    return MemberStatus(index, state, {}, 1, step=step, total_steps=100, metrics=metrics or None)


def job(*members: MemberStatus) -> JobStatus:
    return JobStatus("digits-1", "RUNNING", "/r", members, (), False, launched=T0_S)


def accuracy() -> Watched:
    return Watched("val/accuracy", 1)


def test_pace_is_of_the_last_while_and_begins_anew_after_a_checkpoint() -> None:
    seen = accuracy()
    for at_s, step in [(0, 10), (1, 10), (2, 20), (PACE_S + 1, 40), (PACE_S + 3, 50)]:
        seen.see(job(member(step=step)), T0_S + at_s)

    assert seen.of_member(member(step=50)) == "step 50/100  5 step/s  0:00:10 left"
    seen.see(job(member(step=30)), T0_S + 100)
    assert seen.of_member(member(step=30)) == "step 30/100"


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (member(), "starting"),
        (member(state="QUEUED"), ""),
        (member(step=100), "step 100/100  finishing"),
        (member(state="SUCCEEDED", step=100, **{"val/loss": 0.25}), "step 100/100  val/loss 0.2500"),
        (
            member(step=1, **{"train/lr": 0.1, "train/loss": "nan", "val/accuracy": 0.5, "val/loss": 1.0}),
            "step 1/100  val/accuracy 0.5000  val/loss 1.0000  train/loss nan",
        ),
        (member(step=1, a=1, b=2, c=3, d=4), "step 1/100  a 1  b 2  c 3"),
    ],
)
def test_member_says_the_metric_that_counts_first_and_something_of_other_programs(seen: Any, said: str) -> None:
    assert accuracy().of_member(seen) == said


def test_all_says_how_many_ended_what_is_left_and_the_best_at_any_time() -> None:
    seen, queued = accuracy(), [member(i, "QUEUED") for i in (2, 3)]
    seen.see(job(member(0, step=5, **{"val/accuracy": 0.9}), member(1, "RUNNING"), *queued), T0_S + 5)
    ended = job(member(0, "SUCCEEDED", 9, **{"val/accuracy": 0.8}), member(1, "FAILED"), *queued)
    seen.see(ended, T0_S + 10)

    counted = "2/4 done  1 failed"
    assert seen.of_all(ended, T0_S + 10) == f"{counted}  about 0:00:10 left  best val/accuracy 0.9000 (member 0)"
    assert "about 0:00:04 left" in seen.of_all(ended, T0_S + 16)
    assert "left" not in seen.of_all(ended, T0_S + 21)


def test_best_of_what_is_minimised_is_the_least_number() -> None:
    seen = Watched("val/loss", -1)
    for value in (0.5, "nan", 0.25, 0.75):
        seen.see(job(member(step=1, **{"val/loss": value})), T0_S)

    assert seen.best == (0.25, 0)


def drawn(width: int, height: int, *shown: JobStatus) -> list[str]:
    """The lines that a terminal of this size would have at the end."""
    console = Console(file=io.StringIO(), force_terminal=True, width=width, height=height)
    bars = progress._bars(console)
    look = progress._Bars(bars, accuracy()).look
    for now in shown:
        look(now)
    with console.capture() as capture:
        console.print(bars.get_renderable(), no_wrap=True)
    return [line.rstrip() for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capture.get()).splitlines()]


def test_terminal_has_a_bar_for_all_and_one_for_each_that_runs() -> None:
    lines = drawn(
        100, 20, job(member(0, step=5), member(1, "QUEUED")), job(member(0, "SUCCEEDED", 9), member(1, "RUNNING", 3))
    )

    assert len(lines) == 2
    assert lines[0].startswith("all") and "1/2 done  1 running" in lines[0]
    assert lines[1].startswith("member 1") and lines[1].endswith("step 3/100")


def test_terminal_too_small_shows_as_many_members_as_fit_and_cuts_the_numbers_alone() -> None:
    now = job(*(member(i, step=5, **{"val/accuracy": 0.5, "val/loss": 1.0}) for i in range(9)))

    lines = drawn(60, 8, now)

    assert [line[:8].rstrip() for line in lines] == ["all", *(f"member {i}" for i in range(5))]
    assert all(len(line) <= 60 for line in lines)
    assert "step 5/100" in lines[1] and lines[1].endswith("…")


def test_display_on_a_real_terminal_draws_bars(tmp_path: Path) -> None:
    run = make_run(tmp_path, fresh=True, kind="none")
    ours, theirs = pty.openpty()
    code = f"""
from tests.launchers.test_progress import Path, Run, display, job, member
with display(Run(Path({str(run.path)!r}))) as look:
    look(job(member(step=5)))
"""
    subprocess.run(
        [sys.executable, "-c", code], stderr=theirs, check=True, cwd=ROOT, env={**os.environ, "TERM": "xterm"}
    )
    os.close(theirs)
    drawn = os.read(ours, 100_000).decode()
    os.close(ours)

    assert "━" in drawn and "step 5/100" in drawn
    assert drawn.rstrip().endswith("\x1b[2K")  # nothing is left of them


def test_log_has_a_line_where_something_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path, [{}, {}], fresh=True, kind="none")

    with display(run) as look:
        for now in (job(member(0, step=5), member(1, "QUEUED")), job(member(0, "FAILED", 9), member(1, "QUEUED"))):
            look(now)
            look(now)

    lines = capsys.readouterr().err.splitlines()
    assert lines[:3] == ["member 0  RUNNING  step 5/100", "member 1  QUEUED", "member 0  FAILED  step 9/100"]
    assert lines[3].startswith("1/2 done  1 failed")
    assert len(lines) == 4


@pytest.mark.parametrize("kind", ["grid", "search"])
def test_goal_is_the_searchs_own_or_the_runs(tmp_path: Path, kind: str) -> None:
    run = make_run(tmp_path, fresh=True, kind="none") if kind == "grid" else make_search(tmp_path, search_of())
    if kind == "search":
        spec = read_json(run.spec)
        spec["sweep"]["objectives"] = [{"metric": "seconds", "goal": "minimize"}]
        write_json(run.spec, spec)

    assert progress._goal(Run(run.path)) == (("val/accuracy", 1) if kind == "grid" else ("seconds", -1))
