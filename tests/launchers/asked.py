"""A search whose members are the test's own processes, which ask for points as supervisors do."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from launchers.freeze import Launch, freeze
from launchers.plan import Plan
from launchers.run_folder import record
from launchers.run_folder.record import Run, make_private, mark_ended, read_json, started_members, write_json
from launchers.search import ask as asking
from launchers.search import known, points, study
from launchers.search.expand import expand

SEARCH = """\
kind: search
algorithm: random
trials: 200
parameters:
  optimizer.lr: {type: double, min: 1.0e-4, max: 1.0e-1, scale: log}
  model: {type: categorical, values: [cnn, mlp]}
  model.dropout: {type: double, min: 0.0, max: 0.5, when: {model: [cnn]}}
"""
CARDS = ("launcher=slurm", "machine=gpu-1", "accelerator=h100")
"""24 hours at most for each trial, on one card."""
Made = Callable[..., tuple[Run, Plan]]
Process = multiprocessing.context.ForkProcess
OURS = {module.__file__ for module in (asking, points, record, study, known)}


def maker(workdir: Path) -> Made:
    """Makes a frozen search that nobody has launched: `run, plan = made("sweep.trials=3")`."""
    (workdir / "conf" / "sweep").mkdir(parents=True)
    (workdir / "conf" / "sweep" / "mine.yaml").write_text(SEARCH)

    def make(*overrides: str) -> tuple[Run, Plan]:
        members = expand(["experiment=digits", "sweep=mine", *overrides], [workdir / "conf"])
        launch = Launch(
            specs=members.specs,
            points=members.points,
            templates=members.templates,
            command=(),
            cwd=workdir,
            python=sys.executable,
        )
        run, plans = freeze(launch, workdir / "runs", "study.v1")
        return run, plans[0]

    return make


def end(run: Run, index: int, value: Any = 0.5, **outcome: Any) -> None:
    """What a supervisor and a trainer leave of a trial."""
    attempt = run.member(index).path / f"attempt-{len(run.member(index).attempts())}"
    make_private(attempt)
    now = time.time()
    write_json(attempt / "started.json", {"started": now - 10})
    if value is not None:
        row = {"t": int(now * 1000), "step": 1, "metrics": {"val/accuracy": value}}
        (attempt / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    whole = {"state": "SUCCEEDED", "cause": "succeeded", "message": "", "started": now - 10, "ended": now, **outcome}
    write_json(attempt / "outcome.json", whole)
    mark_ended(run, index, int(attempt.name.rpartition("-")[2]), whole["state"])


def points_of(run: Run) -> dict[int, dict[str, Any]]:
    return {i: p["point"] for i in started_members(run) if (p := read_json(run.member(i).point))}


def different(run: Run) -> int:
    """How many different points there are."""
    return len({json.dumps(point, sort_keys=True) for point in points_of(run).values()})


def ask_all(run: Run, plan: Plan, indices: Sequence[int]) -> None:
    for index in indices:
        assert asking.ask(run, plan, index) is None


def begin(act: Callable[..., None], *arguments: Any) -> Process:
    """A process of its own, which holds no lock that this one holds."""
    process = multiprocessing.get_context("fork").Process(target=_let_go_and, args=(act, *arguments))
    process.start()
    return process


def _let_go_and(act: Callable[..., None], *arguments: Any) -> None:
    for fd in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if fd.readlink().name.endswith(".lock"):
                os.close(int(fd.name))
    act(*arguments)


def until(true: Callable[[], bool], timeout_s: float = 40) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.01)


def waits(run: Run, index: int) -> bool:
    return record.is_locked(run.path / "study" / "waiting" / str(index))


def at_line(number: int, send: signal.Signals, act: Callable[[], Any]) -> int:
    """Do something, and be sent a signal before its n-th line of ours. Returns how many lines were left then."""
    left = number

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if frame.f_code.co_filename not in OURS:
            return None
        if event == "line":
            left -= 1
            if left == 0:
                os.kill(os.getpid(), send)
        return trace

    sys.settrace(trace)
    try:
        act()
    finally:
        sys.settrace(None)
    return left
