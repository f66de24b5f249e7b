"""Linear layers that multiply in 8 bits: which they are, that they learn, and who is told that there are none."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from conf.schema import Component
from tests.trainer.ranks import Member, own
from trainer.components import part
from trainer.engines import Engine, Place
from trainer.failure import UserError
from trainer.parallel import fp8
from trainer.rank import Rank

CPU = torch.device("cpu")
Make = Callable[..., Member]
STOPPED, STEPS, LR = 75, 12, 0.003


def model() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 20), nn.Linear(20, 48), nn.Linear(48, 16))


def test_layers_are_those_whose_sides_fit_but_for_the_last() -> None:
    assert fp8.layers(model()) == ["0"]
    assert fp8.layers(nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 32))) == ["0", "1"]


def test_converted_keeps_names_and_rounds_what_it_multiplies() -> None:
    inputs, plain = torch.randn(8, 32), model()
    narrow = fp8.converted(model())

    assert list(narrow.state_dict()) == list(plain.state_dict())
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        ours, theirs = narrow[0](inputs).float(), plain[0](inputs).float()
    error = ((ours - theirs).norm() / theirs.norm()).item()
    assert 0.01 < error < 0.1  # three bits of mantissa; bf16 has seven


def started(monkeypatch: pytest.MonkeyPatch) -> Engine:
    monkeypatch.setattr(fp8, "must_be_there", lambda device: None)
    module, options = part("engine", Component(kind="ddp"))
    place = Place(Rank(0, 0, 1, 1, 0, ("127.0.0.1", 1)), CPU, "fp8")
    return module.start(options, place, model(), lambda m: torch.optim.AdamW(m.parameters(), lr=0.01))


def test_engine_learns_in_fp8(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, losses = started(monkeypatch), []
    inputs, targets = torch.randn(32, 32), torch.randint(16, (32,))
    for _ in range(20):
        loss = nn.functional.cross_entropy(engine.forward(inputs).float(), targets)
        engine.backward(loss)
        engine.step(1.0, None)
        losses.append(loss.item())

    assert type(engine.module[0]).__name__ == "Float8Linear"
    assert losses[-1] < 0.7 * losses[0]
    assert {name: w.dtype for name, w in engine.weights().items()} == dict.fromkeys(model().state_dict(), torch.float32)


def in_pieces(member: Make, name: str, precision: str) -> Member:
    """A run on two ranks, each layer in a piece of its own."""
    engine = Component(kind="fsdp", options={"unit_parameters": 1})
    train = {"max_steps": STEPS, "precision": precision}
    return member(name, ranks=2, model=own("eight.Net"), engine=engine, train=train)


def test_model_in_pieces_multiplies_in_fp8_and_goes_on_exactly(member: Make) -> None:
    whole, broken, plain = (in_pieces(member, *each) for each in (("a", "fp8"), ("b", "fp8"), ("c", "bf16")))
    broken.env = {"OWN_TRAINING": "6:SIGTERM"}
    assert broken.run() == [STOPPED] * 2, broken.log()
    broken.env = {}
    for run in (whole, broken, plain):
        assert run.run() == [0] * 2, run.log()

    assert "FSDPLinear ReLU FSDPFloat8Linear ReLU FSDPLinear" in whole.log() and "Float8" not in plain.log()
    ours, again, theirs = (load_file(run.path / "model" / "model.safetensors") for run in (whole, broken, plain))
    assert all(torch.equal(again[name], ours[name]) for name in ours)
    apart = torch.cat([(ours[name] - theirs[name]).abs().flatten() for name in theirs])
    assert 0 < apart.mean() < LR * STEPS * 2**-4  # by which fp8 rounds at most, as if all steps went one way


def test_model_without_such_layers_is_refused() -> None:
    with pytest.raises(UserError, match=r"no linear layer of Sequential[\s\S]*multiples of 16"):
        fp8.converted(nn.Sequential(nn.Linear(10, 32), nn.Linear(32, 32)))


def test_package_that_is_missing_is_named_with_the_extra_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao", None)
    monkeypatch.delitem(sys.modules, "torchao.float8", raising=False)

    with pytest.raises(UserError, match=r"needs the Python package torchao[\s\S]*train.precision=fp8[\s\S]*\[fp8\]"):
        fp8.converted(model())


@pytest.mark.parametrize(
    ("hip", "has", "able"),
    [
        (None, (9, 0), True),
        (None, (8, 9), True),
        (None, (8, 0), False),
        ("6.4", "gfx942:sramecc+", True),
        ("6.4", "gfx90a", False),
    ],
)
def test_card_that_has_no_fp8_is_refused(
    monkeypatch: pytest.MonkeyPatch, hip: str | None, has: tuple[int, int] | str, able: bool
) -> None:
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: has)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(gcnArchName=has))

    if able:
        fp8.must_be_there(torch.device("cuda", 0))
        return
    with pytest.raises(UserError, match=r"cannot compute in fp8[\s\S]*train.precision[\s\S]*h100"):
        fp8.must_be_there(torch.device("cuda", 0))
