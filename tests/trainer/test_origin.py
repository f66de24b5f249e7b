"""Weights to begin with: of a model, a checkpoint or a file, and only where something vouches for them."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from conf.schema import Component
from tests.trainer.ranks import Member
from trainer.checkpoints.checkpoint import committed, damage
from trainer.checkpoints.origin import begin_with
from trainer.durable import sha256
from trainer.failure import UserError

Make = Callable[..., Member]
Same = dict[str, torch.Tensor]


class Tied(nn.Module):
    """Two names of one parameter, and a buffer."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(width, 4, bias=False), nn.Linear(width, 4, bias=False)
        self.last.weight = self.first.weight
        self.norm = nn.BatchNorm1d(4)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Member:
    """A member of one rank, with checkpoints and a model."""
    from tests.trainer.ranks import make_spec

    path = tmp_path_factory.mktemp("run") / "members" / "0"
    path.mkdir(parents=True)
    run = Member(path, make_spec(train={"max_steps": 5}))
    assert run.run() == [0], run.log()
    return run


@pytest.fixture
def copy(trained: Member, tmp_path: Path) -> Path:
    """That member, to spoil."""
    shutil.copytree(trained.path, tmp_path / "copy")
    return tmp_path / "copy"


def net() -> nn.Module:
    from tests.trainer.project.own import Net

    torch.manual_seed(99)
    return Net()


def exported(member: Path) -> Same:
    return load_file(member / "model" / "model.safetensors")


def is_as(model: nn.Module, weights: Same) -> bool:
    mine = model.state_dict()
    return mine.keys() == weights.keys() and all(torch.equal(mine[name], weights[name]) for name in mine)


def forged(folder: Path, **tensors: torch.Tensor) -> Path:
    """A model folder with a card."""
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    digest = f"sha256:{sha256(folder / 'model.safetensors')}"
    (folder / "card.json").write_text(json.dumps({"files": {"model.safetensors": digest}}))
    return folder


# --- what is found, and by what ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("below", "vouched"),
    [
        ("model", "card.json"),
        ("model/model.safetensors", "card.json"),
        ("", "card.json"),
        ("../..", "card.json"),
        ("checkpoints", "manifest.json"),
        ("checkpoints/step-5", "manifest.json"),
    ],
)
def test_begin_with_what_a_member_left(trained: Member, below: str, vouched: str) -> None:
    model = net()

    origin = begin_with(model, str(trained.path / below), trusted=False)

    assert origin.vouched == vouched
    assert is_as(model, exported(trained.path))


def test_begin_with_a_member_without_a_model_takes_its_newest_whole_checkpoint(copy: Path) -> None:
    shutil.rmtree(copy / "model")
    shutil.copytree(copy / "checkpoints" / "step-5", copy / "checkpoints" / "step-9")
    (copy / "checkpoints" / "step-9" / "state.json").unlink()

    assert begin_with(net(), str(copy), trusted=False).path.name == "step-5"


def test_begin_with_a_run_of_several_members_asks_which(trained: Member, tmp_path: Path) -> None:
    for number in range(2):
        shutil.copytree(trained.path, tmp_path / "run" / "members" / str(number))

    with pytest.raises(UserError, match=r"is a run of 2 members[\s\S]*members/0"):
        begin_with(net(), str(tmp_path / "run"), trusted=False)


def test_begin_with_tied_weights_and_buffers_of_a_checkpoint(tmp_path: Path) -> None:
    from trainer.checkpoints import state
    from trainer.checkpoints.checkpoint import Checkpoints
    from trainer.parallel.group import Group

    theirs, mine = Tied(), Tied()
    theirs.norm.running_mean += 3
    alone = Group(0, 1)
    kept = state.of(theirs, torch.optim.SGD(theirs.parameters()))
    path = Checkpoints(tmp_path, "attempt-0", 1, alone).save(1, lambda folder: state.write(folder, kept, alone))

    begin_with(mine, str(path), trusted=False)

    assert is_as(mine, theirs.state_dict())
    assert mine.first.weight is mine.last.weight


# --- what is refused ---------------------------------------------------------------------


def test_file_that_nothing_vouches_for_is_refused_unless_it_is_trusted(trained: Member, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file(exported(trained.path), path)
    model = net()

    with pytest.raises(UserError, match=r"nothing vouches for[\s\S]*train.trust_unverified=true"):
        begin_with(model, str(path), trusted=False)
    assert not is_as(model, exported(trained.path))

    assert begin_with(model, str(path), trusted=True).vouched == ""
    assert is_as(model, exported(trained.path))


def test_file_with_another_digest_than_its_card_says_is_refused_unless_it_is_trusted(copy: Path) -> None:
    weights = {name: tensor + 1 for name, tensor in exported(copy).items()}
    save_file(weights, copy / "model" / "model.safetensors")
    model = net()

    with pytest.raises(UserError, match=r"has the digest sha256:\w+, and card.json beside it says sha256:\w+"):
        begin_with(model, str(copy / "model"), trusted=False)

    begin_with(model, str(copy / "model"), trusted=True)
    assert is_as(model, weights)


def harmed(copy: Path, harm: str) -> Path:
    """A checkpoint that is not as its manifest says."""
    folder = copy / "checkpoints" / "step-5"
    (shard,) = (folder / "state").glob("*.safetensors")
    if harm == "flipped":
        content = bytearray(shard.read_bytes())
        content[-1] ^= 1
        shard.write_bytes(content)
    elif harm == "cut":
        os.truncate(shard, shard.stat().st_size // 2)
    elif harm == "other shapes":
        shard.write_bytes(shard.read_bytes().replace(b'"shape":[16', b'"shape":[17'))
    elif harm == "foreign":
        save_file({"mine": torch.zeros(1)}, folder / "state" / "shard-00009-model-00001-of-00001.safetensors")
    elif harm == "no manifest to read":
        (folder / "manifest.json").write_text("{")
    else:
        (folder / "state.json").unlink()
    return folder


@pytest.mark.parametrize(
    ("harm", "named"),
    [
        ("flipped", r"^.*: state/shard-\S*.safetensors has another digest than when it was written$"),
        ("foreign", r"^.*: state/shard-00009\S*.safetensors is not in its manifest.json$"),
        ("no state", "^.*: state.json is missing$"),
        ("no manifest to read", r"^.*: manifest.json cannot be read \(JSONDecodeError\)$"),
    ],
)
def test_checkpoint_that_is_not_as_its_manifest_says_is_refused_unless_it_is_trusted(
    copy: Path, harm: str, named: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder, model = harmed(copy, harm), net()
    with pytest.raises(UserError, match=r"the checkpoint .* is damaged[\s\S]*train.trust_unverified=true"):
        begin_with(model, str(folder), trusted=False)

    assert begin_with(model, str(folder), trusted=True).vouched == ""

    (warning,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert re.match(named, warning)
    assert is_as(model, exported(copy)), "what was harmed is not the weights"


@pytest.mark.parametrize("harm", ["cut", "other shapes"])
def test_trusted_checkpoint_of_which_nothing_can_be_read_is_told(copy: Path, harm: str) -> None:
    with pytest.raises(UserError, match=r"no weights can be read from the damaged checkpoint .* \(\w+: "):
        begin_with(net(), str(harmed(copy, harm)), trusted=True)


def test_run_goes_on_from_no_checkpoint_with_a_foreign_file(trained: Member, copy: Path) -> None:
    """It would be read with the others."""
    newest = committed(copy / "checkpoints")[0]
    assert damage(newest) is None

    save_file({"model.layers.1.weight": torch.zeros(16, 10)}, newest / "state" / "mine.safetensors")

    assert damage(newest) == "state/mine.safetensors is not in its manifest.json"


class Evil:
    def __reduce__(self) -> Any:
        return (Path("/proc/self/fairlead-was-here").write_text, ("x",))


@pytest.mark.parametrize("name", ["model.pt", "model.bin", "model.safetensors"])
def test_pickled_file_is_not_read_whatever_its_name_and_the_users_word(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_bytes(pickle.dumps(Evil()))
    monkeypatch.setattr(pickle, "loads", None)
    monkeypatch.setattr(pickle, "load", None)

    with pytest.raises(UserError, match="is no safetensors file"):
        begin_with(net(), str(tmp_path / name), trusted=True)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"first.weight": torch.zeros(4, 3)}, "it lacks 'last.weight', 'norm.weight'"),
        ({**Tied().state_dict(), "more": torch.zeros(1)}, "it has 'more' besides"),
        ({**Tied().state_dict(), "first.weight": torch.zeros(9, 3)}, r"first.weight is \[9, 3\] and not \[4, 3\]"),
    ],
)
def test_weights_of_another_model_are_told(tmp_path: Path, tensors: Same, words: str) -> None:
    folder = forged(tmp_path / "m", **{name: tensor.detach().clone() for name, tensor in tensors.items()})

    with pytest.raises(UserError, match=f"has the weights of another model: .*{words}"):
        begin_with(Tied(), str(folder), trusted=False)


@pytest.mark.parametrize("card", ["{", "[]", '{"files": {}}'])
def test_card_that_says_nothing_vouches_for_nothing(tmp_path: Path, card: str) -> None:
    folder = forged(tmp_path / "m", **{n: t.detach().clone() for n, t in Tied().state_dict().items()})
    (folder / "card.json").write_text(card)

    with pytest.raises(UserError, match=r"is no card of a model|nothing vouches for"):
        begin_with(Tied(), str(folder), trusted=False)


def test_nothing_there_is_told(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(UserError, match="cannot be read"):
            begin_with(net(), str(path), trusted=False)


# --- whole runs ---------------------------------------------------------------------


@pytest.mark.parametrize(("engine", "ranks"), [("ddp", 1), ("fsdp", 2)])
def test_run_begins_with_another_runs_weights_and_goes_on_from_its_own(
    member: Make, copy: Path, engine: str, ranks: int
) -> None:
    """A learning rate of nothing shows with what it began."""
    frozen = Component(kind="adamw", options={"lr": 1e-30})
    train = {"max_steps": 2, "start_from": str(copy / "checkpoints"), "checkpoint_every_steps": 1}
    run = member(ranks=ranks, engine=Component(kind=engine), optimizer=frozen, train=train)
    begun = exported(copy)

    assert run.run() == [0] * ranks, run.log()
    assert "begins with the weights of" in run.log() and "as manifest.json says" in run.log()
    assert exported(run.path).keys() == begun.keys()
    assert all(torch.equal(tensor, begun[name]) for name, tensor in exported(run.path).items())

    shutil.rmtree(copy)
    run.spec = dataclasses.replace(run.spec, train=dataclasses.replace(run.spec.train, max_steps=3))
    assert run.run() == [0] * ranks, run.log()
    assert "goes on from step 2" in run.log()


def test_run_that_begins_with_an_unknown_file_is_the_users_mistake(member: Make, tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    run = member(train={"max_steps": 2, "start_from": str(tmp_path / "x.safetensors")})

    assert run.run() == [1]

    error = json.loads((run.attempt / "rank-0.error.json").read_text())
    assert (error["cause"], "nothing vouches for" in error["message"]) == ("user_error", True)
    assert "Traceback" not in run.log()
