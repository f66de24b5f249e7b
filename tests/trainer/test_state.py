"""What goes to disk of a model and an optimizer comes back the same, without pickle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from trainer.checkpoints import state
from trainer.optimizers import adamw, sgd
from trainer.parallel.group import Group

ALONE = Group(0, 1)


def trained(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    losses = []
    for step in range(steps):
        loss = model(torch.full((4, 3), float(step))).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def brought_back(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    found = state.of(model, optimizer)
    state.read(folder, found.tensors, ALONE)
    state.put(model, optimizer, state.State(found.tensors, state.rest(folder)))


OPTIMIZERS: list[Any] = [
    lambda model: adamw.build(adamw.Options(lr=0.01), model),
    lambda model: sgd.build(sgd.Options(lr=0.01), model),
    lambda model: sgd.build(sgd.Options(lr=0.01, momentum=0.0), model),
    lambda model: torch.optim.RMSprop(model.parameters(), lr=0.01),
    lambda model: torch.optim.ASGD(model.parameters(), lr=0.01),
]


@pytest.mark.parametrize("build", OPTIMIZERS, ids=["adamw", "sgd", "plain sgd", "rmsprop", "asgd"])
def test_model_and_optimizer_go_on_exactly(tmp_path: Path, build: Any) -> None:
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))
    optimizer = build(model)
    trained(model, optimizer, 3)
    state.write(tmp_path, state.of(model, optimizer), ALONE)
    expected = trained(model, optimizer, 3)

    again = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))
    other = build(again)
    brought_back(tmp_path, again, other)

    assert trained(again, other, 3) == expected
    assert {path.suffix for path in (tmp_path / "state").iterdir()} == {".json", ".safetensors"}


def test_model_with_tied_and_frozen_weights_comes_back(tmp_path: Path) -> None:
    def made(seed: int) -> nn.Sequential:
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False), nn.Linear(3, 2))
        model[1].weight = model[0].weight
        model[2].bias.requires_grad = False
        return model

    model, again = made(1), made(2)
    optimizer, other = (torch.optim.AdamW([p for p in m.parameters() if p.requires_grad]) for m in (model, again))
    trained(model, optimizer, 2)
    state.write(tmp_path, state.of(model, optimizer), ALONE)

    brought_back(tmp_path, again, other)

    assert all(torch.equal(ours, theirs) for ours, theirs in zip(again.parameters(), model.parameters(), strict=True))
    assert again[1].weight is again[0].weight
    assert trained(again, other, 2) == trained(model, optimizer, 2)


def test_entry_that_is_no_tensor_is_refused_by_name() -> None:
    class Odd(nn.Linear):
        def get_extra_state(self) -> dict[str, int]:
            return {"a": 1}

        def set_extra_state(self, state: object) -> None: ...

    model = Odd(3, 2)

    with pytest.raises(TypeError, match="_extra_state"):
        state.of(model, torch.optim.AdamW(model.parameters()))


def test_copy_stays_as_it_was_while_training_goes_on(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    trained(model, optimizer, 2)
    now = {name: value.clone() for name, value in state.of(model, optimizer).tensors.items()}

    copy = state.Copier(torch.device("cpu")).copied(state.of(model, optimizer))
    trained(model, optimizer, 2)

    assert all(torch.equal(copy.tensors[name], value) for name, value in now.items())
    assert not torch.equal(model.weight, now["model.weight"])


def test_disk_that_takes_nothing_is_an_os_error(tmp_path: Path) -> None:
    model = nn.Linear(300, 20)
    (tmp_path / "state").symlink_to("/dev/full/nothing")

    with pytest.raises(OSError, match=r"/dev/full|state"):
        state.write(tmp_path, state.of(model, torch.optim.AdamW(model.parameters())), ALONE)
