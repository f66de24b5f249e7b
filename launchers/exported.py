"""Which splits of the data does a program find as files, and where? What Vertex calls a managed data set's export.

Vertex gives `csv` of tables and `jsonl` of the rest, or `bigquery`; here the job says which of the first two, and of
images it has to be `jsonl`. Its URIs are of an object store; these are absolute paths, below the run's folder, which
every node and the container see, with Vertex's names and wildcard: .../training-*.csv. A test that is not declared has
no variable; Vertex always makes one. How they are written is trainer/export_splits.py's. Pure, standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from conf import schema

FOLDER = "splits"
"""Of a run: a folder for each member, named by its number, and a file that names the entry they come from."""
STORE = ".splits"
"""Beside the runs: an entry for each content, for every run that asks for it."""
VARIABLES = {
    "training": "AIP_TRAINING_DATA_URI",
    "validation": "AIP_VALIDATION_DATA_URI",
    "test": "AIP_TEST_DATA_URI",
}
TEST_KEYS = ("test_fraction", "test", "test_from")
"""Of data.split: any of them declares a test (trainer/data/splits.py)."""


@dataclass(frozen=True, kw_only=True)
class Export:
    """What is exported for every member."""

    format: Literal["jsonl", "csv"]
    parts: tuple[str, ...]


def of(spec: schema.Spec) -> Export | None:
    """None where a job asks for no files. All its pools see them."""
    jobs = [pool.job or spec.job for pool in spec.pools]
    form = next((job.data_format for job in jobs if job.data_format), None)
    if form is None:
        return None
    split = spec.data.options.get("split") or {}
    tested = any(split.get(key) for key in TEST_KEYS) or split.get("test_from") is not None
    return Export(format=form, parts=tuple(name for name in VARIABLES if name != "test" or tested))


def folder_of(run_dir: str, member: int) -> Path:
    """Where a member's files are."""
    return Path(run_dir, FOLDER, str(member))


def variables(export: Export, run_dir: str, member: int) -> dict[str, str]:
    """What a member's program is told."""
    folder = folder_of(run_dir, member)
    uris = {VARIABLES[part]: f"{folder}/{part}-*.{export.format}" for part in export.parts}
    return {"AIP_DATA_FORMAT": export.format, **uris}
