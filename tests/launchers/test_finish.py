"""What the finish step writes and puts into the store: the result, the best member, logs and profiles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from launchers.delivery import finish as finish_module
from launchers.delivery.finish import LOG_BYTES, finish
from launchers.run_folder.record import read_json, write_json
from tests.launchers.delivered import WIDTHS, store_of
from tests.launchers.tracked import end, make_run, spool, steps


def test_finish_one_member_writes_result_and_closes_the_run(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    spool(run, steps([1, 2]))
    end(run, **{"val/accuracy": 0.9, "val/loss": "nan"})

    result = finish(run)

    store, tracking = store_of(run)
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

    store, tracking = store_of(run)
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

    store, tracking = store_of(run)
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
