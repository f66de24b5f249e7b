"""TensorBoard's own reader reads what was written from spools, whatever was killed meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from launchers.delivery.board import follow, write
from launchers.delivery.finish import finish
from launchers.run_folder.record import Run
from tests.launchers.tracked import T0_MS, end, make_run, spool, steps

WIDTHS: list[dict[str, Any]] = [{"model.width": 1}, {"model.width": 2}]


def asked(folder: Path, points: Any = ({},)) -> Run:
    return make_run(folder, points, fresh=True, kind="none", tensorboard=True)


def read(run: Run, tag: str = "train/loss", member: int = 0) -> list[tuple[int, float]]:
    """Step and value of every point that TensorBoard shows."""
    seen = EventAccumulator(str(run.path / "tensorboard" / str(member)))
    seen.Reload()
    return [(event.step, event.value) for event in seen.Scalars(tag)] if tag in seen.Tags()["scalars"] else []


def went_on(run: Run, attempt: int, step: int) -> None:
    spool(run, [{"t": 1, "event": "restore_done", "step": step}], attempt=attempt, name="ledger.jsonl")


def test_board_has_every_point_once_however_often_it_is_written(tmp_path: Path) -> None:
    run = asked(tmp_path, WIDTHS)
    spool(run, steps([1, 2], **{"val/loss": "nan"}), member=1)

    assert [write(run), write(run)] == [4, 0]
    spool(run, steps([3]), member=1)
    assert write(run) == 1

    assert read(run, member=1) == [(1, 0.5), (2, pytest.approx(1 / 3)), (3, 0.25)]
    assert [step for step, _ in read(run, "val/loss", member=1)] == [1, 2]
    assert not (run.path / "tensorboard" / "0").exists()  # it has not begun


def test_board_of_an_attempt_that_went_on_runs_not_to_and_fro(tmp_path: Path) -> None:
    run = asked(tmp_path)
    spool(run, steps(range(10, 60, 10)))
    write(run)
    went_on(run, attempt=2, step=20)
    spool(run, steps([30, 40], again=1.0), attempt=2)
    write(run)
    went_on(run, attempt=3, step=0)  # the checkpoints were damaged
    spool(run, [{"t": T0_MS, "dataset": {}}], attempt=3)
    write(run)

    assert [step for step, _ in read(run)] == [10, 20, 30, 40]
    assert [step for step, _ in read(run, "again")] == [30, 40]
    spool(run, steps([5]), attempt=3)
    write(run)
    assert [step for step, _ in read(run)] == [5]


def test_board_of_another_program_takes_its_reports(tmp_path: Path) -> None:
    run = asked(tmp_path)
    spool(run, [{"t": T0_MS / 1000, "step": n, "metrics": {"accuracy": n / 4}} for n in (1, 2)], name="reports.jsonl")
    spool(run, [{"t": T0_MS / 1000, "step": 2, "metrics": {"accuracy": 0.75}}], attempt=2, name="reports.jsonl")

    write(run)

    assert read(run, "accuracy") == [(1, 0.25), (2, 0.75)]


@pytest.mark.parametrize("cut", [1, 30, 59])
def test_board_torn_by_a_kill_is_whole_again(tmp_path: Path, cut: int) -> None:
    run = asked(tmp_path)
    spool(run, steps(range(5)))
    write(run)
    (file,) = (run.path / "tensorboard" / "0").iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:-cut])

    write(run)

    assert file.read_bytes() == whole


def test_board_nobody_asked_for_is_not_there(tmp_path: Path) -> None:
    run = make_run(tmp_path, fresh=True, kind="none")
    spool(run, steps([1]))

    assert write(run) == 0
    assert not (run.path / "tensorboard").exists()


def test_finish_writes_what_the_follower_did_not_come_to(tmp_path: Path) -> None:
    run = asked(tmp_path)
    spool(run, steps([1, 2]))
    end(run)

    finish(run)

    assert [step for step, _ in read(run)] == [1, 2]


def test_follower_writes_meanwhile_and_ends_with_what_it_watches(tmp_path: Path) -> None:
    run = asked(tmp_path)
    spool(run, steps([1]))
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as watched:
        argv = [sys.executable, "-m", "launchers.delivery.board", str(run.path), "--member", "0"]
        follower = subprocess.Popen([*argv, "--watch-pid", str(watched.pid)], env={**os.environ, "PYTHONPATH": "."})
        try:
            while not list((run.path / "tensorboard").rglob("events*")):
                assert follower.poll() is None
                time.sleep(0.05)
            spool(run, steps([2]))
            follower.terminate()
            assert follower.wait(60) == 0
        finally:
            follower.kill()
    assert [step for step, _ in read(run)] == [1, 2]

    spool(run, steps([3]))
    follow(run, 0, watched.pid)  # which is gone
    assert [step for step, _ in read(run)] == [1, 2, 3]
