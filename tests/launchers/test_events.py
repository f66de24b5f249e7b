"""Scalars of real event files, of every writer, are reports: each once, whatever happens to the files meanwhile."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from torch.utils.tensorboard import SummaryWriter

from conf.job_schema import Metrics
from launchers.host.reports import Reports
from launchers.run_folder.record import Attempt, read_lines

EVENTS = Metrics(kind="tensorboard")


@pytest.fixture
def attempt(tmp_path: Path) -> Attempt:
    return new_attempt(tmp_path, 0)


def new_attempt(folder: Path, number: int) -> Attempt:
    path = folder / "members" / "3" / f"attempt-{number}"
    path.mkdir(parents=True)
    (path.parent / "logs").mkdir(exist_ok=True)
    return Attempt(path)


def logs(attempt: Attempt) -> Path:
    return attempt.path.parent / "logs"


def stored(attempt: Attempt) -> list[tuple[int, dict[str, Any]]]:
    return [(row["step"], row["metrics"]) for row in read_lines(attempt.path / "reports.jsonl")]


def write(folder: Path, steps: range, tag: str = "loss", **how: Any) -> None:
    with SummaryWriter(str(folder), **how) as writer:
        for step in steps:
            writer.add_scalar(tag, 1 / (step + 1), step)


def test_torch_scalars_in_folders_are_reports_with_the_folder_before_the_tag(attempt: Attempt) -> None:
    source = Reports(EVENTS, attempt)
    write(logs(attempt), range(2))
    write(logs(attempt) / "validation", range(1, 2), "epoch/loss")

    source.collect(last=True)

    assert stored(attempt) == [(0, {"loss": 1.0}), (1, {"loss": 0.5}), (1, {"validation/epoch/loss": 0.5})]
    assert abs(read_lines(source.path)[0]["t"] - time.time()) < 3600


def test_torch_pictures_histograms_and_words_beside_scalars_are_no_reports(attempt: Attempt) -> None:
    source = Reports(EVENTS, attempt)
    with SummaryWriter(str(logs(attempt))) as writer:
        writer.add_histogram("weights", np.arange(100), 1)
        writer.add_image("sample", np.zeros((3, 8, 8), dtype=np.uint8), 1)
        writer.add_text("note", "hello", 1)
        writer.add_scalar("loss", float("nan"), 1)
        writer.add_scalar("new", 0.25, 2, new_style=True)

    source.collect(last=True)

    assert stored(attempt) == [(1, {"loss": "nan"}), (2, {"new": 0.25})]


@pytest.mark.parametrize("kind", ["float32", "float64", "float16", "int32", "int64"])
@pytest.mark.parametrize("packed", [True, False])
def test_tensor_scalar_of_every_type_is_a_number(attempt: Attempt, kind: str, packed: bool) -> None:
    """As TensorFlow 2 writes them; it packs the bytes, others list the values."""
    source, summary = Reports(EVENTS, attempt), scalar_pb("accuracy", 0.5)
    tensor = summary.value[0].tensor
    tensor.ClearField("float_val")
    number = {"float32": 1, "float64": 2, "int32": 3, "int64": 9, "float16": 19}[kind]
    tensor.dtype, value = number, np.asarray(3, dtype=kind)
    if packed:
        tensor.tensor_content = value.tobytes()
    elif kind == "float16":
        tensor.half_val.append(int(value.view(np.uint16)))
    else:
        field = {"float32": "float_val", "float64": "double_val", "int32": "int_val", "int64": "int64_val"}[kind]
        getattr(tensor, field).append(3)
    emit(attempt, Event(wall_time=5.0, step=7, summary=summary))

    source.collect(last=True)

    assert read_lines(source.path) == [{"t": 5.0, "step": 7, "metrics": {"accuracy": 3.0}}]


def test_tensor_with_several_numbers_or_of_another_plugin_is_no_report(attempt: Attempt) -> None:
    source, several, other = Reports(EVENTS, attempt), scalar_pb("pr", 0.5), scalar_pb("hparams", 0.5)
    several.value[0].tensor.tensor_shape.dim.add(size=2)
    other.value[0].metadata.plugin_data.plugin_name = "hparams"
    for summary in (several, other):
        emit(attempt, Event(step=1, summary=summary))

    source.collect(last=True)

    assert stored(attempt) == []


def emit(attempt: Attempt, *events: Event) -> None:
    writer = EventFileWriter(str(logs(attempt)))
    for event in events:
        writer.add_event(event)
    writer.close()


def test_events_arriving_byte_by_byte_are_reported_once_each(attempt: Attempt, tmp_path: Path) -> None:
    write(tmp_path / "elsewhere", range(5))
    (whole,) = (tmp_path / "elsewhere").iterdir()
    data, source = whole.read_bytes(), Reports(EVENTS, attempt)
    target = logs(attempt) / whole.name

    for byte in range(len(data)):
        with target.open("ab") as f:
            f.write(data[byte : byte + 1])
        source.collect(last=True)

    assert stored(attempt) == [(step, {"loss": pytest.approx(1 / (step + 1))}) for step in range(5)]
    assert source.trouble == ""


def test_events_torn_by_a_kill_wait_and_the_next_file_is_read(attempt: Attempt) -> None:
    source = Reports(EVENTS, attempt)
    write(logs(attempt), range(3))
    (file,) = logs(attempt).iterdir()
    os.truncate(file, file.stat().st_size - 5)
    write(logs(attempt), range(3, 5), filename_suffix=".later")

    source.collect(last=True)

    assert [step for step, _ in stored(attempt)] == [0, 1, 3, 4]


def test_file_that_holds_no_events_is_named_and_stops_no_other(attempt: Attempt) -> None:
    source = Reports(EVENTS, attempt)
    (logs(attempt) / "a.tfevents.junk").write_bytes(b"\x00\x01 not an event, and longer than twelve bytes")
    write(logs(attempt), range(1))

    source.collect(last=True)

    assert stored(attempt) == [(0, {"loss": 1.0})]
    assert "a.tfevents.junk is no event file from byte 0 on" in source.trouble


def test_bytes_of_no_event_in_a_whole_record_are_passed_over(attempt: Attempt) -> None:
    source = Reports(EVENTS, attempt)
    writer = EventFileWriter(str(logs(attempt)))
    writer.add_event(Event(step=1, summary=Summary(value=[Summary.Value(tag="a", simple_value=1.0)])))
    writer._async_writer.write(b"\xff\xff\xff")
    writer.add_event(Event(step=2, summary=Summary(value=[Summary.Value(tag="a", simple_value=math.inf)])))
    writer.close()

    source.collect(last=True)

    assert stored(attempt) == [(1, {"a": 1.0}), (2, {"a": "inf"})]


def test_later_attempt_reports_what_it_said_alone_and_what_it_takes_back(tmp_path: Path) -> None:
    first = new_attempt(tmp_path, 0)
    source = Reports(EVENTS, first)
    write(logs(first), range(6))
    source.collect(last=True)
    second = new_attempt(tmp_path, 1)
    source = Reports(EVENTS, second)
    write(logs(second), range(4, 8), purge_step=4)

    source.collect(last=True)

    assert [step for step, _ in stored(second)] == [4, 5, 6, 7]
    ledger = read_lines(second.path / "ledger.jsonl")
    assert [(line["event"], line["step"]) for line in ledger] == [("restore_done", 3)]


def test_collector_after_a_killed_one_adds_what_is_missing(tmp_path: Path) -> None:
    """Its first look may find the files in another order: the second one is before the first by name."""
    before = new_attempt(tmp_path, 0)
    write(logs(before), range(2), "old")
    attempt = new_attempt(tmp_path, 1)
    killed = Reports(EVENTS, attempt)
    write(logs(attempt) / "train", range(3))
    killed.collect(last=True)
    write(logs(attempt) / "eval", range(1, 3))
    write(logs(attempt) / "train", range(3, 5), filename_suffix=".more")

    Reports(EVENTS, attempt).collect(last=True)

    found = [(step, *metrics) for step, metrics in stored(attempt)]
    assert sorted(found) == sorted([(1, "eval/loss"), (2, "eval/loss"), *((s, "train/loss") for s in range(5))])


def test_changing_folder_is_named_by_a_star_and_stands_in_no_name(attempt: Attempt) -> None:
    """As Lightning names them: version_0, version_1 and so on."""
    source = Reports(Metrics(kind="tensorboard", path="logs/lightning_logs/version_*"), attempt)
    write(logs(attempt) / "lightning_logs" / "version_3", range(1), "val_loss")
    write(logs(attempt) / "other", range(1), "val_loss")

    source.collect(last=True)

    assert stored(attempt) == [(0, {"val_loss": 1.0})]


def test_reading_events_loads_neither_numpy_nor_tensorboards_readers(root: Path) -> None:
    """A supervisor starts for each of thousands of members."""
    code = (
        "import sys\nfrom launchers.host import reports\nassert not [m for m in sys.modules if 'tensorboard' in m]\n"
        "import tensorboard.compat.proto.event_pb2\nprint('numpy' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "False"
