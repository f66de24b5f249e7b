"""Reports as JSON lines: what a line says, whose time and step count, and where a file goes on."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from conf.job_schema import Metrics
from launchers.host.reports import Reports
from launchers.run_folder.record import Attempt, read_lines
from tests.launchers.collected import JSONL, empty_attempt, program, said, stored, watch


@pytest.fixture
def attempt(tmp_path: Path) -> Attempt:
    return empty_attempt(tmp_path)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ('{"step": 3, "val/loss": 0.4, "val/accuracy": 0.9}', (3, {"val/loss": 0.4, "val/accuracy": 0.9})),
        ('{"step": 3, "metrics": {"loss": 0.4}, "note": 7}', (3, {"loss": 0.4})),
        ('{"loss": 0.4}', (1, {"loss": 0.4})),
        ('{"step": "7", "loss": "0.4"}', (7, {"loss": 0.4})),
        ('{"step": 7.0, "loss": 1}', (7, {"loss": 1.0})),
        ('{"step": 1, "loss": NaN}', (1, {"loss": "nan"})),
        ('{"step": 1, "loss": -Infinity}', (1, {"loss": "-inf"})),
        ('{"step": 1, "loss": 1e999}', (1, {"loss": "inf"})),
        ('{"step": 1, "ü/loss": 1}', (1, {"ü/loss": 1.0})),
        ('{"step": -1, "loss": 1}', (-1, {"loss": 1.0})),
        ('{"step": 1e400, "loss": 1}', (1, {"loss": 1.0})),
        ('{"step": null, "loss": 1}', (1, {"loss": 1.0})),
        ('{"step": 2, "loss": 1, "note": "words", "on": true, "list": [1]}', (2, {"loss": 1.0})),
    ],
)
def test_jsonl_line_is_understood(attempt: Attempt, line: str, found: tuple[int, dict[str, Any]]) -> None:
    assert said(JSONL, attempt, line) == [found]


@pytest.mark.parametrize(
    "line",
    [
        "", "hello", "{", "[1]", "3", '"loss"', "null", '{"step": 1}', '{"loss": true}', '{"loss": null}',
        '{"": 1}', '{"metrics": {}}', '{"a\\u0000b": 1}', '{"\\ud800": 1}', '{"loss": ' + "9" * 5000 + "}",
        "[" * 20_000, b"\xff\xfe\x00", b'{"loss": 1', json.dumps({"x" * 300: 1}), '{"loss": "' + "1" * 70_000 + '"}',
    ],
)  # fmt: skip
def test_jsonl_line_that_is_none_is_passed_over(attempt: Attempt, line: str | bytes) -> None:
    assert said(JSONL, attempt, '{"loss": 1}', line, '{"loss": 2}') == [(1, {"loss": 1.0}), (2, {"loss": 2.0})]


def test_jsonl_time_is_the_programs_own_if_it_says_one(attempt: Attempt) -> None:
    said(JSONL, attempt, '{"loss": 1, "t": 1790000000.5}', '{"loss": 1, "t": -3}', '{"loss": 1}')

    times = [row["t"] for row in read_lines(attempt.path / "reports.jsonl")]

    assert times[0] == 1790000000.5
    assert all(abs(t - time.time()) < 60 for t in times[1:])


def test_jsonl_steps_that_are_not_said_go_on_from_the_last(attempt: Attempt) -> None:
    found = said(JSONL, attempt, '{"step": 10, "a": 1}', '{"a": 1}', '{"b": 1}', '{"a": 1, "b": 1}')

    assert [step for step, _ in found] == [10, 11, 1, 12]


def test_jsonl_lines_are_read_as_they_come(attempt: Attempt) -> None:
    source, steps = Reports(JSONL, attempt), []
    with (attempt.path / "program.jsonl").open("w") as f:
        for i, piece in enumerate(('{"step": 1, "a": 1}\n{"step"', ": 2,", ' "a": 2}', "\n", '{"step": 3, "a": 3}')):
            f.write(piece)
            f.flush()
            source._stored_at = 0
            steps.append([row["step"] for row in source.collect(last=i == 4, torn=i == 4)])

    assert steps == [[1], [], [], [2], [3]]


def test_jsonl_file_begun_anew_is_read_from_its_beginning(attempt: Attempt) -> None:
    source, file = Reports(JSONL, attempt), attempt.path / "program.jsonl"
    file.write_text('{"step": 1, "a": 1}\n{"step": 2, "a": 1}\n')
    source.collect(last=True)
    file.write_text('{"step": 7, "a": 1}\n')
    source.collect(last=True)

    assert [step for step, _ in stored(attempt)] == [1, 2, 7]


def test_jsonl_file_of_its_own_goes_on_where_the_last_attempt_ended(attempt: Attempt) -> None:
    file = attempt.path.parent / "model" / "log.jsonl"
    file.parent.mkdir()
    file.write_text('{"step": 1, "a": 1}\n')
    source = Reports(Metrics(kind="jsonl", path="model/log.jsonl"), attempt)
    with file.open("a") as f:
        f.write('{"step": 2, "a": 1}\n')
    source.collect(last=True)

    assert [step for step, _ in stored(attempt)] == [2]


def test_jsonl_real_program_appends_while_it_is_watched(attempt: Attempt) -> None:
    code = (
        "import json, os, time\n"
        "for i in range(3000):\n"
        "    with open(os.environ['FAIRLEAD_REPORTS'], 'a') as f:\n"
        "        f.write(json.dumps({'step': i, 'a': i}) + chr(10))\n"
    )
    source = Reports(JSONL, attempt)

    watch(source, program(attempt, code))

    assert stored(attempt) == [(i, {"a": float(i)}) for i in range(3000)]
