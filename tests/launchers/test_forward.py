from __future__ import annotations

import contextlib
import math
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from launchers.delivery import forward as module
from launchers.delivery.finish import finish
from launchers.delivery.forward import Delivered, forward
from launchers.delivery.store import opened
from launchers.delivery.tracking import ensure_runs
from tests.launchers.tracked import (
    T0_MS,
    dataset,
    dies_at,
    empty_database,
    end,
    fake_export,
    history,
    make_run,
    spool,
    steps,
)


def test_forward_kind_none_does_nothing(tmp_path: Path) -> None:
    run = make_run(tmp_path, fresh=True, kind="none")
    spool(run, steps([1]))

    assert forward(run) == Delivered()

    assert not run.forwarded.exists()


def test_forward_keeps_time_and_step_and_delivers_once(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    spool(run, steps(range(3)))

    assert forward(run) == Delivered({0: 3})
    assert forward(run) == Delivered()
    spool(run, steps([3]))
    assert forward(run) == Delivered({0: 1})

    assert history(run, "train/loss") == [(n, T0_MS + 1000 * n, 1 / (n + 1)) for n in range(4)]


def test_forward_nothing_new_opens_no_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path)
    spool(run, steps([1]))
    forward(run)
    monkeypatch.setattr(module, "opened", None)

    assert forward(run) == Delivered()


def test_forward_torn_last_line_waits_for_its_end(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    path = spool(run, steps([1]))
    with path.open("a") as f:
        f.write('{"t": 1, "step": 2, "metr')
        f.flush()
        assert forward(run).points == 1
        f.write('ics": {"train/loss": 0.5}}\n')

    assert forward(run).points == 1
    assert [step for step, _, _ in history(run, "train/loss")] == [1, 2]


def test_forward_replay_after_lost_marks_adds_nothing(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    spool(run, steps(range(5), **{"val/loss": "nan", "grad": "inf"}))
    forward(run)
    run.forwarded.unlink()

    forward(run)

    assert len(history(run, "train/loss")) == len(history(run, "val/loss")) == len(history(run, "grad")) == 5


def test_forward_nan_and_infinity_come_back_as_numbers(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    spool(run, steps([1], a="nan", b="inf", c="-inf"))

    forward(run)

    assert math.isnan(history(run, "a")[0][2])
    assert history(run, "b")[0][2] > 1e300
    assert history(run, "c")[0][2] < -1e300


def test_forward_bad_lines_and_names_do_not_stop_the_rest(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    lines = [{"t": "when"}, {"step": 1}, [], {"t": 1, "metrics": {"x": None}}]
    odd = {"t": T0_MS, "step": 1, "metrics": {"a//b": 1, "../c": 2, "d(e)": 3, "f" * 300: 4, "/g": 5}}
    spool(run, [*lines, odd, *steps([2])])

    assert forward(run).points == 6

    assert len(history(run, "a/b")) == len(history(run, "c")) == len(history(run, "d_e_")) == 1
    assert len(history(run, "g")) == len(history(run, "train/loss")) == 1


def test_forward_more_points_than_a_call_takes_arrive_whole(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    wide = {"t": T0_MS, "step": 0, "metrics": {f"m{i}": i for i in range(2100)}}
    spool(run, [wide, *steps(range(1, 1500))])

    assert forward(run).points == 2100 + 1499

    assert len(history(run, "train/loss")) == 1499
    assert len(history(run, "m2099")) == 1


def test_forward_system_metrics_of_each_node_arrive(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    for node in (0, 1):
        line = {"t": T0_MS, "step": 1, "metrics": {f"system/node-{node}/cpu_utilization_percentage": 50}}
        spool(run, [line], name=f"system-{node}.jsonl")

    assert forward(run) == Delivered({0: 2})


def test_forward_dataset_lines_become_inputs_once(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    lines = [dataset("train", "a" * 64), dataset("validation", "b" * 32)]
    spool(run, lines)
    forward(run)
    spool(run, lines, attempt=2)

    forward(run)

    tracking = ensure_runs(run)
    assert tracking is not None
    with opened(tracking.uri, run.id) as client:
        inputs = client.get_run(tracking.runs[0]).inputs.dataset_inputs
    seen = {(i.dataset.name, i.dataset.digest, i.tags[0].value) for i in inputs}
    assert seen == {("digits", "a" * 36, "train"), ("digits", "b" * 32, "validation")}
    assert len(inputs) == 2


def test_forward_steps_a_later_attempt_repeated_are_left_out(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    spool(run, steps(range(1, 10)))
    spool(run, [{"t": T0_MS, "step": 9, "metrics": {"system/cpu": 1}}], name="system-0.jsonl")
    spool(run, [{"event": "restore_done", "step": 4}], attempt=2, name="ledger.jsonl")
    spool(run, [{**line, "t": line["t"] + 500} for line in steps(range(5, 7))], attempt=2)
    spool(run, [{"event": "restore_done", "step": 6}], attempt=3, name="ledger.jsonl")
    spool(run, [{**line, "t": line["t"] + 900} for line in steps(range(7, 12))], attempt=3)

    forward(run)

    assert [step for step, _, _ in history(run, "train/loss")] == list(range(1, 12))
    assert len(history(run, "system/cpu")) == 1


def test_forward_attempt_that_began_anew_replaces_the_first(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    spool(run, steps(range(1, 10)))
    spool(run, [{"event": "process_start"}, {"event": "first_step"}], attempt=2, name="ledger.jsonl")
    spool(run, [{**line, "t": line["t"] + 500} for line in steps(range(1, 3))], attempt=2)

    forward(run)

    assert [t % 1000 for _, t, _ in history(run, "train/loss")] == [500, 500]


def test_forward_attempt_that_never_trained_takes_nothing_away(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    spool(run, steps(range(1, 4)))
    spool(run, [{"event": "process_start"}], attempt=2, name="ledger.jsonl")

    assert forward(run).points == 3


def test_forward_chosen_members_only(tmp_path: Path) -> None:
    run = make_run(tmp_path, [{"model.width": 1}, {"model.width": 2}])
    for member in (0, 1):
        spool(run, steps([1, 2]), member)

    assert forward(run, members=[1]) == Delivered({1: 2})
    assert forward(run) == Delivered({0: 2})


def test_forward_deleted_run_is_refused_and_the_others_are_delivered(tmp_path: Path) -> None:
    run = make_run(tmp_path, [{"model.width": 1}, {"model.width": 2}])
    tracking = ensure_runs(run)
    assert tracking is not None
    with opened(tracking.uri, run.id) as client:
        client.delete_run(tracking.runs[0])
    for member in (0, 1):
        spool(run, steps([1]), member)

    assert forward(run) == Delivered({1: 1}, refused=(0,))


def test_forward_killed_between_store_and_mark_delivers_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        module, "MARK_EVERY_S", math.inf
    )  # a slow machine would mark, and the rest be too short to kill
    run = make_run(tmp_path, [{"model.width": 1}, {"model.width": 2}])
    ensure_runs(run)
    for member in (0, 1):
        spool(run, [dataset(), *steps(range(1500))], member)

    deaths = [dies_at(n, lambda: forward(run)) for n in range(3, 20, 3)]
    forward(run)

    assert deaths[:3] == [True] * 3
    assert len(history(run, "train/loss", 0)) == len(history(run, "train/loss", 1)) == 1500


def _wait_until(done: object, limit_s: float = 60) -> None:
    deadline = time.monotonic() + limit_s
    while not done():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextlib.contextmanager
def _server(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    argv = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    argv += ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", str(folder / "files")]
    env = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(argv, cwd=folder, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait_until(lambda: _answers(port), 120)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
            return True
    except OSError:
        return False


def _points_in(database: Path) -> int:
    with contextlib.closing(sqlite3.connect(database, timeout=60)) as db:  # the server writes meanwhile
        return int(db.execute("SELECT count(*) FROM metrics").fetchone()[0])


def test_forward_server_killed_in_the_middle_gets_everything_once(tmp_path: Path) -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    (tmp_path / "server.db").write_bytes(empty_database().read_bytes())
    run = make_run(
        tmp_path, [{"model.width": 1}, {"model.width": 2}], uri=f"http://127.0.0.1:{port}", register="digits"
    )
    for member in (0, 1):
        spool(run, [dataset(), *steps(range(10_000))], member)
        end(run, member, **{"val/accuracy": member})
        fake_export(run, member)

    with _server(tmp_path, port) as server:
        argv = [sys.executable, "-m", "launchers.delivery.forward", str(run.path)]
        delivery = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        _wait_until(lambda: _points_in(tmp_path / "server.db") > 0)
        os.killpg(server.pid, signal.SIGKILL)
        said = delivery.communicate(timeout=60)[0]
    undelivered = finish(run)
    with _server(tmp_path, port):
        forward(run)
        result = finish(run)
        found = [len(history(run, "train/loss", member)) for member in (0, 1)]

    assert delivery.returncode == 3
    assert len(said.splitlines()) == 3
    assert undelivered["undelivered"] is True
    assert undelivered["best_member"] == 1
    assert found == [10_000, 10_000]
    assert "undelivered" not in result
    assert result["model"] == {"name": "digits", "version": "1", "alias": "newest", "uri": "models:/digits@newest"}


def test_forward_reports_of_other_programs_are_delivered_at_their_own_time(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    seconds = [{"t": T0_MS / 1000 + n, "step": n, "metrics": {"loss": 1.0 / n}} for n in (1, 2)]
    spool(run, seconds, name="reports.jsonl")

    assert forward(run) == Delivered({0: 2})

    tracking = ensure_runs(run)
    assert tracking is not None
    with opened(tracking.uri, run.id) as client:
        history = client.get_metric_history(tracking.runs[0], "loss")
    assert [(m.step, m.value, m.timestamp) for m in history] == [(1, 1.0, T0_MS + 1000), (2, 0.5, T0_MS + 2000)]
