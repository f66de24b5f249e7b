"""A training in parts: `train.until` ends it early and changes nothing of the whole; an heir goes on its own way."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from conf.schema import Component
from tests.trainer.ranks import Member, own
from trainer.checkpoints.checkpoint import committed
from trainer.parallel import hyperparameters

Make = Callable[..., Member]
TRAIN = {"max_steps": 50, "schedule": "cosine", "warmup_steps": 5, "eval_every_steps": 25}


def weights(member: Member) -> dict[str, torch.Tensor]:
    return load_file(member.path / "model" / "model.safetensors")


def kept(member: Member) -> list[dict[str, Any]]:
    """The optimizer's groups in the newest checkpoint."""
    newest = committed(member.path / "checkpoints")[0]
    groups: list[dict[str, Any]] = json.loads((newest / "state" / "rest.json").read_text())["param_groups"]
    return groups


def test_training_in_three_parts_is_the_whole_one_bit_by_bit(member: Make) -> None:
    changes = {"model": own("own.Net", dropout=0.5)}
    whole = member("whole", **changes, train=TRAIN)
    whole.start()
    parts = member("parts", **changes, train=TRAIN)

    ends = []
    for until in (0.31, 0.6, 1.0):  # of 50 steps the 16th, by which nothing is evaluated in the whole, and the 30th
        parts.spec = dataclasses.replace(parts.spec, train=dataclasses.replace(parts.spec.train, until=until))
        assert parts.run() == [0], parts.log()
        ends.append((parts.result()["steps"], "val/loss" in parts.lines("metrics.jsonl")[-1]["metrics"]))
    assert whole.wait() == [0], whole.log()

    assert ends == [(16, True), (30, True), (50, True)]
    ours, theirs = weights(parts), weights(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert parts.result()["metrics"] == whole.result()["metrics"]
    assert "step 50/50" in parts.log()


@pytest.mark.parametrize("engine", ["ddp", "fsdp"])
def test_heir_goes_on_with_its_own_hyperparameters(member: Make, engine: str) -> None:
    before = {"lr": 0.003, "weight_decay": 0.1, "betas": [0.9, 0.95]}
    now = {"lr": 0.01, "weight_decay": 0.02, "betas": [0.8, 0.95]}
    train = {"max_steps": 20, "until": 0.5, "log_every_steps": 1}
    changes = {"engine": Component(kind=engine), "train": train}
    parent = member("parent", optimizer=Component(kind="adamw", options=before), **changes)
    assert parent.run() == [0], parent.log()
    heir = member("heir", optimizer=Component(kind="adamw", options=now), **{**changes, "train": {**train, "until": 1}})

    shutil.copytree(parent.path / "checkpoints", heir.path / "checkpoints")
    assert heir.run() == [0], heir.log()

    said = [(line["step"], line.get("metrics", {})) for line in heir.lines("metrics.jsonl") if "step" in line]
    rates = {step: metrics["train/lr"] for step, metrics in said if "train/lr" in metrics}
    assert rates == {step: 0.01 for step in range(11, 21)}
    assert "goes on from step 10" in heir.log()
    assert [(g["weight_decay"], g["betas"]) for g in kept(parent)] == [(0.1, [0.9, 0.95]), (0.0, [0.9, 0.95])]
    assert [(g["weight_decay"], g["betas"]) for g in kept(heir)] == [(0.02, [0.8, 0.95]), (0.0, [0.8, 0.95])]


def test_what_an_optimizer_made_of_its_groups_stays() -> None:
    """Some adapt their own rate there (Prodigy's d)."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([{"params": [parameter], "d": 1e-6, "k": 0}], lr=0.1, momentum=0.9)
    given = hyperparameters.of(optimizer)
    optimizer.param_groups[0].update(d=0.25, k=7, lr=0.05)

    hyperparameters.renew(optimizer, given, given)
    assert (optimizer.param_groups[0]["d"], optimizer.param_groups[0]["lr"]) == (0.25, 0.05)

    hyperparameters.renew(optimizer, given, [{**given[0], "momentum": 0.5}])
    assert (optimizer.param_groups[0]["d"], optimizer.param_groups[0]["momentum"]) == (0.25, 0.5)

    hyperparameters.renew(optimizer, None, [{**given[0], "momentum": 0.1}])
    assert optimizer.param_groups[0]["momentum"] == 0.5, "an older checkpoint does not say what it was given"


def test_options_of_groups_are_plain() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([parameter], betas=(0.9, 0.99))
    optimizer.param_groups[0]["tensor"] = torch.ones(1)

    (found,) = hyperparameters.of(optimizer)

    assert json.loads(json.dumps(found)) == found
    assert found["betas"] == [0.9, 0.99] and "tensor" not in found and "params" not in found
