from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from conf.sweep_schema import Goal
from launchers.delivery import finish as finish_module
from launchers.delivery.finish import LOG_BYTES, finish, main
from launchers.delivery.predictor import _load_pyfunc
from launchers.delivery.store import StoreError, opened
from launchers.delivery.tracking import ensure_runs
from launchers.run_folder.provenance import digest_of
from launchers.run_folder.record import Run, read_json, read_lines, write_json
from launchers.search.study import Study
from sweeps import comparable
from tests.launchers.tracked import card, dataset, dies_at, end, fake_export, history, make_run, spool, steps
from tests.launchers.tried import make_search, search_of, start, tried

WIDTHS: list[dict[str, Any]] = [{"model.width": 1}, {"model.width": 2}, {"model.width": 3}]


def _store(run: Run) -> Any:
    tracking = ensure_runs(run)
    assert tracking is not None
    return opened(tracking.uri, run.id), tracking


def test_finish_one_member_writes_result_and_closes_the_run(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    spool(run, steps([1, 2]))
    end(run, **{"val/accuracy": 0.9, "val/loss": "nan"})

    result = finish(run)

    store, tracking = _store(run)
    assert result == read_json(run.result)
    assert result == {
        "best_member": 0,
        "metrics": {"val/accuracy": 0.9, "val/loss": "nan"},
        "objective": {"metric": "val/accuracy", "goal": "maximize", "value": 0.9},
        "members": {"SUCCEEDED": 1},
        "mlflow": {
            "uri": tracking.uri,
            "experiment": "digits",
            "run_id": tracking.runs[0],
            "best_run_id": tracking.runs[0],
        },
        "model": None,
    }
    with store as client:
        seen = client.get_run(tracking.runs[0])
        files = {f.path for f in client.list_artifacts(tracking.runs[0])}
        logs = {f.path for f in client.list_artifacts(tracking.runs[0], "logs")}
    assert (seen.info.status, seen.info.end_time) == ("FINISHED", 1_800_000_060_000)
    assert files == {"spec.json", "provenance.json", "outcome.json", "logs"}
    assert logs == {"logs/rank-0.log"}


def test_finish_kind_none_writes_result_alone(tmp_path: Path) -> None:
    run = make_run(tmp_path, fresh=True, kind="none")
    end(run, **{"val/accuracy": 0.9})

    result = finish(run)

    assert (result["best_member"], result["mlflow"]) == (0, None)
    assert not (tmp_path / "mlflow.db").exists()


def test_finish_array_closes_each_run_and_sums_up_in_the_parent(tmp_path: Path) -> None:
    run = make_run(tmp_path, [*WIDTHS, {"model.width": 4}])
    end(run, 0, **{"val/accuracy": 0.8, "val/loss": 0.5})
    end(run, 1, state="FAILED")
    end(run, 2, state="CANCELLED")
    run.member(3).path.rmdir()  # never started: nothing to say of it in the store

    result = finish(run)

    store, tracking = _store(run)
    assert set(tracking.runs) == {0, 1, 2}
    assert result["members"] == {"SUCCEEDED": 1, "FAILED": 2, "CANCELLED": 1}
    assert result["mlflow"]["run_id"] == tracking.parent_run_id
    with store as client:
        statuses = [client.get_run(tracking.runs[i]).info.status for i in range(3)]
        parent = client.get_run(tracking.parent_run_id)
    assert statuses == ["FINISHED", "FAILED", "KILLED"]
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["val/accuracy"] == 0.8
    assert parent.data.metrics["members/failed"] == 2
    assert parent.data.tags["fairlead.best_member"] == "0"


@pytest.mark.parametrize(
    ("goal", "values", "best"),
    [
        ("maximize", [0.1, 0.9, 0.9], 1),
        ("minimize", [0.5, 0.9, 0.2], 2),
        ("maximize", ["nan", 0.2, "inf"], 1),
        ("minimize", ["nan", "nan", "-inf"], None),
        ("maximize", [None, 0.1, None], 1),
    ],
)
def test_finish_best_member_is_finite_and_first_among_equals(
    tmp_path: Path, goal: str, values: list[Any], best: int | None
) -> None:
    run = make_run(tmp_path, WIDTHS, fresh=True, kind="none")
    document = read_json(run.spec)
    write_json(run.spec, {**document, "objective": {"metric": "val/accuracy", "goal": goal}})
    for member, value in enumerate(values):
        end(run, member, **({} if value is None else {"val/accuracy": value}))

    assert finish(run)["best_member"] == best


def test_finish_no_member_succeeded_has_no_best(tmp_path: Path) -> None:
    run = make_run(tmp_path, WIDTHS, register="digits")
    end(run, 0, state="FAILED")
    write_json(run.cancelled, {})

    result = finish(run)

    store, tracking = _store(run)
    assert (result["best_member"], result["model"], result["metrics"]) == (None, None, {})
    assert result["members"] == {"FAILED": 1, "CANCELLED": 2}
    with store as client:
        assert client.get_run(tracking.parent_run_id).info.status == "KILLED"
        assert client.search_registered_models() == []


def test_finish_long_log_keeps_its_end(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    end(run)
    log = run.member(0).attempts()[0].rank_log(0)
    log.write_text("".join(f"line {i}\n" for i in range(200_000)))

    finish(run)

    (kept,) = (tmp_path / "mlartifacts").rglob("rank-0.log")
    lines = kept.read_text().splitlines()
    assert lines[-1] == "line 199999"
    assert lines[0].startswith("[the first ")
    assert kept.stat().st_size <= LOG_BYTES + 200


def test_finish_profile_goes_along_and_a_trace_that_is_too_large_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finish_module, "PROFILE_BYTES", 1000)
    run = make_run(tmp_path)
    end(run, attempt=1)
    folder = run.member(0).attempts()[0].path / "profile"
    folder.mkdir()
    for name, size in [
        ("summary.json", 2),
        ("summary.md", 9),
        ("rank-0.trace.json.gz", 989),
        ("rank-1.trace.json.gz", 1),
    ]:
        (folder / name).write_bytes(b"x" * size)
    end(run, attempt=2)  # so short that it has none

    finish(run)

    (kept,) = (tmp_path / "mlartifacts").rglob("profile")
    assert {p.name for p in kept.iterdir()} == {"summary.json", "summary.md", "rank-0.trace.json.gz", "left_out.txt"}
    said = (kept / "left_out.txt").read_text()
    assert said == f"too large for the tracking store, so they are in {folder}: rank-1.trace.json.gz\n"


def test_finish_registers_the_best_once_with_its_origin(tmp_path: Path) -> None:
    run = make_run(tmp_path, WIDTHS, register="digits", alias="champion")
    for member in range(3):
        spool(run, [dataset("train", "d" * 32), *steps([1])], member)
        end(run, member, **{"val/accuracy": member})
        fake_export(run, member)

    results = [finish(run), finish(run)]

    store, tracking = _store(run)
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

    store, _ = _store(jobs[0])
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

    store, tracking = _store(run)
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


def test_finish_that_waited_for_the_store_undoes_nothing_of_one_that_found_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, register="digits")
    spool(run, steps([1]))
    end(run, **{"val/accuracy": 0.7})
    fake_export(run)
    whole = []

    def away(_: object) -> None:
        monkeypatch.undo()
        whole.append(finish(run))  # `sync`, while the finish step's own try runs out
        raise StoreError("the store did not answer", "", "")

    monkeypatch.setattr(finish_module, "_complete", away)

    late = finish(run)

    assert late == whole[0] == read_json(run.result)
    assert late["model"]["version"] == "1"


def test_finish_store_away_says_what_is_known_and_completes_later(tmp_path: Path) -> None:
    run = make_run(tmp_path, register="digits")
    spool(run, steps([1]))
    end(run, **{"val/accuracy": 0.7})
    fake_export(run)
    database = tmp_path / "mlflow.db"
    whole = database.read_bytes()
    database.write_bytes(b"not a database")

    away = finish(run)
    database.write_bytes(whole)
    back = finish(run)
    database.write_bytes(b"not a database")
    away_again = finish(run)

    assert (away["undelivered"], away["best_member"], away["model"]) == (True, 0, None)
    assert away["mlflow"]["run_id"] is None
    assert away["mlflow"]["uri"] == back["mlflow"]["uri"]
    assert len(away["problem"].splitlines()) == 3
    assert "undelivered" not in back
    assert back["model"]["version"] == "1"
    assert away_again["model"] == back["model"]


def test_finish_killed_anywhere_and_again_is_complete_and_nothing_twice(tmp_path: Path) -> None:
    run = make_run(tmp_path, WIDTHS[:2], register="digits")
    ensure_runs(run)
    for member in (0, 1):
        spool(run, [dataset(), *steps(range(50))], member)
        end(run, member, **{"val/accuracy": member})
        fake_export(run, member)
    events = ("sqlite3.connect", "os.rename", "shutil.copyfile", "shutil.copytree", "shutil.rmtree", "os.mkdir")

    number, deaths = 2, 0
    while dies_at(number, lambda: finish(run), events):
        assert not run.result.exists()
        deaths, number = deaths + 1, number + 3
    result = finish(run)

    assert deaths >= 10
    assert result["model"]["version"] == "1"
    _assert_complete(run)


def test_finish_process_killed_at_random_and_again_is_complete(tmp_path: Path) -> None:
    run = make_run(tmp_path, WIDTHS[:2], register="digits")
    for member in (0, 1):
        spool(run, [dataset(), *steps(range(50))], member)
        end(run, member, **{"val/accuracy": member})
        fake_export(run, member)

    process = subprocess.Popen([sys.executable, "-m", "launchers.delivery.finish", str(run.path)])
    while not run.tracking.exists():
        time.sleep(0.01)
    time.sleep(random.uniform(0, 0.5))
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = subprocess.run(
        [sys.executable, "-m", "launchers.delivery.finish", str(run.path)], capture_output=True, text=True, check=True
    )

    assert done.stdout + done.stderr == ""
    _assert_complete(run)


def _assert_complete(run: Run) -> None:
    """Two members of 50 steps each, the second one registered."""
    store, tracking = _store(run)
    assert len(history(run, "train/loss", 0)) == len(history(run, "train/loss", 1)) == 50
    with store as client:
        seen = client.search_runs([tracking.experiment_id])
        (version,) = client.search_model_versions("name = 'digits'")
        (logged,) = client.search_logged_models([tracking.experiment_id])
        outputs = client.get_run(tracking.runs[1]).outputs.model_outputs
        parent = client.get_metric_history(tracking.parent_run_id, "val/accuracy")
        inputs = client.get_run(tracking.runs[1]).inputs.dataset_inputs
        assert client.get_model_version_by_alias("digits", "newest").version == version.version
    assert [r.info.status for r in seen] == ["FINISHED"] * 3
    assert (logged.status, len(outputs), len(parent), len(inputs)) == ("READY", 1, 1, 1)


# --- searches and grids -------------------------------------------------------------------------------

POINT = {"optimizer.lr": 0.01, "model.width": 8}


def _searched(folder: Path, **tracking: Any) -> Run:
    """A search of six: the best report is trial 1's, the last one 2's; one pruned, one failed, one never needed."""
    run = make_search(folder, search_of(6), **tracking)
    tried(run, 0, POINT, {"val/accuracy": 0.3})
    tried(run, 1, {**POINT, "model.width": 16}, {"val/accuracy": 0.9}, {"val/accuracy": 0.6})
    tried(run, 2, POINT, {"val/accuracy": 0.4}, {"val/accuracy": 0.8})
    tried(run, 3, POINT, {"val/accuracy": 0.1}, state="PRUNED", message="below the median")
    tried(run, 4, POINT, state="FAILED", cause="user_error", message="ValueError: no")
    write_json(run.path / "study" / "over.json", {"why": "30 minutes have passed", "t": 0})
    for member in (1, 2):
        fake_export(run, member)
    return run


def test_finish_search_says_what_it_found_and_why_it_is_over(tmp_path: Path) -> None:
    run = _searched(tmp_path, fresh=True, kind="none")

    result = finish(run)

    search = result["search"]
    assert (result["best_member"], result["metrics"]) == (1, {"val/accuracy": 0.6})
    assert result["objective"] == {"metric": "val/accuracy", "goal": "maximize", "value": 0.9}
    assert result["members"] == {"SUCCEEDED": 3, "PRUNED": 1, "FAILED": 1, "SKIPPED": 1}
    assert search["trials"] == {"SUCCEEDED": 3, "PRUNED": 1, "FAILED": 1}
    assert search["best"] == {
        "trial": 1,
        "state": "SUCCEEDED",
        "values": {"val/accuracy": 0.9},
        "point": {"optimizer.lr": 0.01, "model.width": 16},
    }
    assert search["budget"]["trials"] == {"used": 5, "limit": 6}
    assert (search["over"], "pareto" in search) == ("30 minutes have passed", False)
    assert result["report"] == str(run.path / "report.html")
    assert "Over: 30 minutes have passed" in (run.path / "report.html").read_text()


def test_finish_search_is_in_the_store_with_the_lineage_of_its_model(tmp_path: Path) -> None:
    run = _searched(tmp_path, register="digits")

    results = [finish(run), finish(run)]

    store, tracking = _store(run)
    digest = comparable.digest(search_of(6), Goal(metric="val/accuracy", goal="maximize"))
    assert set(tracking.runs) == {0, 1, 2, 3, 4}
    assert [r["model"]["version"] for r in results] == ["1", "1"]
    with store as client:
        (version,) = client.search_model_versions("name = 'digits'")
        children = [client.get_run(tracking.runs[i]) for i in range(5)]
        parent = client.get_run(tracking.parent_run_id)
        values = client.get_metric_history(tracking.parent_run_id, "objective/val/accuracy")
    assert version.run_id == tracking.runs[1]
    lineage = {
        "fairlead.study": "digits",
        "fairlead.space_digest": digest,
        "fairlead.trial": "1",
        "fairlead.objective.val/accuracy": "0.9",
        "fairlead.job": "digits-1",
        "fairlead.member": "1",
    }
    assert lineage.items() <= version.tags.items()
    assert [c.info.status for c in children] == ["FINISHED"] * 4 + ["FAILED"]
    states = ["SUCCEEDED", "SUCCEEDED", "SUCCEEDED", "PRUNED", "FAILED"]
    assert [c.data.tags["fairlead.state"] for c in children] == states
    assert [c.data.metrics.get("objective/val/accuracy") for c in children] == [0.3, 0.9, 0.8, 0.1, None]
    assert children[1].data.params["model.width"] == "16"
    assert [(v.value, v.step) for v in values] == [(0.9, 0)]
    wanted = {"trials/succeeded": 3, "trials/pruned": 1, "trials/lost": 0, "budget/trials": 5, "members/skipped": 1}
    assert wanted.items() <= parent.data.metrics.items()
    tags = {"fairlead.study": "digits", "fairlead.space_digest": digest, "fairlead.over": "30 minutes have passed"}
    assert {**tags, "fairlead.best_member": "1", "fairlead.members": "6"}.items() <= parent.data.tags.items()


def test_finish_search_with_several_goals_has_a_pareto_set(tmp_path: Path) -> None:
    goals = (Goal(metric="val/accuracy", goal="maximize"), Goal(metric="seconds", goal="minimize"))
    run = make_search(tmp_path, search_of(objectives=goals), fresh=True, kind="none")
    for i, (accuracy, seconds) in enumerate([(0.9, 30), (0.8, 10), (0.7, 20)]):
        tried(run, i, POINT, {"val/accuracy": accuracy, "seconds": seconds})

    result = finish(run)

    assert (result["best_member"], result["search"]["pareto"]) == (0, [0, 1])
    assert result["search"]["best"]["values"] == {"val/accuracy": 0.9, "seconds": 30}


def test_finish_search_of_which_nothing_succeeded_registers_nothing(tmp_path: Path) -> None:
    run = make_search(tmp_path, search_of(), register="digits")
    tried(run, 0, POINT, {"val/accuracy": 0.1}, state="PRUNED")
    start(run, 1, POINT)
    write_json(run.cancelled, {"t": 0})

    result = finish(run)

    assert (result["best_member"], result["model"]) == (0, None)
    assert result["members"] == {"PRUNED": 1, "CANCELLED": 3}
    assert result["search"]["trials"] == {"PRUNED": 1, "LOST": 1}
    assert result["search"]["over"] == "cancelled by the user"


def test_finish_search_that_was_extended_counts_and_chooses_anew(tmp_path: Path) -> None:
    run = _searched(tmp_path, register="digits")
    first = finish(run)
    run.result.rename(run.path / "result.0.json")
    tried(run, 5, POINT, {"val/accuracy": 0.95})
    fake_export(run, 5, b"better")

    second = finish(run)

    store, tracking = _store(run)
    assert (first["model"]["version"], second["model"]["version"], second["best_member"]) == ("1", "2", 5)
    with store as client:
        parent = client.get_run(tracking.parent_run_id)
    assert parent.data.metrics["objective/val/accuracy"] == 0.95
    assert parent.data.metrics["trials/succeeded"] == 4


def test_finish_search_leaves_its_trials_to_whoever_looks_later(tmp_path: Path) -> None:
    run = _searched(tmp_path, fresh=True, kind="none")

    finish(run)
    for member in range(5):
        (run.member(member).path / "attempt-0" / "metrics.jsonl").unlink(missing_ok=True)

    trials = Study(run).trials()
    assert [t.state for t in trials] == ["SUCCEEDED", "SUCCEEDED", "SUCCEEDED", "PRUNED", "FAILED"]
    assert len(trials[1].reports) == 2


def test_finish_report_that_cannot_be_written_fails_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = _searched(tmp_path, fresh=True, kind="none")
    (run.path / "report.html").mkdir()

    assert main([str(run.path)]) == 0

    result = read_json(run.result)
    assert (result["best_member"], result["report"]) == (1, None)
    assert result["report_problem"].startswith("the report cannot be written")
    assert "the report was not written" in capsys.readouterr().err


def test_finish_grid_has_a_report(tmp_path: Path) -> None:
    run = make_run(tmp_path, WIDTHS, fresh=True, kind="none")
    for member in range(3):
        end(run, member, **{"val/accuracy": member})

    result = finish(run)

    assert (result["best_member"], result["report"]) == (2, str(run.path / "report.html"))
    assert "search" not in result


TRAIN = """
import hashlib, sys, torch
from pathlib import Path
from safetensors.torch import save_file
torch.manual_seed(0)
folder = Path(sys.argv[1])
folder.mkdir(parents=True)
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).eval()
example = torch.rand(2, 1, 4, 4)
exported = torch.export.export(model, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
torch.export.save(exported, folder / "model.pt2")
save_file(model.state_dict(), folder / "model.safetensors")
x = torch.rand(5, 1, 4, 4)
save_file({"x": x, "y": model(x).detach()}, folder.parent / "expected.safetensors")
"""

PREDICT = """
import hashlib, sys
def watch(event, arguments):
    if event == "pickle.find_class" and not arguments[0].startswith(("torch", "collections")):
        print("unpickled", *arguments)
sys.addaudithook(watch)
import mlflow, numpy
from safetensors.numpy import load_file
expected = load_file(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/digits@newest")
assert numpy.allclose(model.predict(expected["x"]), expected["y"], atol=1e-6)
assert model.predict(expected["x"][:1]).shape == (1, 3)
assert "launchers" not in sys.modules and "conf" not in sys.modules
try:
    model.predict(expected["x"][:, :, :2])
except Exception as e:
    print(type(e).__name__)
print(model.metadata.signature.inputs.inputs[0].shape)
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real model of torch's with a dynamic batch; made in a process of its own, as torch is slow to fork."""
    folder = tmp_path_factory.mktemp("export") / "model"
    subprocess.run([sys.executable, "-c", TRAIN, str(folder)], check=True, capture_output=True)
    digests = {
        name: "sha256:" + hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in ("model.pt2", "model.safetensors")
    }
    example = [[[[0.0] * 4] * 4]] * 2
    write_json(folder / "card.json", {**card(digests, (-1, 1, 4, 4)), "input_example": example})
    return folder


def test_registered_model_predicts_in_a_process_without_our_code(tmp_path: Path, exported: Path) -> None:
    run = make_run(tmp_path, register="digits")
    end(run, **{"val/accuracy": 0.7})
    run.member(0).model.symlink_to(exported)
    result = finish(run)
    env = {**os.environ, "MLFLOW_TRACKING_URI": result["mlflow"]["uri"], "MLFLOW_DISABLE_TELEMETRY": "true"}
    env.pop("PYTHONPATH", None)

    done = subprocess.run(
        [sys.executable, "-P", "-c", PREDICT, str(exported.parent / "expected.safetensors")],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=env,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["MlflowException", "(-1, 1, 4, 4)"]


def test_predictor_refuses_an_export_that_is_not_the_cards(tmp_path: Path) -> None:
    (tmp_path / "model.pt2").write_bytes(b"other")
    (tmp_path / "card.json").write_text(json.dumps(card({"model.pt2": "sha256:" + "0" * 64})))

    with pytest.raises(ValueError, match="is not the file that was exported"):
        _load_pyfunc(str(tmp_path))
