"""Real runs that are bound by one thing each: the summary names it, and says what to change."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from typing import Any

import pytest

from conf.schema import Component
from conf.train_schema import Profile
from tests.trainer.ranks import Member, own

Make = Callable[..., Member]
LOOK = Profile(wait=2, warmup=1, active=3)


def summary(run: Member) -> dict[str, Any]:
    return json.loads((run.attempt / "profile" / "summary.json").read_text())


def trace(run: Member, rank: int = 0) -> list[dict[str, Any]]:
    with gzip.open(run.attempt / "profile" / f"rank-{rank}.trace.json.gz") as f:
        return json.load(f)["traceEvents"]


def test_profile_of_a_run_that_waits_for_data_says_so(member: Make) -> None:
    run = member(data=own("own.blobs", rows=64, pause_s=0.004), train={"max_steps": 10, "workers": 0, "profile": LOOK})

    assert run.run() == [0], run.log()

    found = summary(run)
    assert found["bottleneck"] == "data"
    assert found["share"] > 0.5
    assert found["advice"].startswith("raise train.workers (now 0)")
    assert found["attempt"]["steps"] == 10
    assert (found["profiled"]["first_step"], found["profiled"]["last_step"]) == (4, 6)
    assert sum(found["shares"].values()) == pytest.approx(1, abs=1e-3)
    assert "bound by data: raise train.workers (now 0)" in run.log()
    assert (run.attempt / "profile" / "summary.md").read_text().startswith("# Bound by data\n")
    assert {"aten::addmm", "fairlead::data"} <= {event.get("name") for event in trace(run)}


def test_profile_of_ranks_that_exchange_more_than_they_compute_says_so(member: Make) -> None:
    run = member(
        ranks=2,
        model=own("own.Deep", depth=60),
        engine=Component(kind="ddp", options={"bucket_mb": 0.0001}),  # each layer's gradients on their own
        optimizer=own("torch.optim.SGD", lr=0.01),
        train={"max_steps": 20, "batch_size": 2, "profile": Profile(wait=2, ranks="all"), "checkpoint_every_steps": 20},
    )

    assert run.run() == [0, 0], run.log()

    found = summary(run)
    assert found["bottleneck"] == "communication"
    assert "train.batch_size (now 2)" in found["advice"]
    assert set(found["ranks"]) == {"0", "1"}
    assert found["profiled"]["shares"]["communication"] > 0.3
    assert any(operation["name"].startswith("gloo:") for operation in found["operations"])
    assert trace(run, 1)


def test_profile_of_a_run_that_computes_says_so(member: Make) -> None:
    run = member(
        data=Component(kind="sklearn", options={"set": "digits"}),
        model=Component(kind="cnn", options={"width": 64}),
        train={"max_steps": 8, "batch_size": 256, "profile": LOOK},
    )

    assert run.run() == [0], run.log()

    found = summary(run)
    assert found["bottleneck"] == "compute"
    assert found["advice"].startswith("computing is what a run is for")
    assert found["operations"][0]["name"].startswith("aten::")


def test_profile_of_a_run_that_saves_all_the_time_says_so_also_if_it_ends_early(member: Make) -> None:
    train = {"max_steps": 5, "checkpoint_every_steps": 1, "checkpoint_in_background": False, "batch_size": 2}
    run = member(model=own("own.Net", width=100_000), train={**train, "profile": LOOK})

    assert run.run() == [0], run.log()

    found = summary(run)
    assert found["bottleneck"] == "checkpoint"
    assert found["advice"].startswith("train.checkpoint_in_background=true")
    assert (found["profiled"]["first_step"], found["profiled"]["last_step"]) == (4, 5)


def test_profile_that_no_step_is_left_for_is_a_warning(member: Make) -> None:
    run = member(train={"max_steps": 3, "profile": LOOK})

    assert run.run() == [0], run.log()

    assert "no profile: 3 steps were made, and it begins after 3 (train.profile.wait, warmup)" in run.log()
    assert not (run.attempt / "profile").exists()


def test_profile_nobody_asked_for_is_not_imported(member: Make) -> None:
    run = member(train={"max_steps": 2})
    run.program = ("-X", "importtime", "-m", "trainer")

    assert run.run() == [0], run.log()

    assert "trainer.loop\n" in run.log()
    assert "trainer.profil" not in run.log()


@pytest.mark.parametrize(
    ("engine", "exchange"),
    [
        (Component(kind="ddp"), "c10d::allreduce_"),
        (Component(kind="fsdp"), "c10d::_reduce_scatter_base_"),
        (Component(kind="deepspeed", options={"stage": 1}), "c10d::allreduce_"),
    ],
    ids=["ddp", "fsdp", "zero-1"],
)
def test_gradients_are_exchanged_once_a_step_in_however_many_micro_batches(
    member: Make, engine: Component, exchange: str
) -> None:
    exchanged = {}
    for accumulate in (1, 4):
        train = {"max_steps": 7, "batch_size": 16, "accumulate": accumulate, "profile": LOOK}
        run = member(f"in-{accumulate}", ranks=2, engine=engine, train=train)

        assert run.run() == [0, 0], run.log()

        exchanged[accumulate] = [event.get("name") for event in trace(run)].count(exchange)
    assert exchanged[1] == exchanged[4] >= 3
