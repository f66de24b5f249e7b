"""Rates, what to do about waiting, and operations counted against the arithmetic of known models."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trainer import score
from trainer.insight.pace import Scale, Window, advice, flops_of, rates
from trainer.insight.stragglers import spread
from trainer.models import gpt
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
    assert "34%" in advice(0.34, workers, cores)
    assert remedy in advice(0.34, workers, cores)
    assert advice(0.1, workers, cores) == ""


def test_operations_are_those_of_the_arithmetic() -> None:
    """A multiplication and an addition count as two; backward takes twice the forward pass."""
    assert flops_of(lambda: nn.Linear(30, 20), (4, 30), torch.float32) == 3 * 2 * 4 * 30 * 20

    layers, width, length = 3, 32, 16
    shape = Shape("next_token", (length,), "int64", 256)
    counted = flops_of(
        lambda: gpt.build(gpt.Options(n_layer=layers, n_head=2, width=width), shape), (1, length), torch.int64
    )

    matrices = layers * 12 * width * width + 256 * width
    attention = layers * 2 * length * width
    assert counted == pytest.approx(6 * length * (matrices + attention), rel=0.01)


def test_model_that_cannot_be_counted_has_no_count() -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * x.sum().item()

    assert flops_of(Odd, (1, 2), torch.float32) is None
