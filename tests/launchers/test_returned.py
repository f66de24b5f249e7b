"""What the finish step queues again: members of a population that gave their allocations back for want of a place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from launchers.jobs.retry import retry
from launchers.jobs.returned import queue_again
from launchers.jobs.status import status_of
from launchers.launch import Request, checked, submit
from launchers.run_folder.record import Run, gave_up, make_private, mark_ended, write_json

POPULATION = {
    "kind": "search",
    "algorithm": "population",
    "trials": 8,
    "population": {"size": 4},
    "parameters": {"optimizer.lr": {"type": "double", "min": 1e-4, "max": 1e-2, "scale": "log"}},
}


@pytest.fixture
def run(cluster: Any, workdir: Path) -> Run:
    """A population that Slurm has let go of: its first five trials have ended, three members found no place."""
    (workdir / "mine" / "sweep").mkdir(parents=True)
    (workdir / "mine" / "sweep" / "p.yaml").write_text(json.dumps(POPULATION))
    words = ("launcher=slurm", "machine=cpu-small", "tracking=none", "name=d", "sweep=p", "train.batch_size=64")
    run, plan = submit(checked(Request(overrides=words, config_dirs=(workdir / "mine",))), print)
    assert plan.max_parallel == 4
    cluster.put("squeue", "pass")
    cluster.put("sacct", cluster.texts["sacct"].replace('j["id"], j["name"]', 'f"{j[\'id\']}_[0-7]", j["name"]'))
    for index in range(5):
        attempt = make_private(run.member(index).path / "attempt-0")
        write_json(run.member(index).point, {"point": {}, "sections": {}, "asked": 1.0, "reserved_gpu_hours": 0})
        write_json(attempt / "outcome.json", {"state": "SUCCEEDED", "cause": "", "message": "", "ended": 9.0})
        mark_ended(run, index, 0, "SUCCEEDED")
    make_private(gave_up(run, 5).parent)
    for index in (5, 6, 7):
        write_json(gave_up(run, index), {"why": "all places are taken"})
    return run


def queued(run: Run) -> list[str]:
    lines = (run.path.parent.parent / "queue.jsonl").read_text().splitlines()
    return [json.loads(line)["array"] for line in lines]


def test_members_without_a_place_are_queued_again_and_a_finish_step_behind_them(run: Run) -> None:
    assert queue_again(run) == [5, 6, 7]

    assert queued(run) == ["0-7%4", "", "5-7%4", ""]
    assert queue_again(run) == [], "once for each time that they gave up"


@pytest.mark.parametrize("why", ["over", "cancelled"])
def test_nothing_is_queued_again_once_it_is_over(run: Run, why: str) -> None:
    write_json({"over": run.path / "study" / "over.json", "cancelled": run.cancelled}[why], {"why": "x", "t": 1.0})

    assert queue_again(run) == []
    assert len(queued(run)) == 2


def test_until_then_they_wait_and_are_not_lost(run: Run) -> None:
    now = status_of(run)

    assert [m.state for m in now.members] == ["SUCCEEDED"] * 5 + ["QUEUED"] * 3
    assert "waits for a place" in now.members[7].message


def test_members_that_never_asked_are_not_queued_again(run: Run) -> None:
    """They were cancelled in Slurm, or died before they could: the same would happen again, for ever."""
    for index in (5, 6, 7):
        gave_up(run, index).unlink()

    assert queue_again(run) == []


def test_retry_leaves_out_whose_place_is_taken(run: Run) -> None:
    for index in (5, 6, 7):
        gave_up(run, index).unlink()
    for index, parent in ((3, None), (4, 0)):
        mark_ended(run, index, 0, "FAILED")
        (run.path / "ended" / f"{index}.0.SUCCEEDED").unlink()
        claim = {"point": {}, "sections": {}, "asked": 1.0, "reserved_gpu_hours": 0}
        write_json(run.member(index).point, claim | ({} if parent is None else {"parent": parent, "follows": 3}))

    assert retry(run, None) == [4, 5, 6, 7]
