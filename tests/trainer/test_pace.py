"""Rates, what to do about waiting, and operations counted against the arithmetic of known models."""

from __future__ import annotations

import dataclasses
import random
import re

import numpy as np
import pytest
import torch
from torch import nn

from conf.machine_schema import Accelerator
from tests.trainer.ranks import make_spec, own
from trainer import score, tensors
from trainer.assemble import _scale
from trainer.insight.pace import Scale, Waits, Window, advice, begun, flops_of, kept, rates
from trainer.insight.stragglers import spread
from trainer.models import gpt
from trainer.parallel.group import Group
from trainer.rank import Rank
from trainer.sources import Shape


def test_rates_are_per_second_and_share() -> None:
    window = Window(torch.zeros(()), samples=200, waited_s=0.5)

    found = rates(window, 2.0, Scale(tokens=128, flops=1e9, peak_flops=1e12))

    assert found == {
        "train/samples_per_s": 100.0,
        "train/data_wait": 0.25,
        "train/tokens_per_s": 12800.0,
        "train/mfu": 0.1,
    }


def test_rates_are_all_names_that_a_search_may_constrain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 3_000_000_000)

    found = rates(Window(torch.zeros(()), samples=1), 1.0, Scale(tokens=2, flops=1.0, peak_flops=1.0))

    assert found["train/memory_gb"] == 3
    assert {*found, *spread([1.0, 2.0]), "train/lr", "train/grad_norm"} == set(score.BESIDE)


def test_rates_of_plain_samples_have_no_tokens_and_no_utilisation() -> None:
    assert set(rates(Window(torch.zeros(()), samples=1), 1.0, Scale())) == {"train/samples_per_s", "train/data_wait"}


@pytest.mark.parametrize(
    ("workers", "cores", "remedy"),
    [
        (None, 0, "machine.cpus_per_rank"),
        (None, 3, "try train.workers=3, or make reading cheaper"),
        (0, 3, "train.workers (now 0)"),
        (2, 0, "(now 2)"),
    ],
)
def test_advice_names_what_helps(workers: int | None, cores: int, remedy: str) -> None:
    said = advice(0.34, "", workers, cores)

    assert said.startswith("training waits for data for 34% of its time: ") and remedy in said


def test_advice_about_one_rank_names_it() -> None:
    said = advice(0.34, "rank 3 on n7", None, 0)

    assert said.startswith("training waits for the data of rank 3 on n7 alone for 34% of its time: see what else")
    assert said.endswith("raise machine.cpus_per_rank, so that data can be read ahead")


def judged(*windows: list[float]) -> list[tuple[float, int | None] | None]:
    """What is said after each of these windows of a second."""
    waits, said = Waits(), list[tuple[float, int | None] | None]()
    for number, each_s in enumerate(windows, 1):
        waits.note(each_s, 1.0, float(number))
        said.append(waits.starved(float(number)))
    return said


@pytest.mark.parametrize(
    ("each_s", "rank"),
    [([0.3], None), ([0.0, 0.3], 1), ([0.3, 0.05], 0), ([0.2, 0.3], None)],
    ids=["one rank", "the second alone", "the first alone", "both"],
)
def test_loop_that_waits_for_data_is_told_once_and_which_rank_waits(each_s: list[float], rank: int | None) -> None:
    assert judged(*[each_s] * 4) == [None, (pytest.approx(0.3), rank), None, None]


def test_start_and_waits_that_cost_little_are_not_told() -> None:
    assert judged([0.9, 0.0], *[[0.09, 0.05]] * 5) == [None] * 6


def test_ranks_that_wait_in_turn_cost_what_each_waits() -> None:
    assert judged([0.0, 0.0], [0.0, 0.15], [0.15, 0.0]) == [None, (pytest.approx(0.15), 1), None]
    assert judged([0.0] * 3, *[[0.0, 0.09, 0.2], [0.0, 0.2, 0.09]])[1] == (pytest.approx(0.2), 2)


def test_what_is_lost_is_what_the_slowest_waited_and_no_more_than_there_is() -> None:
    waits = Waits()
    for each_s in ([0.5, 0.25], [0.0, 2.0]):
        waits.note(each_s, 1.0, 1.0)

    assert waits.lost_s == 0.5 + 1.0


def test_window_of_a_checkpoint_is_every_ranks_own_again() -> None:
    said = kept(Window(torch.tensor(2.0), samples=8, begun_s=1.5, waited_s=0.5), Group(0, 1))
    assert said == {"losses": [2.0], "samples": 8, "begun_s": 1.5, "waits_s": [0.5]}
    shared = {**said, "losses": [2.0, 1.0], "waits_s": [0.5, 0.75]}

    second = begun(shared, 9.0, torch.device("cpu"), Group(1, 2))
    alone = begun(shared, 9.0, torch.device("cpu"), Group(0, 1))

    assert second == Window(torch.tensor(1.0), samples=8, begun_s=1.5, waited_s=0.75)
    assert alone == Window(torch.tensor(3.0), samples=8, begun_s=1.5, waited_s=0.75)


def test_operations_are_those_of_the_arithmetic() -> None:
    """A multiplication and an addition count as two; backward takes twice the forward pass."""
    assert flops_of(lambda: nn.Linear(30, 20), (4, 30), torch.float32) == (3 * 2 * 4 * 30 * 20, "")

    layers, width, length = 3, 32, 16
    shape = Shape("next_token", (length,), "int64", 256)
    counted, _ = flops_of(
        lambda: gpt.build(gpt.Options(n_layer=layers, n_head=2, width=width), shape), (1, length), torch.int64
    )

    matrices = layers * 12 * width * width + 256 * width
    attention = layers * 2 * length * width
    assert counted == pytest.approx(6 * length * (matrices + attention), rel=0.01)


class Odd(nn.Module):
    """Cannot be had without values, and draws random numbers of its own until that shows."""

    def __init__(self) -> None:
        super().__init__()
        random.random(), np.random.rand(), torch.rand(1, device="cpu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * x.sum().item()


class Picky(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.device.type == "cpu", "made for a CPU"
        return x


@pytest.mark.parametrize(
    ("model", "why"),
    [(Odd, "RuntimeError: .*item"), (Picky, "AssertionError: made for a CPU"), (nn.ReLU, "none of them is a product")],
)
def test_model_that_cannot_be_counted_has_no_count_and_a_reason(model: type[nn.Module], why: str) -> None:
    flops, said = flops_of(model, (1, 2), torch.float32)

    assert flops is None and re.match(why, said) and "\n" not in said


def test_counting_uses_up_no_random_numbers() -> None:
    assert not tensors.drawn(lambda: flops_of(Odd, (1, 2), torch.float32))


@pytest.mark.parametrize(
    ("device", "peaks", "model", "said"),
    [
        (
            "cuda",
            {"bf16": 9.0, "fp8": 18.0},
            "own.Net",
            ["has a peak for bf16, fp8 alone, and the run computes in fp32"],
        ),
        ("cuda", {}, "own.Net", ["has no peak, and the run computes in fp32: set accelerator.peak_tflops.fp32"]),
        ("cpu", {"bf16": 9.0}, "own.Net", ["set accelerator.peak_tflops.fp32"]),
        ("cpu", {}, "own.Net", []),
        ("cpu", {"fp32": 9.0}, "own.Net", []),
        ("cpu", {"fp32": 9.0}, "test_pace.Odd", ["cannot be counted (RuntimeError: "]),
    ],
)
def test_utilisation_that_is_missing_is_told_once_and_why(
    caplog: pytest.LogCaptureFixture, device: str, peaks: dict[str, float], model: str, said: list[str]
) -> None:
    accelerator = Accelerator(kind="none", device=device, peak_tflops=peaks)  # type: ignore[arg-type]
    folder = "tests.trainer.project" if model.startswith("own") else "tests.trainer"
    spec = make_spec(model=own(f"{folder}.{model}"))
    spec = dataclasses.replace(spec, pools=(dataclasses.replace(spec.pools[0], accelerator=accelerator),))
    caplog.set_level("INFO")

    for number in (0, 1):
        scale = _scale(
            spec, Rank(number, number, 2, 2, 0, ("127.0.0.1", 1)), Shape("classification", (10,), "float32", 10)
        )

    assert [record.message.startswith("train/mfu is not reported: ") for record in caplog.records] == [True] * len(said)
    assert all(words in record.message for words, record in zip(said, caplog.records, strict=True))
    assert bool(scale.flops) == (peaks == {"fp32": 9.0} and model == "own.Net")
