"""A run that changes engine, stage and number of ranks on its way; and each engine's exact return on its own layout."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from conf.schema import Component
from tests.trainer.ranks import Member, own

Make = Callable[..., Member]
STOPPED = 75
WAY: tuple[tuple[str, Mapping[str, Any], int], ...] = (
    ("ddp", {}, 2),
    ("fsdp", {"unit_parameters": 1}, 2),
    ("deepspeed", {"stage": 3}, 2),
    ("deepspeed", {"stage": 1}, 1),
    ("fsdp", {"shard_ranks": 2, "unit_parameters": 1}, 4),
    ("deepspeed", {"stage": 2}, 4),
    ("ddp", {}, 1),
)
"""Engine, options and ranks of each attempt."""


def weights(member: Member) -> dict[str, torch.Tensor]:
    return load_file(member.path / "model" / "model.safetensors")


def attempt(run: Member, engine: str, options: Mapping[str, Any], ranks: int, stop: str = "") -> None:
    """One attempt, which ends by itself or is stopped."""
    run.spec = dataclasses.replace(run.spec, engine=Component(kind=engine, options=dict(options)))
    run.ranks, run.env = ranks, {"OWN_TRAINING": stop} if stop else {}
    assert run.run() == [STOPPED if stop else 0] * ranks, "\n".join(run.log(rank) for rank in range(ranks))


def test_a_run_changes_engine_stage_and_ranks_and_ends_with_the_same_model(member: Make) -> None:
    train = {"max_steps": 6 * len(WAY), "clip_norm": 1.0}
    whole, moved = member("whole", train=train), member("moved", train=train)
    whole.start()

    for number, (engine, options, ranks) in enumerate(WAY, start=1):
        attempt(moved, engine, options, ranks, stop="6:SIGTERM" if number < len(WAY) else "")
        assert number == 1 or f"goes on from step {6 * (number - 1)} " in moved.log()
    assert whole.wait() == [0], whole.log()

    ours, theirs = weights(moved), weights(whole)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=0, atol=1e-4)
    assert moved.result()["metrics"]["val/accuracy"] == whole.result()["metrics"]["val/accuracy"]


@pytest.mark.parametrize(
    ("engine", "options", "precision"),
    [
        ("ddp", {"compression": "fp16"}, "fp32"),
        ("ddp", {"compression": "powersgd", "powersgd_rank": 1, "bucket_mb": 0.0005}, "fp32"),
        ("fsdp", {"unit_parameters": 1}, "bf16"),
        ("deepspeed", {"stage": 2}, "fp32"),
        ("deepspeed", {"stage": 3}, "fp32"),
    ],
)
def test_a_run_that_is_stopped_ends_as_if_it_had_not_been(
    member: Make, engine: str, options: dict[str, Any], precision: str
) -> None:
    """With what makes it hard: random numbers of each rank, running statistics that only one rank counts, and a memory
    of what was not sent."""
    model = own("own.Net", dropout=0.5, norm=True)
    train = {"max_steps": 20, "log_every_steps": 7, "precision": precision}
    whole, broken = member("whole", model=model, train=train), member("broken", model=model, train=train)

    attempt(broken, engine, options, 2, stop="14:SIGTERM")
    attempt(broken, engine, options, 2)
    attempt(whole, engine, options, 2)

    assert "goes on from step 14" in broken.log()
    ours, theirs = weights(broken), weights(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert broken.result()["metrics"] == whole.result()["metrics"]
    assert "Warning" not in whole.log() and "[WARNING]" not in whole.log()


@pytest.mark.parametrize("engine", ["fsdp", "deepspeed"])
def test_momentum_of_sharded_parameters_is_that_of_whole_ones(member: Make, engine: str) -> None:
    sgd = Component(kind="sgd", options={"lr": 0.05})
    alone, shared = (member(name, optimizer=sgd, train={"max_steps": 6}) for name in ("alone", "shared"))

    attempt(shared, engine, {}, 2)
    attempt(alone, "ddp", {}, 1)

    ours, theirs = weights(shared), weights(alone)
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=1e-5)
