"""What a program that is not our trainer leaves in its model folder is in the store once, and registered when asked."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

from launchers.delivery.finish import finish
from launchers.delivery.store import opened
from launchers.delivery.tracking import ensure_runs
from launchers.run_folder.record import Run, make_private, read_json, write_json
from tests.launchers.tracked import T0_MS, end, make_run, spool

POINTS: list[dict[str, Any]] = [{"model.width": 1}, {"model.width": 2}, {"model.width": 3}]
METRIC = "val/accuracy"


def program(folder: Path, points: Any = ({},), **tracking: Any) -> Run:
    """A job of a command, whose members have started."""
    run = make_run(folder, points, **{"register": "mine", **tracking})
    document = read_json(run.spec)
    write_json(run.spec, {**document, "job": {**document["job"], "kind": "command", "command": ["program"]}})
    return run


def leaves(run: Run, files: dict[str, bytes], member: int = 0, value: float = 0.5, state: str = "SUCCEEDED") -> None:
    for name, content in files.items():
        path = make_private(run.member(member).model) / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    row = {"t": T0_MS / 1000, "step": 1, "metrics": {METRIC: value}}
    spool(run, [row], member=member, name="reports.jsonl")
    end(run, member, state=state)
    (run.member(member).path / "attempt-1" / "result.json").unlink(missing_ok=True)


def downloaded(run: Run, uri: str, folder: Path) -> dict[str, bytes]:
    import mlflow

    tracking = ensure_runs(run)
    assert tracking is not None
    with opened(tracking.uri, run.id):
        mlflow.set_registry_uri(None)
        place = Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(make_private(folder))))
    return {p.relative_to(place).as_posix(): p.read_bytes() for p in place.rglob("*") if p.is_file()}


def models(run: Run) -> list[Any]:
    tracking = ensure_runs(run)
    assert tracking is not None
    with opened(tracking.uri, run.id) as client:
        return list(client.search_logged_models([tracking.experiment_id]))


def test_plain_folder_is_registered_once_with_its_origin_and_downloads_as_it_was(tmp_path: Path) -> None:
    run = program(tmp_path)
    left = {"weights.bin": b"\x00\x01", "sub/words.txt": b"a b", "card.json": b"not ours"}
    leaves(run, left)
    (run.member(0).model / "secret").symlink_to("/etc/hostname")
    (run.member(0).model / "gone").symlink_to("/nowhere")
    (run.member(0).model / "same").symlink_to("weights.bin")

    first, second = finish(run), finish(run)

    assert first["model"] == second["model"] == {
        "name": "mine", "version": "1", "alias": "newest", "uri": "models:/mine@newest", "plain": True,
    }  # fmt: skip
    found = downloaded(run, "models:/mine@newest", tmp_path / "got")
    assert {k: v for k, v in found.items() if k != "registered_model_meta"} == {**left, "same": b"\x00\x01"}
    (model,) = models(run)
    assert (model.tags["fairlead.job"], model.tags[f"fairlead.{METRIC}"]) == (run.id, "0.5")
    tracking = ensure_runs(run)
    assert tracking is not None
    with opened(tracking.uri, run.id) as client:
        version = client.get_model_version_by_alias("mine", "newest")
        outputs = client.get_run(tracking.runs[0]).outputs.model_outputs
    assert (version.run_id, version.tags["fairlead.git_revision"]) == (tracking.runs[0], "c0ffee")
    assert [o.model_id for o in outputs] == [model.model_id]


def test_model_that_mlflow_saved_is_that_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow
    from sklearn.linear_model import LogisticRegression

    run = program(tmp_path)
    fitted = LogisticRegression().fit([[0.0], [1.0]], [0, 1])
    place = str(make_private(run.member(0).model) / "classifier")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of MLflow, about its own type hints
        mlflow.sklearn.save_model(fitted, place, pip_requirements=["numpy"])
    leaves(run, {})

    finish(run)

    tracking = ensure_runs(run)
    assert tracking is not None
    with opened(tracking.uri, run.id):
        monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "true")  # the user's to say, never ours
        loaded = mlflow.sklearn.load_model("models:/mine@newest")
    assert list(loaded.predict([[0.0], [1.0]])) == [0, 1]


def test_each_member_of_a_grid_that_succeeded_keeps_its_model_and_the_best_is_registered(tmp_path: Path) -> None:
    run = program(tmp_path, POINTS)
    leaves(run, {"w": b"zero"}, 0, 0.5)
    leaves(run, {"w": b"one"}, 1, 0.9)
    leaves(run, {"w": b"two"}, 2, 0.95, state="FAILED")

    result = finish(run)

    tracking = ensure_runs(run)
    assert tracking is not None and result["best_member"] == 1
    assert {m.source_run_id for m in models(run)} == {tracking.runs[0], tracking.runs[1]}
    assert downloaded(run, "models:/mine@newest", tmp_path / "got")["w"] == b"one"


def test_model_folder_that_is_too_large_is_named_and_stays(tmp_path: Path) -> None:
    run = program(tmp_path, model_gb=1e-6)
    leaves(run, {"w": b"x" * 2000})

    result = finish(run)

    said = f"{run.member(0).model} has 2e-06 GB, and tracking.model_gb is 1e-06"
    assert f"the model was not registered: {said}" in result["problem"]
    assert models(run) == []
    tracking = ensure_runs(run)
    assert tracking is not None
    with opened(tracking.uri, run.id) as client:
        assert client.get_run(tracking.runs[0]).data.tags["fairlead.model"] == f"not uploaded: {said}"


def test_program_that_leaves_nothing_registers_nothing_and_one_that_nobody_registers_is_kept(tmp_path: Path) -> None:
    nothing, unnamed = program(tmp_path / "a"), program(tmp_path / "b", register=None)
    leaves(nothing, {})
    leaves(unnamed, {"w": b"x"})

    assert finish(nothing)["model"] is None and finish(unnamed)["model"] is None
    assert (len(models(nothing)), len(models(unnamed))) == (0, 1)
