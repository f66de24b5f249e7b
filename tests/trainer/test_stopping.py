"""A run that ends when it gets no better, and one that exports its best weights: also when they are broken off."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from conf.schema import Component, Objective
from conf.train_schema import StopAfter
from tests.trainer.ranks import Member, make_spec, own
from trainer.checkpoints.checkpoint import committed, step_of
from trainer.stopping import Stale

Make = Callable[..., Member]


@pytest.mark.parametrize(
    ("goal", "min_delta", "values", "evaluations"),
    [
        ("minimize", 0.0, [3.0, 2.0, 1.0], 0),
        ("minimize", 0.0, [3.0, 3.0, 3.5], 2),
        ("minimize", 0.5, [3.0, 2.8, 2.6, 2.4], 0),  # a little at a time is better, too, once it is enough
        ("minimize", 0.5, [3.0, 2.8, 2.6, 2.5], 3),
        ("maximize", 0.0, [0.1, 0.3, 0.2], 1),
        ("maximize", 0.0, [math.nan, math.nan], 2),
        ("maximize", 0.0, [math.nan, 0.1, math.nan], 1),
    ],
)
def test_stale_counts_the_evaluations_since_it_was_better(
    goal: str, min_delta: float, values: list[float], evaluations: int
) -> None:
    wanted = StopAfter(evaluations=2, min_delta=min_delta)
    spec = make_spec(train={"stop_after": wanted}, objective=Objective(metric="val/loss", goal=goal))
    stale = Stale()

    for value in values:
        stale.note(value, spec)

    assert stale.evaluations == evaluations
    assert stale.is_over(wanted) == (evaluations >= 2)


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path / "model.safetensors")


def test_run_that_gets_no_better_ends_at_the_same_step_however_often_it_is_broken_off(member: Make) -> None:
    train = {"max_steps": 400, "eval_every_steps": 10, "stop_after": StopAfter(evaluations=3)}
    changes = {"model": own("own.Net", dropout=0.5), "train": {**train, "checkpoint_every_steps": 1000}}
    whole, broken = member("whole", ranks=2, **changes), member("broken", ranks=2, **changes)
    whole.start()

    for env in ({"OWN_TRAINING": "25:SIGTERM"}, {"OWN_EVALUATION": "2:SIGUSR2"}):
        broken.env = {**env, "OWN_RANK": "1"}
        assert broken.run() == [75, 75], broken.log()
    broken.env = {}
    assert broken.run() == [0, 0], broken.log()
    assert whole.wait() == [0, 0], whole.log()

    steps, best = whole.result()["steps"], whole.result()["best"]
    assert steps == best["step"] + 30 < 400
    assert (broken.result()["steps"], broken.result()["best"]) == (steps, best)
    assert step_of(committed(whole.path / "checkpoints")[0]) == steps
    for name, tensor in weights(whole.path / "model").items():
        assert torch.equal(tensor, weights(broken.path / "model")[name])


def test_export_best_is_the_checkpoint_of_the_best_evaluation_which_outlives_newer_ones(member: Make) -> None:
    train = {"max_steps": 60, "eval_every_steps": 5, "keep_checkpoints": 1}
    quick = Component(kind="adamw", options={"lr": 0.03})
    run = member(ranks=2, optimizer=quick, train={**train, "checkpoint_every_steps": 10, "export": "best"})

    assert run.run() == [0, 0], run.log()

    best = run.result()["best"]
    assert best["step"] < 60
    assert [step_of(path) for path in committed(run.path / "checkpoints")] == [60, best["step"]]
    kept = {}
    for shard in (run.path / "checkpoints" / f"step-{best['step']}" / "state").glob("*.safetensors"):
        kept |= load_file(shard)
    for name, tensor in weights(run.path / "model").items():
        assert torch.equal(tensor, kept[f"model.{name}"])
    card = json.loads((run.path / "model" / "card.json").read_text())
    assert card["metrics"]["val/accuracy"] == best["value"]
    assert f"exports the weights of step {best['step']}" in run.log()
