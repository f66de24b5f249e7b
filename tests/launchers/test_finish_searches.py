"""What the finish step says and keeps of searches and grids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from conf.sweep_schema import Goal
from launchers.delivery.finish import finish, main
from launchers.run_folder.record import Run, read_json, write_json
from launchers.search.study import Study
from sweeps import comparable
from tests.launchers.delivered import WIDTHS, store_of
from tests.launchers.tracked import end, fake_export, make_run
from tests.launchers.tried import make_search, search_of, start, tried

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

    store, tracking = store_of(run)
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

    store, tracking = store_of(run)
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
