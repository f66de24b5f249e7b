"""Whether a member whose supervisor was killed in a held allocation waits for another turn."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from launchers.queue import in_pool
from launchers.queue.in_pool import InPool
from launchers.run_folder.record import Run, make_private, write_json
from tests.launchers.pooled import make_pool
from tests.plans import plan_of_run, pool_plan


@pytest.fixture
def places(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> InPool:
    """Of a pool of one node, in a Slurm that knows of no step."""
    monkeypatch.setattr(in_pool, "steps_of", lambda _job, _name: [])
    pool = make_pool(workdir / "pool")
    held = {"slurm_job_id": "7", "nodes": {"n1": {"cpus": 2, "mem_mb": 4000, "gpus": 0}}, "ends_at": 9e9}
    write_json(pool.path / "held.json", held)
    run = Run(make_private(workdir / "runs/d-1"))
    plan = plan_of_run(run, pool_plan(("true",)), launcher="pool", max_requeues=2)
    write_json(run.plan, {})
    return InPool(run, [plan], pool)


def killed(places: InPool, saved: str | None = None) -> bool:
    """One turn, whose supervisor is killed after its member saved."""
    member = places.run.member(0)
    places.saved[0] = in_pool.saved_by(member)
    make_private(member.path / f"attempt-{len(member.attempts())}")
    if saved:
        (make_private(member.checkpoints) / saved).touch()
    return places.again(0, 0, -9)


def test_again_as_often_in_a_row_as_members_go_back_to_the_queue(places: InPool) -> None:
    assert [killed(places) for _ in range(3)] == [True, True, False]


def test_again_is_counted_anew_after_each_new_checkpoint(places: InPool) -> None:
    assert all(killed(places, f"step-{n}") for n in range(5))
    assert [killed(places) for _ in range(2)] == [True, False]


def test_again_whoever_gives_way_to_others_as_often_as_it_does(places: InPool) -> None:
    assert all(places.again(0, 0, os.EX_TEMPFAIL) for _ in range(5))
