"""Which model the finish step registers, once, from whichever job and attempt it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from launchers.delivery.finish import finish, main
from launchers.run_folder.provenance import digest_of
from launchers.run_folder.record import read_json, read_lines, write_json
from tests.launchers.delivered import WIDTHS, store_of
from tests.launchers.tracked import dataset, end, fake_export, make_run, spool, steps


def test_finish_registers_the_best_once_with_its_origin(tmp_path: Path) -> None:
    run = make_run(tmp_path, WIDTHS, register="digits", alias="champion")
    for member in range(3):
        spool(run, [dataset("train", "d" * 32), *steps([1])], member)
        end(run, member, **{"val/accuracy": member})
        fake_export(run, member)

    results = [finish(run), finish(run)]

    store, tracking = store_of(run)
    expected = {"name": "digits", "version": "1", "alias": "champion", "uri": "models:/digits@champion"}
    assert [r["model"] for r in results] == [expected, expected]
    with store as client:
        (version,) = client.search_model_versions("name = 'digits'")
        (logged,) = client.search_logged_models([tracking.experiment_id])
        outputs = client.get_run(tracking.runs[2]).outputs.model_outputs
        assert client.get_model_version_by_alias("digits", "champion").version == version.version
    assert version.run_id == tracking.runs[2]
    assert version.tags["fairlead.job"] == run.id
    assert version.tags["fairlead.member"] == "2"
    own = {**read_json(run.spec), **read_lines(run.members_file)[2]["sections"]}
    assert version.tags["fairlead.spec_digest"] == digest_of(own), "the member's own, not that of the first"
    assert version.tags["fairlead.image_digest"] == "sha256:1ace"
    assert version.tags["fairlead.git_revision"] == "c0ffee"
    assert version.tags["fairlead.data.train"] == "d" * 32
    assert logged.status == "READY"
    assert [o.model_id for o in outputs] == [logged.model_id]
    names = {p.name for p in (tmp_path / "mlartifacts").rglob("*") if p.is_file()}
    assert {"MLmodel", "model.pt2", "model.safetensors", "card.json", "fairlead_predictor.py"} <= names
    assert not [n for n in names if n.endswith((".pkl", ".pickle", ".pt"))]
    assert list(run.member(2).path.glob(".register-*")) == []


def test_finish_of_an_older_job_does_not_take_the_alias_back(tmp_path: Path) -> None:
    jobs = [make_run(tmp_path, job=f"digits-{i}", register="digits") for i in (1, 2)]
    for run in jobs:
        end(run, **{"val/accuracy": 0.5})
        fake_export(run)

    versions = [finish(run)["model"]["version"] for run in (*jobs, jobs[0])]

    store, _ = store_of(jobs[0])
    with store as client:
        assert client.get_model_version_by_alias("digits", "newest").version == 2
    assert versions == ["1", "2", "1"]


def test_finish_retried_member_is_closed_and_registered_anew(tmp_path: Path) -> None:
    run = make_run(tmp_path, register="digits")
    end(run, state="FAILED")
    first = finish(run)
    end(run, attempt=2, **{"val/accuracy": 0.7})
    fake_export(run)

    second = finish(run)

    store, tracking = store_of(run)
    assert (first["best_member"], second["model"]["version"]) == (None, "1")
    with store as client:
        assert client.get_run(tracking.runs[0]).info.status == "FINISHED"


def test_finish_damaged_export_is_a_problem_not_a_version(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path, register="digits")
    end(run, **{"val/accuracy": 0.7})
    fake_export(run)
    (run.member(0).model / "model.pt2").write_bytes(b"other")

    code = main([str(run.path)])

    assert code == 3
    assert capsys.readouterr().err.startswith("model.pt2 is not what its card says")
    result = read_json(run.result)
    assert result["model"] is None
    assert "undelivered" not in result


def test_finish_model_that_cannot_be_exported_is_not_registered(tmp_path: Path) -> None:
    run = make_run(tmp_path, register="digits")
    end(run, **{"val/accuracy": 0.7})
    fake_export(run)
    described = read_json(run.member(0).model / "card.json")
    del described["files"]["model.pt2"]
    write_json(run.member(0).model / "card.json", described)

    result = finish(run)

    assert result["problem"].startswith("the model was not registered: torch.export could not take it")
    assert result["model"] is None
