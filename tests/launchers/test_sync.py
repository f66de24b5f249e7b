"""`fairlead sync`: what it brings into a real store, what it says of that, and that nothing is there twice."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from launchers import cli
from launchers.delivery.finish import finish
from launchers.delivery.store import opened
from launchers.delivery.sync import sync
from launchers.delivery.tracking import recorded
from launchers.parts import Part
from launchers.run_folder.journal import Journal
from launchers.run_folder.record import Run, locked
from launchers.show import sync_text
from tests.launchers.tracked import end, fake_export, make_run, spool, steps

WIDTHS: list[dict[str, Any]] = [{"model.width": 1}, {"model.width": 2}]
MODEL = {"name": "digits", "version": "1", "alias": "newest", "uri": "models:/digits@newest"}


def ended_job(folder: Path, members: int = 1) -> Run:
    """Its last member is the best. More than one draw a report when they end, which takes a second."""
    run = make_run(folder, WIDTHS[:members], register="digits")
    submitted(run, members)
    for member in range(members):
        spool(run, steps(range(1, 4 + member)), member)
        end(run, member, **{"val/accuracy": 0.5 + member / 10})
        fake_export(run, member)
    return run


def submitted(run: Run, members: int) -> None:
    journal = Journal(run)
    journal.reached(journal.intend(Part.whole(*range(members))).intent, "local")


def versions(run: Run) -> list[str]:
    tracking = recorded(run)
    assert tracking is not None
    with opened(tracking.uri, run.id) as client:
        models = client.search_logged_models([tracking.experiment_id])
        assert len(models) == 1
        return [str(v.version) for v in client.search_model_versions("name = 'digits'")]


def test_sync_says_of_each_run_what_was_sent_and_which_model_is_there(tmp_path: Path) -> None:
    run = ended_job(tmp_path, members=2)

    first, second = sync(run), sync(run)

    tracking = recorded(run)
    assert tracking is not None
    runs = [{"member": i, "run_id": tracking.runs[i], "points": 3 + i} for i in (0, 1)]
    expected = {"job": run.id, "uri": tracking.uri, "refused": [], "model": MODEL, "problem": ""}
    assert first == {**expected, "points": 7, "runs": runs}
    assert second == {**expected, "points": 0, "runs": []}
    assert list(sync_text(first)) == [
        f"digits-1   7 new metric points in {tracking.uri}",
        f"  member 0  run {tracking.runs[0]}  3 points",
        f"  member 1  run {tracking.runs[1]}  4 points",
        "  model  digits version 1, alias newest",
    ]


def test_sync_after_the_finish_step_registers_nothing_again(tmp_path: Path) -> None:
    run = ended_job(tmp_path)
    finished = finish(run)

    said = sync(run)

    assert said["model"] == finished["model"] == MODEL
    assert said["points"] == 0
    assert versions(run) == ["1"]


def test_sync_twice_at_once_beside_a_finish_step_registers_one_version(tmp_path: Path) -> None:
    run = ended_job(tmp_path)
    words = [["launchers.cli", "sync", "--json", str(run.path)]] * 2 + [["launchers.delivery.finish", str(run.path)]]

    started = [subprocess.Popen([sys.executable, "-m", *w], stdout=subprocess.PIPE, text=True) for w in words]
    said = [process.communicate()[0] for process in started]

    assert [process.returncode for process in started] == [0, 0, 0]
    both = [json.loads(text) for text in said[:2]]
    assert [document["model"] for document in both] == [MODEL, MODEL]
    assert versions(run) == ["1"]


def test_sync_of_a_job_that_runs_registers_nothing(tmp_path: Path) -> None:
    run = make_run(tmp_path, register="digits")
    spool(run, steps([1]))

    with locked(run.change_lock):  # as a launch that is still at work
        said = sync(run)

    assert (said["points"], said["model"]) == (1, None)
    assert not run.result.exists()


def test_sync_of_a_run_that_was_deleted_in_the_store_says_so(tmp_path: Path, capsys: Any) -> None:
    run = ended_job(tmp_path)
    sync(run)
    tracking = recorded(run)
    assert tracking is not None
    with opened(tracking.uri, run.id) as client:
        client.delete_run(tracking.runs[0])
    spool(run, steps([8]))

    assert cli.main(["sync", str(run.path)]) == 0

    assert "  refused  members 0: the store takes nothing" in capsys.readouterr().out


def test_sync_of_a_damaged_export_delivers_and_says_what_is_missing(tmp_path: Path, capsys: Any) -> None:
    run = ended_job(tmp_path)
    (run.member(0).model / "model.pt2").write_bytes(b"other")

    assert cli.main(["sync", str(run.path)]) == 3

    said = capsys.readouterr().out
    assert "3 new metric points" in said
    assert "model.pt2 is not what its card says" in said


def test_sync_without_a_store_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path, fresh=True, kind="none")
    submitted(run, 1)
    end(run)

    assert cli.main(["sync", str(run.path)]) == 0

    assert capsys.readouterr().out == "digits-1   has no store (tracking is none)\n"
