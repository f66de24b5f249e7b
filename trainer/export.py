"""What is left for those who use the model? Weights, a program that needs only torch, and a card.

model/model.safetensors   the weights by torch's names
model/model.pt2           torch.export: CPU, fp32, eval mode, any batch size
model/model.onnx          the same as ONNX, where train.onnx asks for it
model/card.json           what goes in and out; written last, so where it is the rest is too

The card says what becomes of raw rows before a model sees them, as far as the source knows: a gap is filled, `offset`
is taken away, and the rest divided by `scale`, for each column or channel. Of a regression it says what the programs do
with what the weights give, and the user of the weights alone has to: `target` times `scale` plus `offset`.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from conf.schema import Component
from trainer import tensors
from trainer.durable import sha256, sync, write_json
from trainer.packages import needed
from trainer.sources import Card, Data, Shape

log = logging.getLogger(__name__)

FORMAT = 1
WEIGHTS, PROGRAM, ONNX = "model.safetensors", "model.pt2", "model.onnx"
LARGEST_ONNX_BYTES = 2_000_000_000
"""A file of ONNX's can have 2 GiB, as protobuf's can; weights beyond lie in a second one."""


@dataclass(frozen=True)
class Export:
    """A trained model and what its card says of it."""

    model: nn.Module
    component: Component
    shape: Shape
    example: Tensor
    metrics: Mapping[str, Any]
    data: Component | None = None
    """What it was trained on, and what the source says of that."""
    data_card: Card | None = None
    onnx: bool = False
    for_use: Callable[[nn.Module], nn.Module] = lambda model: model
    """The model as the programs have it (score.Task.exported)."""


def can_write_onnx() -> None:
    """Raises UserError where the packages for it are not installed: before a run is trained, not after."""
    for module in ("onnx", "onnxscript"):
        needed(module, module, "train.onnx: true", extra="onnx")


def example_of(data: Data) -> Tensor:
    """Two samples as the model gets them."""
    rows = np.arange(2) % len(data.validation) if len(data.validation) else np.arange(2) % len(data.train)
    return (data.validation if len(data.validation) else data.train).batch(rows)[0]


def write(folder: Path, export: Export) -> None:
    """Write the files. A model that torch.export (or ONNX) cannot take gets no such file, and a warning."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "card.json").unlink(missing_ok=True)
    model = export.model.to("cpu", torch.float32).eval()
    whole = export.for_use(model).eval()
    with torch.no_grad():
        output = whole(export.example)
    _commit(folder / WEIGHTS, lambda path: tensors.save_weights(path, model.state_dict()))
    names = [WEIGHTS]
    program = _program(whole, export.example)
    if program is not None:
        _commit(folder / PROGRAM, lambda path: torch.export.save(program, path))
        names.insert(0, PROGRAM)
        names += _onnx(folder, program) if export.onnx else []
    files = {name: f"sha256:{sha256(folder / name)}" for name in names}
    write_json(folder / "card.json", _card(export, output, files))
    sync(folder)


def _program(model: nn.Module, example: Tensor) -> torch.export.ExportedProgram | None:
    try:
        return torch.export.export(model, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    except (RuntimeError, TypeError, ValueError) as e:
        log.warning("no model.pt2: torch.export cannot take this model: %s", str(e).strip().splitlines()[0])
        return None


def _onnx(folder: Path, program: torch.export.ExportedProgram) -> list[str]:
    """Write the program as ONNX; the names of its files."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it misses torchvision, which no model here needs
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's own use of what is deprecated
            made = torch.onnx.export(
                program, dynamo=True, input_names=["input"], output_names=["output"], verbose=False
            )
    except (RuntimeError, TypeError, ValueError) as e:
        log.warning("no %s: torch.onnx cannot take this model: %s", ONNX, str(e).strip().splitlines()[0])
        return []
    assert made is not None
    apart = sum(tensor.nbytes for tensor in program.state_dict.values()) > LARGEST_ONNX_BYTES
    if apart:  # the first file names the second, so neither can be written under another name
        made.save(folder / ONNX, external_data=True)
        return [ONNX, f"{ONNX}.data"]
    _commit(folder / ONNX, lambda path: made.save(path, external_data=False))
    return [ONNX]


def _card(export: Export, output: Tensor, files: Mapping[str, str]) -> dict[str, Any]:
    said = export.data_card
    prepared = ("columns", "fill", "offset", "scale")
    given = {name: list(getattr(said, name)) for name in prepared if getattr(said, name, ())}
    classes = {"classes": list(said.classes)} if said and said.classes else {}
    document = {
        "format": FORMAT,
        "task": export.shape.task,
        **_target(export.shape),
        "inputs": [{**_side("input", export.example), **given}],
        "outputs": [{**_side("output", output), **classes}],
        "input_example": export.example.tolist(),
        "model": _component(export.component),
        "parameters": sum(p.numel() for p in export.model.parameters()),
        "torch": torch.__version__.partition("+")[0],
        "files": dict(files),
        "metrics": dict(export.metrics),
    }
    return {**document, "data": _component(export.data)} if export.data else document


def _target(shape: Shape) -> dict[str, Any]:
    is_number = shape.task == "regression"
    return {"target": {"offset": shape.target_offset, "scale": shape.target_scale}} if is_number else {}


def _component(component: Component) -> dict[str, Any]:
    return {"kind": component.kind, "options": dict(component.options)}


def _side(name: str, tensor: Tensor) -> dict[str, Any]:
    return {"name": name, "dtype": str(tensor.dtype).removeprefix("torch."), "shape": [-1, *tensor.shape[1:]]}


def _commit(path: Path, write: Callable[[Path], object]) -> None:
    aside = path.with_name(f".{os.getpid()}.{path.name}")
    write(aside)
    sync(aside)
    aside.replace(path)
