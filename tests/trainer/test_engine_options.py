"""Options of engines that must not change what is learned: on real ranks, and seen to have had their effect."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from conf.schema import Component
from tests.trainer.ranks import Member, own
from tests.trainer.test_engines import ALONE
from trainer.components import part
from trainer.engines import Place

Make = Callable[..., Member]
Options = Mapping[str, Any]
STOPPED = 75


def attempt(run: Member, engine: str, options: Options, stop: str = "") -> None:
    run.spec = dataclasses.replace(run.spec, engine=Component(kind=engine, options=dict(options)))
    run.env = {"OWN_TRAINING": stop} if stop else {}
    assert run.run() == [STOPPED if stop else 0] * run.ranks, "\n".join(run.log(rank) for rank in range(run.ranks))


def farthest(ours: Member, theirs: Member) -> float:
    """The largest difference of any weight."""
    a, b = (load_file(run.path / "model" / "model.safetensors") for run in (ours, theirs))
    assert a.keys() == b.keys()
    return max((a[name] - b[name]).abs().max().item() for name in a)


@pytest.mark.parametrize(
    ("options", "train", "said", "apart"),
    [
        ({"gradient_as_bucket_view": False}, {"accumulate": 2}, "in parcels: False, static graph: False", 0.0),
        ({"static_graph": True}, {}, "in parcels: True, static graph: True", 0.0),
        # Its first step adds up g/2 + g/2 of a micro-batch before the next one is added: other roundings.
        ({"static_graph": True}, {"accumulate": 3}, "in parcels: True, static graph: True", 1e-6),
        ({"static_graph": True}, {"accumulate": 3, "deterministic": True}, "True, static graph: False", 0.0),
    ],
    ids=["copied gradients", "static graph", "static graph over micro-batches", "static graph, deterministic"],
)
def test_ddp_option_takes_effect_and_the_weights_stay(
    member: Make, options: Options, train: Options, said: str, apart: float
) -> None:
    plain, changed = (
        member(name, ranks=2, optimizer=own("peek.AdamW", lr=0.003), train={"max_steps": 12, **train})
        for name in ("plain", "changed")
    )

    attempt(plain, "ddp", {})
    attempt(changed, "ddp", options)

    assert "in parcels: True, static graph: False" in plain.log()
    assert said in changed.log()
    assert farthest(changed, plain) <= apart


def test_ddp_static_graph_of_a_model_that_is_computed_again_in_backward(member: Make) -> None:
    """What torch recommends it for. Other roundings, as above."""
    text: dict[str, Any] = {
        "data": Component(kind="bytes", options={"context_length": 16, "max_mb": 0.1}),
        "model": Component(kind="gpt", options={"n_layer": 2, "n_head": 2, "width": 16}),
        "objective": dataclasses.replace(member("0").spec.objective, metric="val/loss", goal="minimize"),
    }
    train = {"max_steps": 8, "eval_every_steps": 4, "accumulate": 2, "recompute": True}
    plain, changed = (member(name, ranks=2, **text, train=train) for name in ("plain", "changed"))

    attempt(plain, "ddp", {})
    attempt(changed, "ddp", {"static_graph": True})

    assert farthest(changed, plain) <= 1e-5


@pytest.mark.parametrize(
    ("stage", "offloaded"),
    [(2, ("optimizer",)), (3, ("optimizer", "weights"))],
)
def test_deepspeed_offload_changes_no_bit_also_where_a_run_goes_on(
    member: Make, stage: int, offloaded: tuple[str, ...]
) -> None:
    """The same operations, in the same order and memory."""
    train = {"max_steps": 12, "accumulate": 2, "clip_norm": 0.5}
    plain, changed = (member(name, ranks=2, train=train) for name in ("plain", "changed"))
    options = {"stage": stage, **{f"offload_{what}": True for what in offloaded}}

    attempt(plain, "deepspeed", {"stage": stage})
    attempt(changed, "deepspeed", options, stop="10:SIGTERM")
    attempt(changed, "deepspeed", options)

    assert "goes on from step 5" in changed.log()
    assert farthest(changed, plain) == 0.0


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_deepspeed_is_told_to_offload(monkeypatch: pytest.MonkeyPatch, stage: int) -> None:
    """Which its optimizer says of itself: on a CPU there is no other memory to look into."""
    monkeypatch.setattr(nn.functional, "linear", nn.functional.linear)  # stage 3 puts its own there, for good
    module, options = part("engine", Component(kind="deepspeed", options={"stage": stage, "offload_optimizer": True}))
    options = dataclasses.replace(options, offload_weights=stage == 3)

    engine = module.start(
        options,
        Place(ALONE, torch.device("cpu"), "fp32"),
        nn.Linear(6, 3),
        lambda m: torch.optim.AdamW(m.parameters(), lr=0.05),
    )

    inner = engine._zero
    assert (inner.offload_optimizer if stage == 3 else inner.cpu_offload) is True
    assert stage != 3 or inner.offload_param is True
