"""Reports by the real package hypertune, which keeps a short file of its own: all are there, once."""

from __future__ import annotations

import json
import math
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from launchers.host import tailing
from launchers.host.reports import Reports
from launchers.run_folder.record import Attempt, read_lines
from tests.launchers.collected import HYPERTUNE, REAL, empty_attempt, lines_of, program, said, stored, watch


@pytest.fixture
def attempt(tmp_path: Path) -> Attempt:
    return empty_attempt(tmp_path)


def test_hypertune_real_package_in_a_hurry_loses_and_doubles_nothing(attempt: Attempt) -> None:
    """It keeps its last hundred reports alone, and writes the whole file anew for each."""
    source = Reports(HYPERTUNE, attempt)

    watch(source, program(attempt, REAL, "1000", "one", "0.0005", "90"))

    assert source.pause_s <= 0.02, "a hundred reports take it 60 ms"
    assert stored(attempt) == [(i, {"val/loss": 1 / i}) for i in range(1, 1001)]
    assert len((attempt.path / "hypertune.metrics").read_text().splitlines()) == 100


def test_hypertune_real_package_made_anew_for_each_report(attempt: Attempt) -> None:
    """Many programs do; the file then holds one line."""
    source = Reports(HYPERTUNE, attempt)

    watch(source, program(attempt, REAL, "15", "new", "0.1", "0"))

    assert stored(attempt) == [(i, {"val/loss": 1 / i}) for i in range(1, 16)]


def test_hypertune_real_lines_keep_their_time(attempt: Attempt) -> None:
    begun = time.time()
    source = Reports(HYPERTUNE, attempt)
    watch(source, program(attempt, REAL, "3", "one", "0.01", "90"))

    times = [row["t"] for row in read_lines(source.path)]

    assert begun < times[0] < times[1] < times[2] < time.time()


def test_hypertune_real_values_that_are_no_numbers_are_kept_as_words(attempt: Attempt) -> None:
    code = "import hypertune, math\nh = hypertune.HyperTune()\n" + "".join(
        f"h.report_hyperparameter_tuning_metric('m', float('{v}'), {i})\n" for i, v in enumerate(("nan", "inf", "-inf"))
    )
    watch(Reports(HYPERTUNE, attempt), program(attempt, code))

    found = [metrics["m"] for _, metrics in stored(attempt)]

    assert found == ["nan", "inf", "-inf"]
    assert [math.isfinite(float(v)) for v in found] == [False] * 3


def test_hypertune_real_program_without_steps_has_them_counted(attempt: Attempt) -> None:
    code = (
        "import hypertune\nh = hypertune.HyperTune()\n"
        "for v in (0.3, 0.2, 0.1):\n"
        "    h.report_hyperparameter_tuning_metric('', v)\n"
        "    h.report_hyperparameter_tuning_metric('other', v)\n"
    )
    watch(Reports(HYPERTUNE, attempt), program(attempt, code))

    found = stored(attempt)

    assert [step for step, m in found if "training/hptuning/metric" in m] == [0, 1, 2]
    assert [step for step, m in found if "other" in m] == [0, 1, 2]


def test_hypertune_equal_reports_at_other_times_are_two(attempt: Attempt) -> None:
    line = {"checkpoint_path": "", "global_step": "1", "trial": "3", "m": "0.5"}

    found = said(HYPERTUNE, attempt, *(json.dumps({**line, "timestamp": 1.79e9 + i}) for i in range(2)))

    assert found == [(1, {"m": 0.5})] * 2


@given(looks=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 12_000)), max_size=12))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_hypertune_file_torn_at_any_moment_is_read_exactly_once(tmp_path: Path, looks: list[tuple[int, int]]) -> None:
    """Between looks up to forty reports more; at each look the file is cut anywhere, as while it is written."""
    path = Path(tempfile.mkdtemp(dir=tmp_path))
    source, file, count = Reports(HYPERTUNE, Attempt(path)), path / "hypertune.metrics", 0
    for more, cut in looks:
        count += more
        whole = "".join(line + "\n" for line in lines_of(min(count, 100), max(0, count - 100)))
        file.write_text(whole[:cut])
        source.collect()
        file.write_text(whole)
        source.collect()
    source.collect(last=True)

    assert [step for step, _ in stored(Attempt(path))] == list(range(count))


def test_hypertune_appended_without_end_is_read_in_bounded_memory(attempt: Attempt) -> None:
    """Not what the package does; programs in other languages do."""
    source, file = Reports(HYPERTUNE, attempt), attempt.path / "hypertune.metrics"
    with file.open("a") as f:
        for begin in range(0, 40_000, 2000):
            f.write("".join(line + "\n" for line in lines_of(2000, begin)))
            f.flush()
            source.collect(last=True)

    assert [step for step, _ in stored(attempt)] == list(range(40_000))
    assert isinstance(source._lines, tailing.Rewritten)
    assert len(source._lines._known) <= 2 * tailing.NEWEST
