"""The numbers that every case trains on, in each form that a source reads: a model cannot tell one from another.

So weights do not depend on the form, and the same undisturbed run, of rows in memory, is what all are compared with.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

from tests.chaos.cases import Form
from tests.chaos.project import chaotic

ROWS, BATCH = 150, 24
SHARD_ROWS = 32
LOADERS = 2
"""Data loader processes of a rank."""
PARTS = ("train", "validation")
SIZES = {"train": ROWS, "validation": 2 * BATCH}


def written(form: Form, folder: Path) -> Mapping[str, Any]:
    """What a file in conf/data says of them; the shards, if it names any, lie in the folder now."""
    if form == "rows":
        return {"_target_": "chaotic.rows", **SIZES}
    folder.mkdir()
    for part, samples in zip(PARTS, chaotic.rows(**SIZES), strict=True):
        points, labels = (tensor.numpy() for tensor in samples.tensors)
        for begin in range(0, len(labels), SHARD_ROWS):
            piece = slice(begin, begin + SHARD_ROWS)
            _write(form, folder / f"{part}/{begin:04}", points[piece], labels[piece])
    return {**OPTIONS[form], "path": str(folder)}


OPTIONS: Mapping[Form, Mapping[str, Any]] = {
    "tar": {
        "kind": "webdataset",
        "input": ["npy"],
        "split": {"by": "column", "column": "folder", "train": ["train"], "validation": ["validation"]},
    },
    "staged": {
        "kind": "table",
        "target": "label",
        "standardise": False,
        "split": {"by": "column", "column": "part", "train": ["train"], "validation": ["validation"]},
    },
}


def words(form: Form) -> Sequence[str]:
    """What the command line says besides."""
    if form == "rows":
        return ("train.workers=0",)
    return (f"train.workers={LOADERS}", f"staging.copy={str(form == 'staged').lower()}")


def _write(form: Form, path: Path, points: np.ndarray, labels: np.ndarray) -> None:
    """One shard, below the folder of its part."""
    path.parent.mkdir(exist_ok=True)
    if form == "tar":
        _write_tar(path.with_suffix(".tar"), points, labels)
    else:
        _write_parquet(path.with_suffix(".parquet"), points, labels)


def _write_tar(path: Path, points: np.ndarray, labels: np.ndarray) -> None:
    with tarfile.open(path, "w") as tar:
        for number, (point, label) in enumerate(zip(points, labels, strict=True)):
            array = io.BytesIO()
            np.save(array, point)
            for name, content in (("npy", array.getvalue()), ("cls", f"{label}".encode())):
                info = tarfile.TarInfo(f"{number:02}.{name}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def _write_parquet(path: Path, points: np.ndarray, labels: np.ndarray) -> None:
    columns = {f"x{number:02}": points[:, number] for number in range(points.shape[1])}
    part = [path.parent.name] * len(labels)
    pyarrow.parquet.write_table(pyarrow.table({**columns, "label": labels, "part": part}), path)
