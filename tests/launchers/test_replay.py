"""What a program's own MLflow client writes is in our run: once, with its times, whatever happens to the store.

The client is the real one, the store a real database.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from mlflow.data.numpy_dataset import from_numpy
from mlflow.entities import DatasetInput

from conf.job_schema import Metrics
from launchers.delivery import replay
from launchers.delivery.finish import finish
from launchers.delivery.forward import Marks, forward
from launchers.delivery.store import opened
from launchers.delivery.tracking import ensure_runs
from launchers.host.reports import Reports
from launchers.run_folder import client_store
from launchers.run_folder.record import Attempt, Run, read_lines
from tests.launchers.test_program_models import program
from tests.launchers.tracked import T0_MS, end, history

POINTS: list[dict[str, Any]] = [{"model.width": 1}, {"model.width": 2}]


pytestmark = pytest.mark.usefixtures("as_a_program")


def begun(folder: Path, points: Any = ({},), **tracking: Any) -> Run:
    run = program(folder, points, **{"register": None, **tracking})
    for member in run.members():
        client_store.make(member, run.id, "digits: mine")
        (member.path / "attempt-1").mkdir()
    return run


def client_of(run: Run, member: int = 0) -> tuple[Any, str]:
    """A program's client, and the run that it was given."""
    names = client_store.variables(run.member(member).path, run.id, "digits: mine")
    uri = names["MLFLOW_TRACKING_URI"]
    return mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri), names["MLFLOW_RUN_ID"]


def stored(run: Run, member: int = 0) -> Any:
    tracking = ensure_runs(run)
    assert tracking is not None
    with opened(tracking.uri, run.id) as client:
        return client.get_run(tracking.runs[member])


def test_run_that_the_program_is_given_is_there_and_takes_what_it_logs(tmp_path: Path) -> None:
    run = begun(tmp_path / "a b%c")
    client, run_id = client_of(run)
    assert client.get_experiment_by_name("digits: mine").experiment_id == client_store.EXPERIMENT
    assert client.get_run(run_id).info.status == "RUNNING"

    client.log_metric(run_id, "val/loss", 0.5, timestamp=T0_MS, step=1)
    client_store.make(run.member(0), run.id, "digits: mine")  # the next attempt

    assert client.get_run(run_id).data.metrics == {"val/loss": 0.5}


def test_replay_brings_all_that_was_logged_once_and_only_what_is_new(tmp_path: Path) -> None:
    run = begun(tmp_path)
    client, run_id = client_of(run)
    for step in range(3):
        client.log_metric(run_id, "val/loss", 1 / (step + 1), timestamp=T0_MS + step, step=step)
    client.log_param(run_id, "depth", 3)
    client.log_param(run_id, "seed", "another")  # ours is 7
    client.set_tag(run_id, "who", "me")
    client.set_tag(run_id, "mlflow.note.content", "a note")
    client.set_tag(run_id, "fairlead.job", "forged")
    client.log_text(run_id, "hello", "deep/er/a.txt")
    data = from_numpy(np.zeros((2, 2)), name="zeros")._to_mlflow_entity()
    client.log_inputs(run_id, datasets=[DatasetInput(data)])

    first, again = forward(run), forward(run)
    client.log_metric(run_id, "val/loss", 0.1, timestamp=T0_MS + 9, step=9)
    client.log_text(run_id, "changed", "deep/er/a.txt")
    later = forward(run)

    assert (first.points, again.points, later.points) == (3, 0, 1)
    assert history(run, "val/loss") == [(s, T0_MS + s, 1 / (s + 1)) for s in range(3)] + [(9, T0_MS + 9, 0.1)]
    found = stored(run)
    assert {k: found.data.params[k] for k in ("depth", "seed", "program.seed")} == {
        "depth": "3", "seed": "7", "program.seed": "another",
    }  # fmt: skip
    tags = found.data.tags
    assert (tags["who"], tags["mlflow.note.content"], tags["fairlead.job"]) == ("me", "a note", run.id)
    assert [d.dataset.name for d in found.inputs.dataset_inputs] == ["zeros"]
    tracking = ensure_runs(run)
    assert tracking is not None
    with opened(tracking.uri, run.id):
        text = mlflow.artifacts.load_text(f"{found.info.artifact_uri}/deep/er/a.txt")
    assert text == "changed"


def test_replay_of_a_run_that_says_it_ended_leaves_the_state_to_us(tmp_path: Path) -> None:
    run = begun(tmp_path)
    client, run_id = client_of(run)
    client.log_metric(run_id, "a", 1.0)
    client.set_terminated(run_id, "FINISHED")
    forward(run)
    assert stored(run).info.status == "RUNNING"

    end(run, state="FAILED")
    finish(run)

    assert stored(run).info.status == "FAILED"


def test_runs_that_the_program_makes_are_below_its_own_with_their_states(tmp_path: Path) -> None:
    run = begun(tmp_path, POINTS)
    client, run_id = client_of(run, 1)
    nested = client.create_run("1", tags={"mlflow.parentRunId": run_id}, run_name="fold 1")
    inner = client.create_run("1", tags={"mlflow.parentRunId": nested.info.run_id}, run_name="inner")
    elsewhere = client.create_run(client.create_experiment("other"), run_name="beside")
    for i, one in enumerate((nested, inner, elsewhere)):
        client.log_metric(one.info.run_id, "k", i, timestamp=T0_MS)
    client.set_terminated(nested.info.run_id, "FAILED", T0_MS + 5)

    forward(run)
    client.log_metric(elsewhere.info.run_id, "k", 9, timestamp=T0_MS + 1, step=1)
    forward(run)

    tracking = ensure_runs(run)
    assert tracking is not None
    with opened(tracking.uri, run.id) as store:
        found = {r.info.run_name: r for r in store.search_runs([tracking.experiment_id])}
    assert len(found) == 6, "a parent, two members and three of the program's"
    above = {name: found[name].data.tags["mlflow.parentRunId"] for name in ("fold 1", "inner", "beside")}
    own = tracking.runs[1]
    assert above == {"fold 1": own, "inner": found["fold 1"].info.run_id, "beside": own}
    assert (found["fold 1"].info.status, found["fold 1"].info.end_time) == ("FAILED", T0_MS + 5)
    assert (found["inner"].data.metrics["k"], found["beside"].data.metrics["k"]) == (1, 9)


def test_logged_model_is_there_once_and_its_version_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.linear_model import LogisticRegression

    run = begun(tmp_path)
    client, run_id = client_of(run)
    saved = tmp_path / "saved"
    mlflow.sklearn.save_model(LogisticRegression().fit([[0.0], [1.0]], [0, 1]), str(saved), pip_requirements=["numpy"])
    model = client.create_logged_model("1", "clf", source_run_id=run_id, params={"c": "1"})
    client.log_model_artifacts(model.model_id, str(saved))
    client.finalize_logged_model(model.model_id, "READY")
    client.create_registered_model("iris")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", client.tracking_uri)  # as the program has it
    client.create_model_version("iris", f"models:/{model.model_id}", run_id=run_id, model_id=model.model_id)
    client.set_registered_model_alias("iris", "best", "1")

    forward(run)
    (run.forwarded).unlink()  # killed before it was marked
    forward(run)

    tracking = ensure_runs(run)
    assert tracking is not None
    with opened(tracking.uri, run.id) as store:
        logged = store.search_logged_models([tracking.experiment_id])
        versions = store.search_model_versions("name = 'iris'")
        monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "true")  # the user's to say, never ours
        loaded = mlflow.pyfunc.load_model("models:/iris@best")
    assert [(m.name, m.source_run_id, m.params) for m in logged] == [("clf", tracking.runs[0], {"c": "1"})]
    assert [(v.version, v.run_id, v.tags["fairlead.job"]) for v in versions] == [(1, tracking.runs[0], run.id)]
    assert list(loaded.predict(np.array([[0.0], [1.0]]))) == [0, 1]


def test_program_that_logs_nothing_opens_no_store(tmp_path: Path) -> None:
    run = begun(tmp_path, fresh=True)

    assert not replay.has_news(run, run.member(0), Marks(run))


def test_metrics_of_the_client_are_reports_once_each_and_delivered_once(tmp_path: Path) -> None:
    run = begun(tmp_path)
    document = json.loads(run.spec.read_text())
    document["job"]["metrics"]["kind"] = "mlflow"
    run.spec.write_text(json.dumps(document))
    client, run_id = client_of(run)
    source = Reports(Metrics(kind="mlflow"), Attempt(run.member(0).path / "attempt-1"))
    for step in (0, 0, 7):  # no step said, and then one
        client.log_metric(run_id, "val/loss", 0.5 - step, timestamp=T0_MS + step, step=step)
    client.log_metric(run_id, "val/loss", 0.4, timestamp=T0_MS + 1)
    client.log_metric(run_id, "bad", float("nan"), timestamp=T0_MS)
    beside = client.create_run("1")
    client.log_metric(beside.info.run_id, "val/loss", 9.0)

    source.collect(last=True)
    delivered = forward(run)

    rows = [(row["t"], row["step"], row["metrics"]) for row in read_lines(source.path)]
    at = T0_MS / 1000
    assert rows == [
        (at, 0, {"bad": "nan"}),
        (at, 0, {"val/loss": 0.5}),
        (at + 0.007, 7, {"val/loss": -6.5}),
        (at + 0.001, 8, {"val/loss": 0.4}),
    ]
    assert delivered.points == 6  # as the client's files have them; of two that are the same the store keeps one
    assert [step for step, _, _ in history(run, "val/loss")] == [0, 0, 7]


def test_later_attempt_reports_what_its_own_client_said_alone(tmp_path: Path) -> None:
    run = begun(tmp_path)
    client, run_id = client_of(run)
    client.log_metric(run_id, "a", 1.0, timestamp=T0_MS, step=1)
    second = run.member(0).path / "attempt-2"
    second.mkdir()
    source = Reports(Metrics(kind="mlflow"), Attempt(second))
    client.log_metric(run_id, "a", 1.0, timestamp=T0_MS, step=1)  # as logging a model does
    client.log_metric(run_id, "a", 2.0, timestamp=T0_MS + 1, step=2)
    source.collect()

    Reports(Metrics(kind="mlflow"), Attempt(second)).collect(last=True)  # the first one was killed

    assert [(row["step"], row["metrics"]) for row in read_lines(source.path)] == [(2, {"a": 2.0})]


def test_store_that_is_away_loses_nothing(tmp_path: Path) -> None:
    run = begun(tmp_path, uri="http://127.0.0.1:9", fresh=True)
    client, run_id = client_of(run)
    client.log_metric(run_id, "a", 1.0, timestamp=T0_MS, step=1)
    end(run)

    result = finish(run)

    assert result["undelivered"] is True
    assert client.get_run(run_id).data.metrics == {"a": 1.0}
