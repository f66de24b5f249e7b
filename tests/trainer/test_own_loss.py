"""A loss of the user's own: what it gets, what it may give, and whole runs that train and validate by it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from conf.schema import Component, Objective
from tests.trainer.ranks import Member
from trainer import own_loss, regression, score
from trainer.components import kinds
from trainer.failure import UserError
from trainer.score import Task

Make = Callable[..., Member]
PROJECT = "tests.trainer.project.own"
CPU = torch.device("cpu")
SMOOTHED = {"_target_": "torch.nn.CrossEntropyLoss", "reduction": "none", "label_smoothing": 0.1}
BY_LOSS = Objective(metric="val/loss", goal="minimize")


def with_loss(task: Task, said: Mapping[str, Any], objective: str = "val/loss") -> Task:
    return own_loss.with_loss(task, said, objective, CPU)


def numbers(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_classes_get_outputs_in_fp32_and_accuracy_stays() -> None:
    outputs, targets = numbers(8, 3).bfloat16(), torch.arange(8) % 3
    task = with_loss(score.CLASSIFICATION, SMOOTHED)

    wanted = torch.nn.functional.cross_entropy(outputs.float(), targets, reduction="none", label_smoothing=0.1)
    torch.testing.assert_close(task.losses(outputs, targets), wanted)
    torch.testing.assert_close(task.total(outputs, targets, None), wanted.sum())
    weights = torch.tensor([1.0] * 5 + [0.0] * 3)
    torch.testing.assert_close(task.total(outputs, targets, weights), wanted[:5].sum())
    totals = task.rows(outputs, targets).sum(1).tolist()
    assert task.measured("val", totals)["val/accuracy"] == score.hits(outputs, targets).mean().item()


def test_numbers_come_in_the_targets_own_units_and_so_does_the_loss() -> None:
    """Errors are 5 and 1000, and 10 is where Huber's loss begins to be straight."""
    task = with_loss(regression.task(100.0, 50.0), {"_target_": f"{PROJECT}.huber", "delta": 10.0})
    outputs, targets = torch.tensor([[0.1], [20.0]]), torch.tensor([0.0, 0.0])

    losses = task.losses(outputs, targets)

    assert losses.tolist() == pytest.approx([12.5, 10 * (1000 - 5)], rel=1e-4)
    found = task.measured("val", task.rows(outputs, targets).sum(1).tolist())
    assert found["val/loss"] == pytest.approx(losses.mean().item())
    assert found["val/mae"] == pytest.approx(1005 / 2, rel=1e-5)


def test_outputs_that_mean_more_than_the_target_leave_its_metrics_out() -> None:
    task = with_loss(regression.task(0.0, 1.0), {"_target_": f"{PROJECT}.Gaussian"})
    outputs, targets = numbers(6, 2), numbers(6, seed=2)

    found = task.measured("val", task.rows(outputs, targets).sum(1).tolist())

    assert set(found) == {"val/loss"}
    wanted = torch.nn.GaussianNLLLoss()(outputs[:, 0], targets, outputs[:, 1].exp())
    assert found["val/loss"] == pytest.approx(wanted.item(), rel=1e-5)


def test_accuracy_of_one_score_is_left_out() -> None:
    task = with_loss(score.CLASSIFICATION, {"_target_": f"{PROJECT}.binary"})
    outputs, targets = numbers(6, 1), torch.tensor([0, 1, 1, 0, 1, 1])

    found = task.measured("val", task.rows(outputs, targets).sum(1).tolist())

    wanted = torch.nn.functional.binary_cross_entropy_with_logits(outputs[:, 0], targets.float())
    assert found == {"val/loss": pytest.approx(wanted.item(), rel=1e-5)}


def test_metrics_that_the_objective_names_are_not_left_out() -> None:
    task = with_loss(regression.task(0.0, 1.0), {"_target_": f"{PROJECT}.Gaussian"}, objective="val/mae")

    with pytest.raises(UserError, match=r"gives \(6, 2\) for targets of \(6,\)"):
        task.rows(numbers(6, 2), numbers(6))


def test_outputs_that_mean_more_have_no_units_to_be_turned_into() -> None:
    task = with_loss(regression.task(100.0, 50.0), {"_target_": f"{PROJECT}.Gaussian"})

    with pytest.raises(UserError, match=r"data\.standardise_target=false"):
        task.losses(numbers(6, 2), numbers(6))


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"_target_": f"{PROJECT}.mean_of_all"}, r"gives a tensor of \(\) for 5 samples.*\(5,\)"),
        ({"_target_": "torch.nn.MSELoss"}, r"gives a tensor of \(\)"),
        ({"_target_": f"{PROJECT}.number"}, "gives a float for 5 samples"),
        ({"_target_": f"{PROJECT}.not_callable"}, "which is a int, not a class or a function"),
        ({"_target_": f"{PROJECT}.hubre"}, r"did you mean tests\.trainer\.project\.own\.huber"),
        ({"_target_": f"{PROJECT}.Learned"}, "has weights of its own"),
        ({"_target_": f"{PROJECT}.Blobs", "rows": 3}, "train.loss is a Blobs, which cannot be called"),
    ],
)
def test_loss_that_is_none_says_what_came(said: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=f"(?s){words}") as caught:
        with_loss(regression.task(0.0, 1.0), said).losses(numbers(5, 1), numbers(5))

    assert "train.loss" in caught.value.where


@pytest.mark.parametrize("engine", kinds("engine"))
def test_own_cross_entropy_on_two_ranks_trains_as_ours_does_on_one(member: Make, engine: str) -> None:
    said = {"_target_": "torch.nn.CrossEntropyLoss", "reduction": "none"}
    ours = member("ours", train={"max_steps": 25})
    theirs = member("theirs", ranks=2, engine=Component(kind=engine), train={"max_steps": 25, "loss": said})
    for run in (ours, theirs):
        run.start()

    assert ours.wait() == [0], ours.log()
    assert theirs.wait() == [0, 0], theirs.log()

    one, two = (load_file(run.path / "model" / "model.safetensors") for run in (ours, theirs))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=1e-4)
    assert theirs.result()["metrics"] == pytest.approx(ours.result()["metrics"], rel=1e-3)


def test_own_loss_of_the_users_folder_trains_and_validates(member: Make) -> None:
    changes = {"data": Component(kind="sklearn", options={"set": "diabetes"}), "model": Component(kind="mlp")}
    loss = {"_target_": "own.huber", "delta": 20.0}
    run = member(**changes, objective=BY_LOSS, train={"max_steps": 120, "batch_size": 32, "loss": loss})

    assert run.run() == [0], run.log()

    metrics = run.result()["metrics"]
    assert metrics["val/mae"] < 55
    assert 20 * (metrics["val/mae"] - 10) <= metrics["val/loss"] <= 20 * metrics["val/mae"]  # by Huber's definition


def test_own_loss_that_gives_a_mean_ends_the_run_in_three_lines(member: Make) -> None:
    run = member(train={"max_steps": 2, "loss": {"_target_": "torch.nn.CrossEntropyLoss"}})

    assert run.run() == [1]

    assert "train.loss gives a tensor of () for 16 samples, and one loss for each is wanted: (16,)" in run.log()
    assert "Traceback" not in run.log()
