"""What the verbs print as JSON: one document, or an object for each line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from launchers import cli
from launchers.run_folder.record import make_private, write_json
from tests.conftest import Command
from tests.launchers.over import ended_run
from tests.launchers.tried import accuracies, make_search, search_of


def test_status_as_json_is_a_document(workdir: Path, capsys: Any) -> None:
    run = ended_run(workdir, state="FAILED")

    assert cli.main(["status", "--json"]) == 0

    document = json.loads(capsys.readouterr().out)
    assert set(document) == {"job", "state", "run_dir", "slurm_ids", "finished", "reason", "counts", "members"} | {
        *("launched", "ended", "goodput", "changes")
    }
    assert (document["state"], document["run_dir"], document["counts"]) == ("FAILED", str(run.path), {"FAILED": 1})
    assert document["members"][0]["message"] == "KeyError: 'ü'"


def test_status_of_a_search_as_json_says_how_it_stands(workdir: Path, capsys: Any) -> None:
    run = make_search(workdir / "runs", search_of(3), fresh=True, kind="none")
    accuracies(run, [0.5, 0.7])

    assert cli.main(["status", "--json"]) == 0

    search = json.loads(capsys.readouterr().out)["search"]
    assert (search["best"]["trial"], search["trials"]) == (1, {"SUCCEEDED": 2})
    assert (run.id, search["budget"]["trials"]) == ("digits-1", {"used": 2, "limit": 3})


@pytest.mark.parametrize(("best", "code"), [(None, 1), ("PRUNED", 1), ("SUCCEEDED", 0)])
def test_wait_for_a_search_is_well_when_it_found_something(
    workdir: Path, capsys: Any, best: str | None, code: int
) -> None:
    run = make_search(workdir / "runs", search_of(2), fresh=True, kind="none")
    accuracies(run, [0.5, None])
    found = {"trial": 0, "state": best, "values": {"val/accuracy": 0.5}, "point": {}} if best else None
    budget = {"trials": {"used": 2, "limit": 2}, "gpu_hours": {"used": 0, "reserved": 0, "limit": None}}
    search = {
        "best": found,
        "trials": {},
        "slots": None,
        "over": "it is",
        "budget": {**budget, "wall_min": {"used": 1, "limit": 9}},
    }
    write_json(run.result, {"best_member": 0, "metrics": {}, "members": {}, "search": search})

    assert cli.main(["wait"]) == code

    assert "  over         it is" in capsys.readouterr().out


def test_list_as_json_is_every_job(workdir: Path, capsys: Any) -> None:
    ended_run(workdir, "a-1")
    ended_run(workdir, "b-1", state="CANCELLED")

    assert cli.main(["list", "--json"]) == 0

    rows = json.loads(capsys.readouterr().out)
    assert {d["job"]: d["state"] for d in rows} == {"a-1": "SUCCEEDED", "b-1": "CANCELLED"}


def test_list_as_json_has_times_that_any_program_reads(workdir: Path, capsys: Any) -> None:
    run = ended_run(workdir, "a-1")
    write_json(run.provenance, {"created": "2026-01-02T03:04:05+00:00"})
    make_private(run.ended)
    os.utime(run.ended, (0, 1_767_323_050))

    assert cli.main(["list", "--json"]) == 0

    (row,) = json.loads(capsys.readouterr().out)
    assert (row["launched"], row["ended"]) == ("2026-01-02T03:04:05+00:00", "2026-01-02T03:04:10+00:00")


@pytest.mark.parametrize(
    "overrides", [[], ["launcher=slurm", "machine=cpu-small", "seed=1,2,3", "-m", "--member", "2"]]
)
def test_plan_as_json_is_a_document(workdir: Path, fairlead: Command, overrides: list[str]) -> None:
    done = fairlead("plan", "--json", *overrides)

    document = json.loads(done.stdout)
    assert {"plan", "step"} <= set(document)
    assert list(document["scripts"]) == (["job.sbatch"] if overrides else [])
    assert document["step"]["env"]["FAIRLEAD_MEMBER"] == ("2" if overrides else "0")
    assert list(workdir.iterdir()) == []


def test_logs_as_json_are_an_object_for_each_line(workdir: Path, capsys: Any) -> None:
    run = ended_run(workdir, state="FAILED")
    (run.member(0).path / "attempt-0" / "rank-1.log").write_text("other\n")

    assert cli.main(["logs", "--json"]) == 0

    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows == [
        {"member": 0, "rank": 0, "line": "hello"},
        {"member": 0, "rank": 0, "line": "wörld"},
        {"member": 0, "rank": 1, "line": "other"},
    ]
    assert cli.main(["logs", "--errors", "--json"]) == 0
    assert [json.loads(line)["error"] for line in capsys.readouterr().out.splitlines()][1] == "    boom"


def test_logs_of_a_chosen_member_and_rank_as_json_name_them(workdir: Path, capsys: Any) -> None:
    run = make_search(workdir / "runs", search_of(3), fresh=True, kind="none")
    accuracies(run, [0.5, 0.7])
    (run.member(1).path / "attempt-0" / "rank-0.log").write_text("hello\n")

    assert cli.main(["logs", "--json", "--member", "1", "--rank", "0"]) == 0

    assert json.loads(capsys.readouterr().out) == {"member": 1, "rank": 0, "line": "hello"}
