"""Numbers of 16 bits with a small range: what a step does, on several ranks, whose gradients do not fit it on one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from conf.schema import Component
from tests.trainer.ranks import Member, own
from trainer.checkpoints.state import rest

Make = Callable[..., Member]
STOPPED = 75
STEPS, OVERFLOW, STOP = 12, 5, 8
SCALE = 2.0**16
"""torch's first one."""
PIECES = {"unit_parameters": 1}
ADAMW, SGD = Component(kind="adamw", options={"lr": 0.05}), Component(kind="sgd", options={"lr": 0.5})
EACH_STEP = {"checkpoint_every_steps": 1, "keep_checkpoints": STEPS, "log_every_steps": 1}


def attempt(run: Member, stop: str = "") -> None:
    run.env = {"OWN_TRAINING": stop} if stop else {}
    assert run.run() == [STOPPED if stop else 0] * run.ranks, "\n".join(run.log(rank) for rank in range(run.ranks))


def scale(run: Member, step: int) -> tuple[float, int]:
    """The loss scale in a checkpoint, and for how many steps it has been good."""
    kept = rest(run.path / "checkpoints" / f"step-{step}")["loss_scale"]
    return kept["scale"], kept["good_steps"]


def used(run: Member, rank: int) -> list[list[str]]:
    """Digests of each layer's weights, as a rank used them in each step of its newest attempt."""
    lines = (run.attempt / f"weights-{rank}").read_text().split()
    return [lines[i : i + 2] for i in range(0, len(lines), 2)]


def losses(run: Member) -> list[float]:
    found = [row.get("metrics", {}) for row in run.lines("metrics.jsonl")]
    return [metrics["train/loss"] for metrics in found if "train/loss" in metrics]


@pytest.mark.parametrize(
    ("engine", "options", "ranks", "optimizer", "clip_norm"),
    [
        ("ddp", {}, 2, ADAMW, None),
        ("fsdp", PIECES, 2, ADAMW, None),
        ("fsdp", {**PIECES, "shard_ranks": 2}, 4, SGD, 1.0),
    ],
    ids=["ddp", "fsdp", "fsdp in copies, not fused"],
)
def test_a_step_that_overflows_on_one_rank_is_left_out_on_all_and_the_scale_is_kept(
    member: Make, engine: str, options: dict[str, Any], ranks: int, optimizer: Component, clip_norm: float | None
) -> None:
    whole, broken = (
        member(
            name,
            ranks=ranks,
            model=own("overflow.Net", at=OVERFLOW, dropout=0.1),
            engine=Component(kind=engine, options=options),
            optimizer=optimizer,
            train={"max_steps": STEPS, "precision": "fp16", "clip_norm": clip_norm, **EACH_STEP},
        )
        for name in ("whole", "broken")
    )

    attempt(whole)
    attempt(broken, stop=f"{STOP}:SIGTERM")
    attempt(broken)

    weights = used(whole, 0)
    assert all(used(whole, rank) == weights for rank in range(ranks))
    for step in range(1, STEPS):  # what a step made the next one uses
        same = [before == after for before, after in zip(weights[step - 1], weights[step], strict=True)]
        assert same == [step == OVERFLOW] * 2, step
    good, halved = range(1, OVERFLOW), range(OVERFLOW, STEPS + 1)
    expected = [*((SCALE, step) for step in good), *((SCALE / 2, step - OVERFLOW) for step in halved)]
    assert [scale(whole, step) for step in range(1, STEPS + 1)] == expected
    first, *_, last = losses(whole)
    assert last < 0.8 * first

    assert f"goes on from step {STOP}" in broken.log()
    assert [scale(broken, step) for step in range(1, STEPS + 1)] == expected
    ours, theirs = (load_file(run.path / "model" / "model.safetensors") for run in (broken, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
