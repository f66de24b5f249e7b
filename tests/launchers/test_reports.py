"""What programs say of themselves is there once, wherever its collector is cut short and whatever the disk does."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from conf.job_schema import Metrics
from launchers.host import reports, tailing
from launchers.host.reports import Reports, Spool
from launchers.run_folder.record import Attempt
from tests.launchers.collected import HYPERTUNE, JSONL, REAL, empty_attempt, lines_of, pattern, program, said, stored


@pytest.fixture
def attempt(tmp_path: Path) -> Attempt:
    return empty_attempt(tmp_path)


@pytest.mark.parametrize("metrics", [HYPERTUNE, JSONL], ids=["hypertune", "jsonl"])
@pytest.mark.parametrize("kept", [0, 1, 30, 59, 60])
@pytest.mark.parametrize("torn", [b"", b'{"t": 17', b"\x00\x00"])
def test_reports_collector_that_was_killed_is_taken_up_where_it_ended(
    attempt: Attempt, metrics: Metrics, kept: int, torn: bytes
) -> None:
    rows = lines_of(60, 40)
    if metrics.kind == "jsonl":
        rows = [json.dumps({"step": i, "m": i}) for i in range(40, 100)]
    before = said(metrics, attempt, *rows)
    file = attempt.path / "reports.jsonl"
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:kept]) + torn)

    Reports(metrics, attempt).collect(last=True)

    assert len(before) == 60
    assert stored(attempt) == before


def test_reports_collector_killed_at_any_moment_doubles_nothing(attempt: Attempt) -> None:
    """kill -9, again and again, of a process that collects what a real program reports."""
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom conf.job_schema import Metrics\n"
        "from launchers.run_folder.record import Attempt, read_lines\nfrom launchers.host.reports import Reports\n"
        "source = Reports(Metrics(kind='hypertune'), Attempt(Path(sys.argv[1])))\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    source.collect()\n"
        "    source.path.with_name('seen').write_text(str(len(read_lines(source.path))))\n"
        "    time.sleep(source.pause_s)\n"
    )
    running, chance = program(attempt, REAL, "250", "one", "0.02", "90"), random.Random(1)
    while running.poll() is None:
        collector = subprocess.Popen(
            [sys.executable, "-c", code, str(attempt.path)],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            stdout=subprocess.PIPE,
        )
        with collector:
            assert collector.stdout and collector.stdout.readline() == b"ready\n"
            time.sleep(chance.uniform(0.0, 0.4))
            collector.kill()
    assert running.returncode == 0
    Reports(HYPERTUNE, attempt).collect(last=True)

    assert [step for step, _ in stored(attempt)] == list(range(1, 251))


def test_reports_disk_full_loses_nothing(attempt: Attempt, monkeypatch: pytest.MonkeyPatch) -> None:
    """The write that fails has written a part of its lines."""
    source, file = Reports(JSONL, attempt), attempt.path / "program.jsonl"
    real, full = os.write, [True]

    def write(fd: int, data: bytes) -> int:
        if full[0]:
            if len(data) > 60:
                return real(fd, data[:60])
            raise OSError(28, "No space left on device")
        return real(fd, data)

    monkeypatch.setattr(os, "write", write)
    for i in range(5):
        with file.open("a") as f:
            f.write(json.dumps({"step": i, "a": 1}) + "\n")
        with pytest.raises(OSError, match="No space"):
            source.collect(last=True)
        assert stored(attempt) == []
    full[0] = False

    assert [row["step"] for row in source.collect(last=True)] == [0, 1, 2, 3, 4]
    assert [step for step, _ in stored(attempt)] == [0, 1, 2, 3, 4]


def test_reports_disk_full_for_long_holds_no_more_than_it_may(
    attempt: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "MOST_WAITING", 10)

    found = said(JSONL, attempt, *(f'{{"step": {i}, "a": 1}}' for i in range(50)))

    assert [step for step, _ in found] == [*range(40, 50)]


def test_reports_read_that_fails_half_way_is_made_up_for(attempt: Attempt, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Reports(pattern(r"a=(?P<a>\d+)"), attempt)
    attempt.rank_log(0).write_text("".join(f"a={i}\n" for i in range(100_000)))
    real, calls = tailing.Tail._split, [0]

    def split(self: tailing.Tail, data: bytes) -> Any:
        calls[0] += 1
        yield from real(self, data)
        if calls[0] == 2:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(tailing.Tail, "_split", split)
    with pytest.raises(OSError, match="Input/output"):
        source.collect(last=True)
    source.collect(last=True)

    assert [m["a"] for _, m in stored(attempt)] == [float(i) for i in range(100_000)]


def test_reports_are_private(attempt: Attempt) -> None:
    said(HYPERTUNE, attempt, *lines_of(1))

    assert [p.name for p in attempt.path.iterdir() if p.stat().st_mode & 0o077 and p.name == "reports.jsonl"] == []


def test_reports_quiet_program_costs_next_to_nothing(attempt: Attempt) -> None:
    source = Reports(HYPERTUNE, attempt)
    (attempt.path / "hypertune.metrics").write_text("".join(line + "\n" for line in lines_of(100)))
    source.collect(last=True)
    costs = []

    for _ in range(5):
        begun = time.thread_time()
        for _ in range(50):
            source.collect()
        costs.append(time.thread_time() - begun)

    assert min(costs) < 0.02
    assert 50 * source.pause_s >= 0.25


def test_spool_rows_that_name_a_metric_are_told_in_seconds(attempt: Attempt) -> None:
    rows = [
        {"t": 1790000000500, "step": 1, "metrics": {"train/loss": 1.0}},
        {"t": 1790000001500, "step": 2, "metrics": {"val/loss": "nan", "val/accuracy": 0.5}},
        {"t": 1, "dataset": {"name": "val/loss"}},
    ]
    attempt.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"t": 1, "step": 3, "metr')

    source = Spool(attempt, ["val/loss"])
    (row,) = source.collect()

    assert (row["t"], row["step"], row["metrics"]["val/loss"]) == (1790000001.5, 2, "nan")


def test_spool_is_read_as_it_grows_and_never_written(attempt: Attempt) -> None:
    source = Spool(attempt, ["a"])
    assert source.collect() == []
    with attempt.metrics.open("a") as f:
        for i in range(3):
            f.write(json.dumps({"t": 1000, "step": i, "metrics": {"a": i}}) + "\n")
            f.flush()
            assert [row["step"] for row in source.collect()] == [i]

    assert [p.name for p in attempt.path.iterdir()] == ["metrics.jsonl"]
