"""A run that changes engine, stage and number of ranks on its way; and each engine's exact return on its own layout."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
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
NARROW_WAY: tuple[tuple[str, Mapping[str, Any], int], ...] = (*WAY[:3], WAY[-1])
LR = 0.003
NARROW_FAR = 2 * LR
"""In bf16 a gradient near zero may turn its sign by rounding, and AdamW then makes a whole step the other way."""


def weights(member: Member) -> dict[str, torch.Tensor]:
    return load_file(member.path / "model" / "model.safetensors")


def norms(run: Member) -> list[float]:
    """Of the gradients, at each report."""
    rows = [line.get("metrics", {}) for line in run.lines("metrics.jsonl")]
    return [row["train/grad_norm"] for row in rows if "train/grad_norm" in row]


def attempt(run: Member, engine: str, options: Mapping[str, Any], ranks: int, stop: str = "") -> None:
    """One attempt, which ends by itself or is stopped."""
    run.spec = dataclasses.replace(run.spec, engine=Component(kind=engine, options=dict(options)))
    run.ranks, run.env = ranks, {"OWN_TRAINING": stop} if stop else {}
    assert run.run() == [STOPPED if stop else 0] * ranks, "\n".join(run.log(rank) for rank in range(ranks))


@pytest.mark.parametrize(
    ("way", "precision", "far"), [(WAY, "fp32", 1e-4), (NARROW_WAY, "bf16", NARROW_FAR)], ids=["fp32", "bf16"]
)
def test_a_run_changes_engine_stage_and_ranks_and_ends_with_the_same_model(
    member: Make, way: Sequence[tuple[str, Mapping[str, Any], int]], precision: str, far: float
) -> None:
    train = {"max_steps": 6 * len(way), "clip_norm": 1.0, "precision": precision}
    whole, moved = member("whole", train=train), member("moved", train=train)
    whole.start()

    for number, (engine, options, ranks) in enumerate(way, start=1):
        attempt(moved, engine, options, ranks, stop="6:SIGTERM" if number < len(way) else "")
        assert number == 1 or f"goes on from step {6 * (number - 1)} " in moved.log()
    assert whole.wait() == [0], whole.log()

    ours, theirs = weights(moved), weights(whole)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=0, atol=far)
        # In the mean by no more than if bf16, which rounds by 2**-8 at most, had rounded all their steps one way.
        assert (tensor - theirs[name]).abs().mean() < LR * train["max_steps"] * 2**-8
    assert moved.result()["metrics"]["val/accuracy"] == whole.result()["metrics"]["val/accuracy"]


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("harm", [flip_a_bit, truncate])
@pytest.mark.parametrize(("before", "after"), [(WAY[0], WAY[1]), (WAY[5], WAY[6])], ids=["ddp-fsdp", "zero-ddp"])
def test_engine_that_finds_anothers_newest_checkpoint_damaged_goes_on_from_the_one_before(
    member: Make,
    before: tuple[str, Mapping[str, Any], int],
    after: tuple[str, Mapping[str, Any], int],
    harm: Callable[[Path], None],
) -> None:
    train = {"max_steps": 10, "checkpoint_every_steps": 4}
    whole, moved = member("whole", train=train), member("moved", train=train)
    whole.start()
    attempt(moved, *before, stop="6:SIGTERM")
    newest = moved.path / "checkpoints" / "step-6"

    harm(max(newest.rglob("*.safetensors"), key=lambda path: path.stat().st_size))
    attempt(moved, *after)

    assert "checkpoint step-6 skipped" in moved.log() and "goes on from step 4 " in moved.log()
    assert whole.wait() == [0], whole.log()
    ours, theirs = weights(moved), weights(whole)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("engine", "options", "precision", "ranks"),
    [
        ("ddp", {"compression": "fp16"}, "fp32", 2),
        ("ddp", {"compression": "powersgd", "powersgd_rank": 1, "bucket_mb": 0.0005}, "fp32", 2),
        ("ddp", {}, "bf16", 2),
        ("fsdp", {"unit_parameters": 1}, "bf16", 2),
        ("fsdp", {"unit_parameters": 1, "shard_ranks": 2}, "fp32", 4),
        ("deepspeed", {"stage": 1}, "fp32", 2),
        ("deepspeed", {"stage": 2}, "fp32", 2),
        ("deepspeed", {"stage": 3}, "fp32", 2),
        ("deepspeed", {"stage": 1}, "bf16", 2),
        ("deepspeed", {"stage": 2}, "bf16", 2),
        ("deepspeed", {"stage": 3}, "bf16", 2),
    ],
)
def test_a_run_that_is_stopped_ends_as_if_it_had_not_been(
    member: Make, engine: str, options: dict[str, Any], precision: str, ranks: int
) -> None:
    """With what makes it hard: random numbers of each rank, running statistics that only one rank counts, and a memory
    of what was not sent."""
    norm = (engine, precision) != ("deepspeed", "bf16")  # which narrows all weights, and torch has no such kernel
    model = own("own.Net", dropout=0.5, norm=norm)
    train = {"max_steps": 20, "log_every_steps": 7, "precision": precision}
    whole, broken = member("whole", model=model, train=train), member("broken", model=model, train=train)

    attempt(broken, engine, options, ranks, stop="14:SIGTERM")
    attempt(broken, engine, options, ranks)
    attempt(whole, engine, options, ranks)

    assert "goes on from step 14" in broken.log()
    ours, theirs = weights(broken), weights(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert broken.result()["metrics"] == whole.result()["metrics"]
    assert "Warning" not in whole.log() and "[WARNING]" not in whole.log()


def test_fsdp_keeps_copies_of_a_model_each_in_pieces_on_so_many_ranks_as_it_is_told(member: Make) -> None:
    run = member("0", optimizer=own("peek.Pieces", lr=0.003), train={"max_steps": 1})

    attempt(run, "fsdp", {"shard_ranks": 2}, 4)

    assert "pieces ('replicate', 'shard') (2, 2) (Replicate(), Shard(dim=0))" in run.log()


@pytest.mark.parametrize("engine", ["fsdp", "deepspeed"])
def test_momentum_and_gradient_norm_of_sharded_parameters_are_those_of_whole_ones(member: Make, engine: str) -> None:
    sgd = Component(kind="sgd", options={"lr": 0.05})
    alone, shared = (member(name, optimizer=sgd, train={"max_steps": 6}) for name in ("alone", "shared"))

    attempt(shared, engine, {}, 2)
    attempt(alone, "ddp", {}, 1)

    ours, theirs = weights(shared), weights(alone)
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=1e-5)
    assert norms(alone) and norms(shared) == pytest.approx(norms(alone), rel=1e-3)
