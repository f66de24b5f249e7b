"""Checkpoints that are written while training goes on: what stands in them, and how a failure is told."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from trainer.checkpoints import checkpoint, state
from trainer.checkpoints.checkpoint import Checkpoints, committed, damage
from trainer.checkpoints.costs import Costs
from trainer.checkpoints.saving import Saver
from trainer.parallel.group import Group


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints", "attempt-1", keep=5, group=Group(0, 1))


def saver(checkpoints: Checkpoints, in_background: bool = True) -> Saver:
    return Saver(checkpoints, torch.device("cpu"), in_background, Costs())


def weight_in(path: Path) -> float:
    (shard,) = (path / "state").glob("*.safetensors")
    return load_file(shard)["model.weight"].item()


@pytest.fixture
def model() -> nn.Linear:
    return nn.Linear(1, 1, bias=False)


def state_of(model: nn.Linear) -> Callable[[], state.State]:
    return lambda: state.of(model, torch.optim.SGD(model.parameters(), lr=0.1))


def nothing(_why: OSError | None) -> None:
    """Nobody listens."""


def full(*_: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("in_background", [True, False])
def test_each_checkpoint_holds_the_state_of_its_step(
    checkpoints: Checkpoints, model: nn.Linear, in_background: bool
) -> None:
    told, ours = list[tuple[int, OSError | None]](), saver(checkpoints, in_background)

    for step in range(1, 5):
        nn.init.constant_(model.weight, float(step))
        ours.begin(step, state_of(model), {"step": step}, lambda why, step=step: told.append((step, why)))
        assert ours.is_at(step)
    nn.init.constant_(model.weight, 99.0)

    assert ours.wait()
    assert told == [(1, None), (2, None), (3, None), (4, None)]
    assert ours.kept == 4
    assert [weight_in(path) for path in committed(checkpoints.folder)] == [4.0, 3.0, 2.0, 1.0]
    assert not any(damage(path) for path in committed(checkpoints.folder))


def test_training_goes_on_while_one_is_written_and_what_it_costs_is_measured(
    checkpoints: Checkpoints, model: nn.Linear, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_write, ours = threading.Event(), saver(checkpoints)
    ours.begin(1, state_of(model), {}, nothing)
    assert ours.wait()
    slow = checkpoint.sync

    def sync(path: Path) -> None:
        assert may_write.wait(timeout=30)
        slow(path)

    monkeypatch.setattr(checkpoint, "sync", sync)

    ours.begin(2, state_of(model), {}, nothing)

    assert len(committed(checkpoints.folder)) == 1
    assert ours.expected_s() is not None
    may_write.set()
    assert ours.wait()
    assert ours.expected_s() is None
    assert len(committed(checkpoints.folder)) == 2
    assert [0 < stall < whole for stall, whole in zip(ours.costs.stalls_s, ours.costs.durables_s, strict=True)] == [
        True,
        True,
    ]


@pytest.mark.parametrize("in_background", [True, False])
def test_one_that_fails_is_told_leaves_the_older_one_and_the_next_may_succeed(
    checkpoints: Checkpoints, model: nn.Linear, monkeypatch: pytest.MonkeyPatch, in_background: bool
) -> None:
    told, ours = list[OSError | None](), saver(checkpoints, in_background)
    ours.begin(1, state_of(model), {}, told.append)
    assert ours.wait()

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "sync", full)
        for step in (2, 3):
            ours.begin(step, state_of(model), {}, told.append)
        assert not ours.wait()

    assert (ours.failures, ours.kept, ours.is_at(3)) == (2, 1, False)
    assert [why is None or "No space left" in str(why) for why in told] == [True, True, True]
    assert [path.name for path in checkpoints.folder.iterdir()] == ["step-1"]
    ours.begin(3, state_of(model), {}, told.append)
    assert ours.wait()
    assert (ours.failures, ours.kept, told[-1]) == (0, 3, None)
