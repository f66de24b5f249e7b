"""Reports as lines of output that a pattern finds, whatever the pattern and the output cost."""

from __future__ import annotations

import random
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from conf.job_schema import Metrics
from launchers.host import matching, reports, tailing
from launchers.host.reports import Reports
from launchers.run_folder.record import Attempt
from tests.launchers.collected import empty_attempt, pattern, said, stored


@pytest.fixture
def attempt(tmp_path: Path) -> Attempt:
    return empty_attempt(tmp_path)


@pytest.mark.parametrize(
    ("metrics", "line", "found"),
    [
        (pattern(r"loss=(?P<value>\S+)", metric="val/loss"), "epoch 3: loss=0.25", [(1, {"val/loss": 0.25})]),
        (
            pattern(r"step (?P<step>\d+).* loss=(?P<value>\S+)", metric="val/loss"),
            "step 40, loss=0.25, next",
            [(40, {"val/loss": 0.25})],
        ),
        (pattern(r"(?P<metric>\w+)=(?P<value>\S+)"), "a=1 b=2,", [(1, {"a": 1.0, "b": 2.0})]),
        (
            pattern(r"epoch (?P<step>\d+) loss (?P<loss>\S+) acc (?P<acc>\S+)"),
            "epoch 2 loss 0.5 acc 93.1%",
            [(2, {"loss": 0.5, "acc": 93.1})],
        ),
        (pattern(r"loss=(?P<loss>\S+)"), "loss=nan", [(1, {"loss": "nan"})]),
        (pattern(r"loss=(?P<loss>\S+)"), "loss=-inf", [(1, {"loss": "-inf"})]),
        (pattern(r"loss=(?P<loss>\S+)"), "loss=none", []),
        (pattern(r"loss=(?P<loss>\d+)?"), "loss=", []),
        (pattern(r"loss=(?P<loss>\S+)"), "\x1b[32mloss\x1b[0m=\x1b[1;31m0.5\x1b[0m", [(1, {"loss": 0.5})]),
        (pattern(r"loss=(?P<a>[\d.]+)"), "1%|#  | loss=0.5\r20%|## | loss=0.4", [(1, {"a": 0.5}), (2, {"a": 0.4})]),
        (pattern(r"verlust=(?P<loss>\S+)"), "übrigens: verlust=1", [(1, {"loss": 1.0})]),
        (pattern(r"loss=(?P<loss>\S+)"), "x" * 3000 + "loss=1", []),
    ],
)  # fmt: skip
def test_pattern_line_is_understood(attempt: Attempt, metrics: Metrics, line: str, found: list[Any]) -> None:
    assert said(metrics, attempt, "nothing here", line, "nor here") == found


HOSTILE = r"loss=(?P<loss>[\d.]+)|(?P<rest>(a+)+)$"


def test_pattern_that_never_ends_on_a_line_is_cut_short_and_the_next_line_is_searched(attempt: Attempt) -> None:
    source = Reports(pattern(HOSTILE), attempt)
    attempt.rank_log(0).write_text("loss=1\n" + "a" * 50 + "!\nloss=2\n")

    rows = source.collect(last=True)

    assert [row["metrics"] for row in rows] == [{"loss": 1.0}, {"loss": 2.0}]
    assert source.trouble == f"the pattern {HOSTILE!r} needs longer than 1 s for 1 line(s)"


def test_pattern_that_takes_too_long_again_and_again_is_given_up(
    attempt: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matching, "MOST_ENDED", 1)
    source = Reports(pattern(HOSTILE), attempt)
    attempt.rank_log(0).write_text("loss=1\n" + ("a" * 50 + "!\n") * 100 + "loss=2\n")

    assert [row["metrics"] for row in source.collect(last=True)] == [{"loss": 1.0}]
    assert source.trouble.endswith("for 1 line(s); no further line is searched")


def test_pattern_leaves_no_process_behind(attempt: Attempt) -> None:
    source = Reports(pattern(r"loss=(?P<loss>\S+)"), attempt)
    attempt.rank_log(0).write_text("loss=1\n")
    before = children()
    source.collect()
    during = children()

    source.collect(last=True)

    assert len(during - before) == 1
    assert children() == before


def test_pattern_process_of_a_supervisor_that_is_killed_ends(root: Path) -> None:
    code = "from launchers.host.matching import Matcher; m = Matcher('(a+)+$'); m.found('b')"
    code += "; print(m._process.pid, flush=True); m.found('a' * 50 + '!')"
    done = subprocess.Popen([sys.executable, "-c", code], cwd=root, stdout=subprocess.PIPE, text=True)
    assert done.stdout
    searching = int(done.stdout.readline())

    done.kill()
    done.communicate()

    deadline = time.monotonic() + 30
    while is_running(searching):
        assert time.monotonic() < deadline, "it goes on searching"
        time.sleep(0.05)


def children() -> set[str]:
    """Of this process, and not waited for."""
    tasks = Path("/proc/self/task").glob("*/children")
    return {pid for task in tasks for pid in task.read_text().split()}


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_pattern_only_rank_0_counts(attempt: Attempt) -> None:
    attempt.rank_log(1).write_text("loss=1\n")
    attempt.rank_log(10).write_text("loss=1\n")

    assert said(pattern(r"loss=(?P<loss>\S+)"), attempt, "loss=2") == [(1, {"loss": 2.0})]


@pytest.mark.parametrize(("torn", "found"), [(True, [(1, {"loss": 0.25})]), (False, [])])
def test_pattern_last_line_without_a_break_counts_after_a_good_end_only(
    attempt: Attempt, torn: bool, found: list[Any]
) -> None:
    """A program that was killed may have been in the middle of 0.2519."""
    source = Reports(pattern(r"loss=(?P<loss>\S+)"), attempt)
    attempt.rank_log(0).write_text("loss=0.25")

    source.collect(last=True, torn=torn)

    assert stored(attempt) == found


def test_pattern_binary_and_endless_lines_cost_little_memory(attempt: Attempt) -> None:
    """200 MB of bytes, most of them in one line, with a report before, between and after."""
    noise = random.Random(1).randbytes(1 << 20).replace(b"\n", b" ").replace(b"\r", b" ")
    with attempt.rank_log(0).open("wb") as f:
        f.write(b"loss=1\n")
        for _ in range(60):
            f.write(noise)
        f.write(b"\nloss=2\n")
        f.write(bytes(1 << 20) * 140)
        f.write(b"\nloss=3\n")
    source = Reports(pattern(r"loss=(?P<loss>\S+)"), attempt)
    tracemalloc.start()

    while source.collect() or not isinstance(source._lines, tailing.Tail) or source._lines._offset < 200 << 20:
        source._stored_at = 0
    source.collect(last=True)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert stored(attempt)[-1][1] == {"loss": 3.0}
    assert most < 8e6


def test_pattern_output_faster_than_it_can_be_searched_is_passed_over_and_told(
    attempt: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tailing, "BACKLOG", 10_000)

    found = said(pattern(r"loss=(?P<loss>\S+)"), attempt, "loss=1", *["x" * 99] * 1000, "loss=2")

    assert found == [(1, {"loss": 2.0})]


def test_pattern_passed_over_bytes_are_counted(attempt: Attempt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tailing, "BACKLOG", 10_000)
    source = Reports(pattern(r"loss=(?P<loss>\S+)"), attempt)
    attempt.rank_log(0).write_bytes(b"x" * 30_000)

    source.collect()

    assert source.passed_over == 20_000


def test_pattern_many_names_are_not_all_kept(attempt: Attempt) -> None:
    found = said(pattern(r"(?P<metric>\w+)=(?P<value>\S+)"), attempt, *(f"m{i}=1" for i in range(3000)))

    assert len(found) == reports.MOST_NAMES


def test_pattern_a_busy_look_ends_and_the_next_goes_on(attempt: Attempt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tailing, "BUSY_S", -1.0)
    source = Reports(pattern(r"loss=(?P<loss>\S+)"), attempt)
    attempt.rank_log(0).write_text("".join(f"loss={i}\n" for i in range(60_000)))
    looks = 0
    while len(stored(attempt)) < 60_000:
        source._stored_at = 0
        source.collect()
        looks += 1

    assert looks > 2
    assert [step for step, _ in stored(attempt)] == list(range(1, 60_001))
