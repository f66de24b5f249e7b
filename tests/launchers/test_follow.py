"""A process beside the queue that delivers while a job runs here, and takes the finish step when it is told to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from launchers.delivery import follow
from launchers.delivery.follow import Follower
from launchers.delivery.store import StoreError
from launchers.queue.local import ENDED
from launchers.run_folder.record import Run, read_json
from tests.launchers.tracked import end, history, make_run, spool, steps


def following(run: Run, *more: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "launchers.delivery.follow", str(run.path), "--watch-pid", str(os.getpid()), *more]
    env = {**os.environ, "OPENBLAS_NUM_THREADS": "4"}
    env.pop("OMP_NUM_THREADS", None)
    return subprocess.Popen(argv, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def until(done: Callable[[], bool], limit_s: float = 100) -> None:
    deadline = time.monotonic() + limit_s
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def blocked(task: Path) -> set[int]:
    """Signals that a thread does not take: all of them when it is gone."""
    try:
        lines = dict(line.split(":", 1) for line in (task / "status").read_text().splitlines())
    except (FileNotFoundError, ProcessLookupError):
        return set(range(1, 65))
    return {number for number in range(1, 65) if int(lines["SigBlk"], 16) >> (number - 1) & 1}


def delivered(run: Run) -> int:
    return int((read_json(run.forwarded) or {"offsets": {}})["offsets"].get("members/0/attempt-1/metrics.jsonl", 0))


def test_follow_says_once_that_the_store_is_away_and_that_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers: Iterator[Exception | None] = iter([StoreError("down\n  where  x"), StoreError("down"), None, None])

    def answer(_run: Run) -> None:
        error = next(answers)
        if error:
            raise error

    monkeypatch.setattr(follow, "forward", answer)
    monkeypatch.setattr(signal, "pthread_sigmask", lambda *_: None)
    follower = Follower(Run(tmp_path), 1, os.getpid())

    assert [follower.deliver() for _ in range(4)] == [False, False, True, True]

    said = [line.split(" ", 1)[1] for line in capsys.readouterr().err.splitlines()]
    assert said == ["forward: down", "forward: delivering again"]


def test_follow_told_to_stop_delivers_once_more_and_does_not_end_the_job(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    path = spool(run, steps([1]))
    process = following(run, "--every-s", "60")
    until(run.forwarded.exists)
    spool(run, steps([2]))

    process.send_signal(signal.SIGTERM)

    assert process.communicate(timeout=100)[0] == ""
    assert process.returncode == 0
    assert delivered(run) == path.stat().st_size
    assert not run.result.exists()


def test_follow_no_thread_takes_the_signals_that_it_waits_for(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    spool(run, steps([1]))
    process = following(run, "--every-s", "60")
    until(run.forwarded.exists)

    masks = [blocked(task) for task in Path(f"/proc/{process.pid}/task").iterdir() if task.name != str(process.pid)]
    process.send_signal(signal.SIGTERM)

    assert process.communicate(timeout=100)[0] == ""
    assert masks
    assert all({*follow.STOPS, ENDED} <= mask for mask in masks)


def test_follow_ends_with_the_process_it_watches(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with subprocess.Popen(["sleep", "100"]) as watched:
        process = following(run, "--every-s", "0.2", "--watch-pid", str(watched.pid))
        spool(run, steps([1]))
        until(run.forwarded.exists)
        spool(run, steps([2]))
        watched.kill()

    assert process.communicate(timeout=100)[0] == ""
    assert process.returncode == 0
    assert len(history(run, "train/loss")) == 2
    assert not run.result.exists()


def test_follow_told_that_all_have_ended_delivers_the_rest_and_takes_the_finish_step(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    spool(run, steps([1]))
    process = following(run, "--every-s", "60")
    until(run.forwarded.exists)
    spool(run, steps([2]))
    end(run, **{"val/accuracy": 0.5})

    process.send_signal(ENDED)

    assert process.communicate(timeout=100)[0] == ""
    assert process.returncode == 0
    assert len(history(run, "train/loss")) == 2
    assert read_json(run.result)["members"] == {"SUCCEEDED": 1}
