"""The models give what their docstrings say, and can be exported with any batch size."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from conf.schema import Component
from trainer import export, score
from trainer.assemble import build_model
from trainer.failure import UserError
from trainer.models import cnn, gpt, mlp
from trainer.sources import Shape

IMAGE = Shape("classification", (1, 8, 8), "float32", 10)
COLUMNS = Shape("classification", (13,), "float32", 3)
ROW = Shape("next_token", (16,), "int64", 256)


def test_gpt_does_not_look_ahead() -> None:
    model = gpt.build(gpt.Options(n_layer=2, width=16), ROW).eval()
    tokens = torch.randint(256, (1, 16))
    changed = tokens.clone()
    changed[0, 9] = (tokens[0, 9] + 1) % 256

    same = (model(tokens) == model(changed)).all(-1)[0]

    assert same[:9].all()
    assert not same[9:].any()


def test_gpt_starts_as_ignorant_as_a_uniform_guess() -> None:
    torch.manual_seed(1)
    model = gpt.build(gpt.Options(), ROW)
    tokens = torch.randint(256, (8, 17))

    loss = score.losses(model(tokens[:, :-1]), tokens[:, 1:]).mean()

    assert loss.item() == pytest.approx(5.545, abs=0.1)  # ln 256


def test_score_of_positions_is_the_mean_over_them() -> None:
    outputs = torch.tensor([[[9.0, 0.0], [0.0, 9.0]], [[9.0, 0.0], [9.0, 0.0]]])
    targets = torch.tensor([[0, 0], [0, 0]])

    assert score.hits(outputs, targets).tolist() == [0.5, 1.0]
    assert score.losses(outputs, targets)[0].item() == pytest.approx(4.5, abs=0.001)


@pytest.mark.parametrize("shape", [(7, 5), (7, 3, 5)])
def test_score_total_is_the_sum_over_samples_with_and_without_weights(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(1)
    outputs, targets = torch.randn(shape, generator=generator), torch.randint(5, shape[:-1], generator=generator)
    losses, weights = score.losses(outputs, targets), torch.tensor([1.0, 1, 0, 1, 0, 0, 1])

    torch.testing.assert_close(score.total(outputs, targets), losses.sum())
    torch.testing.assert_close(score.total(outputs, targets, weights), losses[weights == 1].sum())


@pytest.mark.parametrize(
    ("build", "shape", "words"),
    [
        (lambda s: build_model(Component(kind="cnn"), s), ROW, "cnn takes images, but the data gives tokens"),
        (lambda s: build_model(Component(kind="cnn"), s), COLUMNS, "cnn takes images, but the data gives numbers"),
        (lambda s: build_model(Component(kind="gpt"), s), IMAGE, "gpt takes tokens, but the data gives images"),
        (lambda s: build_model(Component(kind="mlp"), s), ROW, "mlp takes images or numbers"),
        (lambda s: gpt.build(gpt.Options(width=10, n_head=4), s), ROW, "model.width is 10, which 4 heads"),
        (
            lambda s: build_model(Component(kind="mlp"), s),
            Shape("classification", (3,), "float32", 0),
            "how many classes",
        ),
    ],
)
def test_model_that_does_not_fit_the_data_says_so(build: object, shape: Shape, words: str) -> None:
    with pytest.raises(UserError, match=words):
        build(shape)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (cnn.build(cnn.Options(width=4), IMAGE), IMAGE),
        (mlp.build(mlp.Options(width=4, depth=0), IMAGE), IMAGE),
        (gpt.build(gpt.Options(n_layer=1, width=8, dropout=0.5), ROW), ROW),
    ],
    ids=["cnn", "mlp", "gpt"],
)
def test_export_program_takes_any_batch_and_says_what_the_model_says(
    tmp_path: Path, model: torch.nn.Module, shape: Shape
) -> None:
    def inputs(rows: int) -> torch.Tensor:
        return torch.rand(rows, *shape.input_shape) if shape is IMAGE else torch.randint(256, (rows, 16))

    export.write(tmp_path, export.Export(model, Component(kind="x"), shape, inputs(2), {"val/loss": 1.0}))
    program = torch.export.load(tmp_path / "model.pt2").module()

    for rows in (1, 2, 5):
        given = inputs(rows)
        assert torch.allclose(program(given), model(given), atol=1e-5)
    card = json.loads((tmp_path / "card.json").read_text())
    assert card["inputs"][0]["shape"] == [-1, *shape.input_shape]
    assert card["outputs"][0]["shape"] == [-1, *model(inputs(1)).shape[1:]]
    assert card["parameters"] == sum(t.numel() for t in load_file(tmp_path / "model.safetensors").values())


def test_export_as_onnx_without_its_packages_is_refused_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)

    with pytest.raises(UserError, match="onnxscript, which is not installed") as caught:
        export.can_write_onnx()

    assert "fairlead[onnx]" in str(caught.value)


def test_export_of_a_model_that_cannot_be_traced_leaves_weights_and_a_card(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Fickle(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) if x.sum().item() > 0 else x

    model = Fickle(3, 3)

    export.write(tmp_path, export.Export(model, Component(kind="x"), IMAGE, torch.ones(2, 3), {}))

    assert "no model.pt2" in caplog.text
    assert set(json.loads((tmp_path / "card.json").read_text())["files"]) == {"model.safetensors"}
    assert not (tmp_path / "model.pt2").exists()
