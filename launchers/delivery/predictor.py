"""A trained model as MLflow serves it: arrays in, arrays out.

register.py copies this file into the model (as fairlead_predictor.py), so it stands alone: nothing of
ours can be imported here, and only numpy and torch are there. It loads what torch.export wrote, after
its digest was compared with the card's, and never unpickles an object.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

EXPORT = "model.pt2"


def _load_pyfunc(path: str) -> Predictor:
    """What `mlflow.pyfunc.load_model` calls with the folder of the exported model."""
    return Predictor(Path(path))


class Predictor:
    """Raises ValueError when the export is not the one the card describes, or an input does not fit."""

    def __init__(self, folder: Path) -> None:
        card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
        self.inputs: list[dict[str, Any]] = card["inputs"]
        self.outputs: list[dict[str, Any]] = card["outputs"]
        _verify(folder / EXPORT, card["files"][EXPORT])
        self.module = _load(folder / EXPORT)

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> Any:
        """The output for a batch of inputs: an array, or a name-to-array mapping where there are several.

        `model_input` is an array, a data frame of numbers (for an input of two dimensions), or a mapping
        from name to array where the model has several inputs. With the parameter `raw` it is as it stood in the data:
        what was done to the training data is done to it first (gaps are filled, offset and scale), as the card says.
        """
        import torch

        raw = bool((params or {}).get("raw"))
        arrays = [self._array(model_input, spec, raw) for spec in self.inputs]
        with torch.inference_mode():
            found = self.module(*(torch.from_numpy(a) for a in arrays))
        results = [r.numpy() for r in (found if isinstance(found, tuple | list) else [found])]
        if len(results) == 1:
            return results[0]
        return {spec["name"]: result for spec, result in zip(self.outputs, results, strict=True)}

    def _array(self, given: Any, spec: Mapping[str, Any], raw: bool) -> Any:
        named = isinstance(given, Mapping) or (hasattr(given, "columns") and len(self.inputs) > 1)
        value = given[spec["name"]] if named else _in_order(given, spec)
        array = np.asarray(value, dtype=np.float64 if raw else spec["dtype"])
        wanted = tuple(spec["shape"])
        if array.ndim != len(wanted) or any(w not in (-1, n) for w, n in zip(wanted, array.shape, strict=True)):
            raise ValueError(f"input {spec['name']!r} has shape {array.shape}, but the model takes {wanted}")
        array = np.ascontiguousarray(_prepared(array, spec) if raw else array, dtype=spec["dtype"])
        return array if array.flags.writeable else array.copy()


def _in_order(given: Any, spec: Mapping[str, Any]) -> Any:
    """A data frame's columns in the order in which the model takes them, if it has them all."""
    columns = spec.get("columns")
    if columns and hasattr(given, "columns") and set(columns) <= set(given.columns):
        return given[columns]
    return given


def _prepared(rows: Any, spec: Mapping[str, Any]) -> Any:
    """What the source of the training data does to its rows; each number is a column's or a channel's."""

    def each(name: str) -> Any:
        return np.array(spec[name], dtype=np.float64).reshape(-1, *[1] * (rows.ndim - 2))

    if "fill" in spec:
        rows = np.where(np.isnan(rows), each("fill"), rows)
    if "offset" in spec:
        rows = rows - each("offset")
    return rows / each("scale") if "scale" in spec else rows


def _verify(path: Path, wanted: str) -> None:
    with path.open("rb") as f:
        found = "sha256:" + hashlib.file_digest(f, "sha256").hexdigest()
    if found != wanted:
        raise ValueError(
            f"{path.name} is not the file that was exported: its digest is {found}, the card says {wanted}"
        )


def _load(path: Path) -> Any:
    import torch

    with zipfile.ZipFile(path) as archive:
        objects = [name for name in archive.namelist() if "_obj_" in Path(name).name]
    if objects:
        raise ValueError(f"{path.name} holds pickled objects ({', '.join(objects)}), which are not loaded")
    with _weights_only():
        return torch.export.load(path).module()


@contextmanager
def _weights_only() -> Iterator[None]:
    """torch.export.load falls back to full unpickling for some parts; this switch of torch's forbids it."""
    before = os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD")
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"]
        else:
            os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = before
