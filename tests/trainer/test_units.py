"""Blocks of a model: which they are, computed again in backward, compiled. The result stays the same."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from conf.schema import Component, Objective
from tests.trainer.ranks import ROOT, Member, own
from trainer.components import kinds, part
from trainer.failure import UserError
from trainer.models import cnn, gpt
from trainer.parallel import units
from trainer.sources import Shape

Make = Callable[..., Member]
STOPPED = 75
LINEAR = ("blocks.0.0", "blocks.1.0", "layers.1", "layers.4")
"""In own.Blocks."""
TEXT = Shape("next_token", (16,), "int64", 256)


def test_compilation_in_the_middle_of_a_run_is_told_of_when_it_begins_and_ends(tmp_path: Path) -> None:
    """So that the watchdog gives it the time of what is no step."""
    code = """
import sys
from pathlib import Path
import torch
from launchers.host.beats import STEPPING
from launchers.run_folder.beat import beat_of
from trainer.insight.heartbeat import Beat
from trainer.parallel import units
beat, path, seen = Beat(Path(sys.argv[1])), Path(sys.argv[1]), []
def backend(graph, inputs):
    seen.append(beat_of(path).section)
    return graph.forward
units.when_compiling(beat.compiles, beat.compiled)
block = torch.compile(lambda x: x * 2, backend=backend)
beat.begin("train")
for kind in (torch.float32, torch.float64):
    block(torch.ones(1, 2, dtype=kind))
    assert beat_of(path).section == "train"
assert seen == ["compiling"] * 2 and "compiling" not in STEPPING, seen
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "beat-0")], cwd=ROOT, timeout=120)

    assert done.returncode == 0


def text_model() -> nn.Module:
    torch.manual_seed(1)
    return gpt.build(gpt.Options(n_layer=3, n_head=2, width=16), TEXT)


def gradients(model: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    model(inputs).square().mean().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_blocks_are_those_of_a_transformer_and_a_chain_of_layers_has_none() -> None:
    model = text_model()

    assert units.blocks(model) == list(model.blocks)[::-1]  # type: ignore[arg-type]
    assert units.blocks(cnn.build(cnn.Options(), Shape("classification", (1, 8, 8), "float32", 10))) == []


@pytest.mark.parametrize("kind", kinds("model"))
def test_a_kind_of_model_says_truly_whether_it_has_blocks(kind: str) -> None:
    """Which `check` goes by."""
    module, options = part("model", Component(kind=kind))
    shape = TEXT if "tokens" in module.TAKES else Shape("classification", (1, 8, 8), "float32", 10)

    assert getattr(module, "HAS_BLOCKS", False) == bool(units.blocks(module.build(options, shape)))


def test_recompute_keeps_less_and_gives_the_same_gradients() -> None:
    inputs = torch.randint(256, (4, 16))
    kept: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    found = []
    for recomputed in (False, True):
        model = text_model()
        if recomputed:
            units.recompute(model)
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = model(inputs).square().mean()
        found.append((sum(kept), gradients(model, inputs), loss.item()))

    (all_of_it, theirs, before), (less, ours, after) = found
    assert less < all_of_it / 2
    assert before == after
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_recompute_without_blocks_is_refused() -> None:
    with pytest.raises(UserError, match="has no blocks"):
        units.recompute(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch's compiler looks at one in between
@pytest.mark.parametrize("recomputed", [False, True], ids=["plain", "recomputed"])
def test_blocks_that_are_chains_of_torchs_own_layers_are_compiled(
    monkeypatch: pytest.MonkeyPatch, recomputed: bool
) -> None:
    chains = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(2)))
    compiled = graphs_of(monkeypatch)
    if recomputed:
        units.recompute(chains)

    units.compile_blocks(chains)
    chains(torch.randn(3, 4)).sum().backward()

    assert len(compiled) == 2
    assert list(chains.state_dict()) == ["0.0.weight", "0.0.bias", "1.0.weight", "1.0.bias"]


@pytest.mark.parametrize("kind", ["cnn", "mlp"])
def test_a_model_that_is_one_chain_of_layers_is_compiled(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    module, options = part("model", Component(kind=kind))
    model = module.build(options, Shape("classification", (1, 8, 8), "float32", 10))
    compiled = graphs_of(monkeypatch)

    units.compile_blocks(model)
    model(torch.randn(2, 1, 8, 8))

    assert len(compiled) == 1


def graphs_of(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What torch.compile will have found to compile; it is run as it is."""
    found: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        found.append(graph)
        return graph.forward

    plain = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda module: plain(module, backend=backend))
    return found


@pytest.mark.parametrize(
    ("engine", "options", "how"),
    [
        ("fsdp", {"unit_parameters": 1}, {"compile": True, "recompute": True}),
        ("deepspeed", {"stage": 3}, {"recompute": True}),
    ],
    ids=["fsdp, compiled and recomputed", "zero-3, recomputed"],
)
def test_a_model_in_pieces_that_is_compiled_or_recomputed_trains_as_the_plain_one(
    member: Make, engine: str, options: dict[str, Any], how: dict[str, bool]
) -> None:
    changes: dict[str, Any] = {
        "data": Component(kind="bytes", options={"context_length": 16, "max_mb": 0.1}),
        "model": Component(kind="gpt", options={"n_layer": 2, "n_head": 2, "width": 16}),
        "objective": Objective(metric="val/loss", goal="minimize"),
    }
    train = {"max_steps": 4, "batch_size": 8, "eval_every_steps": 2, "deterministic": True}
    plain = member("plain", **changes, train=train)
    fast = member(
        "fast",
        ranks=2,
        **changes,
        engine=Component(kind=engine, options=options),
        train={**train, **how},
    )

    assert plain.run() == [0], plain.log()
    fast.start()
    assert fast.wait(timeout_s=200) == [0, 0], fast.log()

    theirs, ours = (load_file(run.path / "model" / "model.safetensors") for run in (plain, fast))
    assert ours.keys() == theirs.keys()
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("engine", "options"),
    [("ddp", {}), ("fsdp", {})],
    ids=["ddp", "fsdp"],
)
def test_a_compiled_model_that_is_stopped_ends_as_if_it_had_not_been(
    member: Make, engine: str, options: dict[str, Any]
) -> None:
    """The names in its checkpoint are the plain ones."""
    whole, broken = (
        member(
            name,
            ranks=2,
            model=own("own.Blocks"),
            engine=Component(kind=engine, options=options),
            train={"max_steps": 8, "compile": True},
        )
        for name in ("whole", "broken")
    )

    broken.env = {"OWN_TRAINING": "4:SIGTERM"}
    assert broken.run() == [STOPPED] * 2, broken.log()
    broken.env = {}
    assert broken.run() == [0] * 2, broken.log()
    assert whole.run() == [0] * 2, whole.log()

    assert "goes on from step 4" in broken.log()
    assert "compile_end" in (broken.attempt / "ledger.jsonl").read_text()
    shards = (broken.path / "checkpoints" / "step-4" / "state").glob("*.safetensors")
    names = {name for shard in shards for name in load_file(shard)}
    layers = [f"{layer}.{kind}" for layer in LINEAR for kind in ("weight", "bias")]
    slots = ("exp_avg", "exp_avg_sq", "step")
    assert names == {f"model.{name}" for name in layers} | {f"optimizer.{n}.{slot}" for n in layers for slot in slots}
    ours, theirs = (load_file(run.path / "model" / "model.safetensors") for run in (broken, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
