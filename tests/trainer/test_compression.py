"""Gradients that are narrowed before they travel: fewer bytes leave a rank, and the model learns as well."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from safetensors.torch import load_file

from conf.schema import Component
from tests.trainer.ranks import Member, own
from trainer.parallel.powersgd import PLAIN_STEPS

Make = Callable[..., Member]
WIDTH, STEPS = 1024, 40
GRADIENTS = 4 * (10 * WIDTH + WIDTH + WIDTH * 10 + 10)
"""Bytes of own.Net's. Of two ranks that add up as a ring does each sends half of them twice."""
AT_FIRST = math.log(10)
"""The loss of one that guesses between ten classes."""


def trained(member: Make, compression: str) -> Member:
    run = member(
        compression,
        ranks=2,
        model=own("own.Net", width=WIDTH),
        engine=Component(kind="ddp", options={"compression": compression, "powersgd_rank": 1}),
        optimizer=own("wire.AdamW", lr=0.003),
        train={"max_steps": STEPS},
    )
    assert run.run() == [0, 0], run.log()
    return run


def sent(run: Member, rank: int) -> float:
    """Bytes a step, once all gradients travel narrowed."""
    after = [int(line) for line in (run.attempt / f"sent-{rank}").read_text().split()]
    return (after[-1] - after[PLAIN_STEPS + 2]) / (STEPS - PLAIN_STEPS - 3)


def apart(ours: Member, theirs: Member) -> tuple[float, float]:
    """How far weights are from each other at most, and losses as a share of the first one."""
    a, b = (load_file(run.path / "model" / "model.safetensors") for run in (ours, theirs))
    most = max((a[name] - b[name]).abs().max().item() for name in b)
    losses: list[Any] = [run.result()["metrics"]["val/loss"] for run in (ours, theirs)]
    return most, abs(losses[0] - losses[1]) / AT_FIRST


def test_compression_sends_fewer_bytes_and_learns_as_well(member: Make) -> None:
    plain, half, thin = (trained(member, kind) for kind in ("none", "fp16", "powersgd"))

    for rank in (0, 1):
        whole = sent(plain, rank)
        assert 0.9 < whole / GRADIENTS < 1.1  # besides them ranks agree now and then
        assert sent(half, rank) < 0.55 * whole and sent(thin, rank) < 0.25 * whole
    for run, most in ((half, 1e-3), (thin, 0.02)):
        weights, loss = apart(run, plain)
        assert weights > 0 and loss < most
        ours, theirs = (one.result()["metrics"]["val/accuracy"] for one in (run, plain))
        assert theirs > 0.9 and abs(ours - theirs) < 0.02
