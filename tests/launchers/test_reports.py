"""What programs say of themselves, in every format, is there once: whatever the program and its host do."""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conf.job_schema import Metrics
from launchers.host import matching, reports, tailing
from launchers.host.reports import Reports, Spool
from launchers.run_folder.record import Attempt, read_lines

Collect = Callable[..., Reports]
HYPERTUNE = Metrics(kind="hypertune")
JSONL = Metrics(kind="jsonl")


def pattern(text: str, **more: Any) -> Metrics:
    return Metrics(kind="pattern", pattern=text, **more)


@pytest.fixture
def attempt(tmp_path: Path) -> Attempt:
    path = tmp_path / "members" / "3" / "attempt-0"
    path.mkdir(parents=True)
    return Attempt(path)


def stored(attempt: Attempt) -> list[tuple[int, dict[str, Any]]]:
    return [(row["step"], row["metrics"]) for row in read_lines(attempt.path / "reports.jsonl")]


def said(metrics: Metrics, attempt: Attempt, *lines: str | bytes) -> list[tuple[int, dict[str, Any]]]:
    """What is understood of these lines."""
    source = Reports(metrics, attempt)
    files = {"hypertune": "hypertune.metrics", "jsonl": "program.jsonl", "pattern": "rank-0.log"}
    data = b"".join((line.encode() if isinstance(line, str) else line) + b"\n" for line in lines)
    (attempt.path / files[metrics.kind]).write_bytes(data)
    source.collect(last=True)
    return stored(attempt)


# --- hypertune, with the real package -----------------------------------------------------------------

REAL = """
import os, pathlib, sys, time
import hypertune
one, seen = hypertune.HyperTune(), pathlib.Path(os.environ["CLOUD_ML_HP_METRIC_FILE"]).with_name("seen")
begun = time.monotonic()
for i in range(1, int(sys.argv[1]) + 1):
    tool = one if sys.argv[2] == "one" else hypertune.HyperTune()
    tool.report_hyperparameter_tuning_metric("val/loss", 1 / i, i)
    time.sleep(float(sys.argv[3]))
    while i - int(seen.read_text() or 0) > int(sys.argv[4]):
        time.sleep(0.001)
        assert time.monotonic() < begun + 200, "nobody collects"
"""
"""Waits where it is too far ahead of its collector, which on a busy machine may not have its turn for a second."""


def program(attempt: Attempt, code: str, *words: str) -> subprocess.Popen[bytes]:
    (attempt.path / "seen").write_text("0")
    names = {
        "CLOUD_ML_HP_METRIC_FILE": str(attempt.path / "hypertune.metrics"),
        "CLOUD_ML_TRIAL_ID": "3",
        "FAIRLEAD_REPORTS": str(attempt.path / "program.jsonl"),
    }
    return subprocess.Popen([sys.executable, "-c", code, *words], env={**os.environ, **names})


def watch(source: Reports, running: subprocess.Popen[bytes]) -> None:
    """As the judge does; and tells the program how many reports are known."""
    count = 0
    while running.poll() is None:
        count += len(source.collect())
        source.path.with_name("seen").write_text(str(count + len(source._waiting)))
        time.sleep(source.pause_s)
    assert running.returncode == 0
    source.collect(last=True)


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


def lines_of(count: int, begin: int = 0) -> list[str]:
    row = {"checkpoint_path": "", "trial": "3"}
    return [
        json.dumps({**row, "global_step": str(i), "timestamp": 1.79e9 + i, "m": str(i)}, sort_keys=True)
        for i in range(begin, begin + count)
    ]


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


# --- JSON lines ---------------------------------------------------------------------------------------


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


# --- lines of output ----------------------------------------------------------------------------------


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


# --- a collector that is cut short --------------------------------------------------------------------


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


# --- our trainer's own --------------------------------------------------------------------------------


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
