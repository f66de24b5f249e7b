"""A finish step that waits for the store, misses it or is killed: complete in the end, and nothing is there twice."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launchers.delivery import finish as finish_module
from launchers.delivery.finish import finish
from launchers.delivery.store import StoreError
from launchers.delivery.tracking import ensure_runs
from launchers.run_folder.record import Run, read_json
from tests.launchers.delivered import WIDTHS, store_of
from tests.launchers.tracked import dataset, dies_at, end, fake_export, history, make_run, spool, steps


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
    store, tracking = store_of(run)
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
