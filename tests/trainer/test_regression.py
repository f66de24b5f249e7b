"""Numbers to be predicted: metrics as scikit-learn's, in the target's own units, on any number of ranks."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import sklearn.metrics as sk
import torch
from safetensors.torch import load_file
from torch import Tensor

from conf.schema import Component, Objective
from tests.trainer.ranks import Member, own
from trainer import regression, score
from trainer.assemble import build_model
from trainer.failure import UserError
from trainer.score import Task
from trainer.sources import Shape, sklearn

Make = Callable[..., Member]
DIABETES = {"data": Component(kind="sklearn", options={"set": "diabetes"}), "model": Component(kind="mlp")}
BY_MAE = Objective(metric="val/mae", goal="minimize")
STOPPED = 75


def numbers(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def measured(task: Task, outputs: Tensor, targets: Tensor, size: int = 7) -> dict[str, float]:
    """As the loop does it, in batches of which the last is filled up."""
    totals: Any = 0
    for begin in range(0, len(targets), size):
        rows = task.rows(outputs[begin : begin + size], targets[begin : begin + size])
        totals = totals + rows.sum(1, dtype=torch.float64)
    fillers = task.rows(outputs[:3], targets[:3]) * torch.zeros(3)
    return task.measured("val", (totals + fillers.sum(1, dtype=torch.float64)).tolist())


@pytest.mark.parametrize(("offset", "scale"), [(0.0, 1.0), (1e6, 3.0), (-2.0, 0.01)])
@pytest.mark.parametrize("form", [(), (1,)])
def test_metrics_are_those_of_scikit_learn_in_the_targets_own_units(
    offset: float, scale: float, form: tuple[int, ...]
) -> None:
    targets, outputs = numbers(40), numbers(40, seed=2) * 0.5
    true, said = ((side.double() * scale + offset).numpy() for side in (targets, outputs))

    found = measured(regression.task(offset, scale), outputs.view(40, *form), targets)

    assert set(found) == set(score.METRICS["regression"]) - {"train/loss"}
    assert found["val/loss"] == pytest.approx(sk.mean_squared_error(true, said), rel=1e-5)
    assert found["val/rmse"] == pytest.approx(sk.root_mean_squared_error(true, said), rel=1e-5)
    assert found["val/mae"] == pytest.approx(sk.mean_absolute_error(true, said), rel=1e-5)
    assert found["val/r2"] == pytest.approx(sk.r2_score(true, said), rel=1e-5)


def test_metrics_of_several_numbers_are_means_over_them() -> None:
    targets, outputs = numbers(30, 3) * torch.tensor([1.0, 10, 100]) + 1000, numbers(30, 3, seed=2) + 1000

    found = measured(regression.task(0.0, 1.0), outputs, targets)

    assert found["val/r2"] == pytest.approx(sk.r2_score(targets, outputs), rel=1e-5)
    assert found["val/mae"] == pytest.approx(sk.mean_absolute_error(targets, outputs), rel=1e-5)
    assert found["val/rmse"] == pytest.approx(found["val/loss"] ** 0.5, rel=1e-5)


def test_r2_of_targets_that_do_not_vary_is_no_number() -> None:
    found = measured(regression.task(0.0, 1.0), numbers(9), torch.full((9,), 0.1))

    assert math.isnan(found["val/r2"]) and found["val/mae"] > 0


@pytest.mark.parametrize("form", [(), (3,)])
def test_total_is_the_sum_over_samples_with_and_without_weights(form: tuple[int, ...]) -> None:
    outputs, targets, weights = numbers(5, *form), numbers(5, *form, seed=2), torch.tensor([1.0, 0, 1, 1, 0])
    losses = regression.losses(outputs, targets)

    torch.testing.assert_close(regression.total(outputs, targets), losses.sum())
    torch.testing.assert_close(regression.total(outputs, targets, weights), losses[weights == 1].sum())


@pytest.mark.parametrize("form", [(8, 2), (4,), (1, 8)])
def test_outputs_that_are_not_one_for_each_number_are_refused(form: tuple[int, ...]) -> None:
    for function in (regression.total, regression.losses, regression.sums):
        with pytest.raises(UserError, match=rf"gives \({form[0]}, ?\d?\) for targets of \(8,\)"):
            function(numbers(*form), numbers(8))


def test_outputs_of_another_shape_are_not_taken_for_as_many_numbers() -> None:
    with pytest.raises(UserError, match=r"gives \(4, 3, 2\) for targets of \(4, 2, 3\)"):
        regression.losses(numbers(4, 3, 2), numbers(4, 2, 3))
    assert regression.losses(numbers(4, 1, 3), numbers(4, 3)).tolist() == [0.0] * 4


def test_diabetes_is_learned_and_reported_in_its_own_units(member: Make) -> None:
    train = {"max_steps": None, "epochs": 20, "batch_size": 32, "schedule": "cosine", "log_every_steps": 12}
    run = member(**DIABETES, objective=BY_MAE, train=train)

    assert run.run() == [0], run.log()

    ours = sklearn.load(sklearn.Options(set="diabetes"))
    inputs, targets = ours.validation.batch(np.arange(len(ours.validation)))
    model = build_model(Component(kind="mlp"), ours.shape)
    model.load_state_dict(load_file(run.path / "model" / "model.safetensors"))
    with torch.no_grad():
        said = model.eval()(inputs)[:, 0].double() * ours.shape.target_scale + ours.shape.target_offset
    true = targets.double() * ours.shape.target_scale + ours.shape.target_offset
    metrics = run.result()["metrics"]
    assert metrics["val/mae"] == pytest.approx(sk.mean_absolute_error(true, said), rel=1e-4)
    assert metrics["val/loss"] == pytest.approx(sk.mean_squared_error(true, said), rel=1e-4)
    assert metrics["val/r2"] == pytest.approx(sk.r2_score(true, said), rel=1e-4)
    assert metrics["val/mae"] < 50 and metrics["val/r2"] > 0.4  # of 25 to 346, and by columns that need each other
    assert 1000 < metrics["train/loss"] < 6000
    assert run.result()["best"]["metric"] == "val/mae"
    assert "val/r2 0." in run.log() and "Warning" not in run.log()

    card = json.loads((run.path / "model" / "card.json").read_text())
    assert card["task"] == "regression"
    assert card["target"] == {"offset": ours.shape.target_offset, "scale": ours.shape.target_scale}
    program = torch.export.load(run.path / "model" / "model.pt2").module()
    torch.testing.assert_close(program(inputs)[:, 0].double(), said, rtol=1e-5, atol=1e-2)


def test_two_ranks_measure_as_one(member: Make) -> None:
    """Of 353 samples that train and 89 that validate: the last batches of both are filled up."""
    train = {"max_steps": 25, "batch_size": 33, "eval_every_steps": 10}
    alone, shared = (member(str(ranks), ranks=ranks, **DIABETES, objective=BY_MAE, train=train) for ranks in (1, 2))
    for run in (alone, shared):
        run.start()

    assert alone.wait() == [0], alone.log()
    assert shared.wait() == [0, 0], shared.log()

    ours, theirs = shared.result()["metrics"], alone.result()["metrics"]
    assert set(ours) == set(score.METRICS["regression"])
    assert ours == pytest.approx(theirs, rel=1e-4)


def test_regression_that_was_stopped_ends_bit_identical(member: Make) -> None:
    """Killed after a save, then told to leave: weights and every metric are as if nothing had been."""
    train = {"max_steps": 30, "batch_size": 32, "eval_every_steps": 8, "log_every_steps": 5}
    train |= {"deterministic": True, "checkpoint_every_steps": 6}
    changes = {"data": DIABETES["data"], "model": own("own.Sized", width=8), "objective": BY_MAE, "train": train}
    whole, broken = member("whole", ranks=2, **changes), member("broken", ranks=2, **changes)
    whole.start()

    for told, codes in (("9:SIGKILL", [-9, 1]), ("4:SIGUSR2", [STOPPED, STOPPED]), ("", [0, 0])):
        broken.env = {"OWN_TRAINING": told}
        assert broken.run() == codes, broken.log()
    assert whole.wait() == [0, 0], whole.log()

    ours, theirs = (load_file(run.path / "model" / "model.safetensors") for run in (broken, whole))
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items()) and ours.keys() == theirs.keys()
    assert broken.result()["metrics"] == whole.result()["metrics"]


def test_data_of_the_users_own_with_numbers_for_targets_are_a_regression(member: Make) -> None:
    run = member(
        data=own("own.slope", rows=90),
        model=own("own.Sized", width=16),
        objective=Objective(metric="val/r2", goal="maximize"),
        train={"max_steps": 150},
        optimizer=Component(kind="adamw", options={"lr": 0.02}),
    )

    assert run.run() == [0], run.log()

    assert run.result()["metrics"]["val/r2"] > 0.9


def test_objective_of_another_task_is_refused_before_training(member: Make) -> None:
    run = member(data=own("own.slope", rows=90), model=own("own.Sized", width=16))  # val/accuracy

    assert run.run() == [1]

    assert "objective.metric is val/accuracy, which this run does not measure" in run.log()
    assert "val/loss, val/mae, val/rmse, val/r2" in run.log()


def test_model_of_the_users_own_is_given_the_shape_it_asks_for() -> None:
    shape = Shape("regression", (10,), "float32", 1)

    assert build_model(own("tests.trainer.project.own.Sized", width=8), shape)(numbers(4, 10)).shape == (4, 1)
    assert build_model(own("torch.nn.Linear", in_features=2, out_features=3), shape)(numbers(4, 2)).shape == (4, 3)


def test_cnn_predicts_numbers_of_images() -> None:
    model = build_model(Component(kind="cnn", options={"width": 4}), Shape("regression", (1, 8, 8), "float32", 1))

    assert regression.fitted(model(numbers(5, 1, 8, 8)), numbers(5)).shape == (5,)
