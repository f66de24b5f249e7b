"""Secrets that a program's own MLflow client wrote: what becomes of them in its store, and what may leave it when.

The client is the real one.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import mlflow
import pytest

from launchers.delivery.forward import forward
from launchers.host import client_masking
from launchers.host.client_masking import ClientMasking
from launchers.run_folder import client_store
from launchers.run_folder.record import Attempt, Run, read_json, write_json
from tests.cluster.harness import until
from tests.launchers.test_program_models import program
from tests.launchers.test_replay import client_of, stored
from tests.launchers.tracked import T0_MS, history

SECRET = "canary/of a: line"


pytestmark = pytest.mark.usefixtures("as_a_program")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Of a job with a secret, whose program has begun."""
    made = program(tmp_path, register=None)
    document = read_json(made.spec)
    write_json(made.spec, {**document, "secrets": {"A": {"env": "A"}}})
    client_store.make(made.member(0), made.id, "mine")
    (made.member(0).path / "attempt-1").mkdir()
    return made


def attempt_of(run: Run) -> Attempt:
    return Attempt(run.member(0).path / "attempt-1")


def looked_through(run: Run) -> None:
    ClientMasking(attempt_of(run), [SECRET]).finish()


def found_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if SECRET in str(path) or (path.is_file() and _holds(path))]


def _holds(path: Path) -> bool:
    return SECRET.encode() in path.read_bytes()


def logs_it_everywhere(client: Any, run_id: str) -> None:
    client.log_param(run_id, "token", SECRET)
    client.log_param(run_id, f"of/{SECRET}/x", f"it is {SECRET}.")
    client.set_tag(run_id, f"tag {SECRET}", SECRET)
    client.log_metric(run_id, f"loss {SECRET}", 0.5, timestamp=T0_MS)
    client.log_text(run_id, SECRET, f"{SECRET}/a.txt")
    client.create_run("1", run_name=f"fold {SECRET}")


def test_store_of_a_client_holds_no_secret_and_can_still_be_read(run: Run) -> None:
    client, run_id = client_of(run)
    logs_it_everywhere(client, run_id)

    looked_through(run)

    root = run.member(0).path / client_store.FOLDER
    assert found_in(run.path) == []
    assert client_store.masked_params(root / "1" / run_id) == {"token": "***", "of/___/x": "it is ***."}
    data = client.get_run(run_id).data
    assert (data.params, data.tags["tag ___"], data.metrics) == ({}, "***", {"loss ___": 0.5})
    assert sorted(one.info.run_name for one in client.search_runs(["1"])) == ["", "fold ___"]
    assert [one.path for one in client.list_artifacts(run_id)] == ["___"]


def test_parameter_may_be_logged_again_by_the_next_attempt(run: Run) -> None:
    client, run_id = client_of(run)
    for _ in range(2):
        logs_it_everywhere(client, run_id)
        client.log_metric(run_id, "loss", 1.0, timestamp=T0_MS)
        looked_through(run)
        forward(run)

    found = stored(run).data
    assert {name: found.params[name] for name in ("token", "of/___/x")} == {"token": "***", "of/___/x": "it is ***."}
    assert history(run, "loss ___") == [(0, T0_MS, 0.5)]
    assert found_in(run.path.parent) == []


def test_what_nobody_looked_through_stays_and_is_delivered_when_somebody_has(run: Run) -> None:
    client, run_id = client_of(run)
    client.log_metric(run_id, "loss", 1.0, timestamp=T0_MS)
    looked_through(run)
    forward(run)
    client.log_metric(run_id, "loss", 0.5, timestamp=T0_MS + 1, step=1)
    logs_it_everywhere(client, run_id)  # and now the supervisor is killed

    forward(run)

    assert not found_in(run.path.parent / "mlflow.db")
    assert len(history(run, "loss")) == 1, "as a new metric, whose name nobody has seen, is beside it"
    assert "token" not in stored(run).data.params
    ClientMasking(attempt_of(run), [SECRET]).start()  # the next attempt
    forward(run)
    assert len(history(run, "loss")) == 2 and stored(run).data.params["token"] == "***"


def test_points_are_delivered_while_the_program_writes_everything_else(run: Run) -> None:
    client, run_id = client_of(run)
    client.log_metric(run_id, "loss", 1.0, timestamp=T0_MS)
    looked_through(run)
    client.log_metric(run_id, "loss", 0.5, timestamp=T0_MS + 1, step=1)
    client.set_tag(run_id, "now", "new")

    forward(run)

    assert len(history(run, "loss")) == 2 and "now" not in stored(run).data.tags


def test_artifact_that_is_no_text_is_left_as_it_is_and_one_of_another_rank_is_not(run: Run) -> None:
    binary = b"\0\1" + SECRET.encode()
    folder = client_store.run_folder(run.member(0), run.id) / "artifacts"
    (folder / "weights.bin").write_bytes(binary)
    piece = client_masking.PIECE
    (folder / "long.txt").write_bytes(b"x" * (piece - 3) + SECRET.encode() + b"y" * piece)
    other = attempt_of(run).path / f"{client_store.FOLDER}.rank-1"
    own = mlflow.MlflowClient(tracking_uri=other.as_uri())
    own.set_tag(own.create_run("0").info.run_id, "token", SECRET)

    looked_through(run)

    assert found_in(run.path) == [folder / "weights.bin"]
    assert (folder / "weights.bin").read_bytes() == binary
    assert (folder / "long.txt").read_bytes() == b"x" * (piece - 3) + b"***" + b"y" * piece


def test_looks_while_the_program_runs_and_lets_a_writer_finish(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_masking, "PAUSE_S", 0.05)
    client, run_id = client_of(run)
    masking = ClientMasking(attempt_of(run), [SECRET])
    masking.start()
    tag = client_store.run_folder(run.member(0), run.id) / "tags" / "slow"

    with tag.open("w") as f:
        f.write(SECRET)
        f.flush()
        began = client_store.checked_until(run.member(0))
        until(lambda: client_store.checked_until(run.member(0)) > began - 1, 30, 0.05)
        assert _holds(tag), "not yet"
        f.write(" and more")
    until(lambda: not _holds(tag), 30, 0.05)
    masking.finish()

    assert client.get_run(run_id).data.tags["slow"] == "*** and more"


def test_nothing_is_written_while_only_metrics_grow(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_masking, "PAUSE_S", 0.05)
    monkeypatch.setattr(client_masking, "SETTLED_S", 0.2)
    client, run_id = client_of(run)
    client.log_metric(run_id, "loss", 1.0)
    masking, looks, note = ClientMasking(attempt_of(run), [SECRET]), list[float](), client_store.note_checked
    monkeypatch.setattr(client_store, "note_checked", lambda member, at: (looks.append(at), note(member, at)))
    masking.start()
    assert len(looks) == 1

    for step in range(1, 20):
        client.log_metric(run_id, "loss", 1.0, step=step)
        time.sleep(0.05)
    assert len(looks) == 1
    client.log_param(run_id, "token", SECRET)
    until(lambda: found_in(run.path) == [], 30, 0.05)
    masking.finish()

    assert len(looks) > 2


def test_store_that_cannot_be_looked_through_is_told_once_and_nothing_of_it_leaves(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    client, run_id = client_of(run)
    client.set_tag(run_id, "token", SECRET)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ClientMasking, "_replaced", full)
    masking = ClientMasking(attempt_of(run), [SECRET])
    masking.finish()
    masking.finish()
    forward(run)

    assert capsys.readouterr().out.count("could not be looked through for secrets: [Errno 28]") == 1
    assert "token" not in stored(run).data.tags
