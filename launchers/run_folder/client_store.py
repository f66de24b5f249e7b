"""The store that a program's own MLflow client writes into: files in its member's folder, from which forward.py brings
everything into the real store, with the times it had.

So a program never waits for a server, dies of one that is away, or needs to reach it or its credentials. MLflow's
file store is what every version of the client can write, and what can be read while it grows (3.17 wants
MLFLOW_ALLOW_FILE_STORE for it). Its run is there before the program and is kept over all attempts. Standard library
only. Source: mlflow/store/tracking/file_store.py.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from launchers.run_folder.record import Member, make_private, read_json, write_json, write_text

FOLDER, EXPERIMENT = "mlflow", "1"
MODELS = "models"
"""Below the store the registry, below an experiment its logged models."""
CHECKED, MASKED_PARAMS = "mlflow-checked.json", "params-masked.json"
"""Of a job with secrets. The first is beside the store, the other in a run's folder, where the client looks at
nothing but what it knows."""
RUNNING, LOCAL = 1, 4
"""MLflow's numbers for a run's status and its source."""
OF_RANK_0 = ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME")
URIS = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")


def run_id(job: str, index: int) -> str:
    """Of the run that the program is given: the same for all attempts, and known before any."""
    return hashlib.sha256(f"{job}/{index}".encode()).hexdigest()[:32]


def variables(member_dir: Path, job: str, experiment: str) -> dict[str, str]:
    """What rank 0 is told; the other ranks get another store, and none of OF_RANK_0."""
    uri = (member_dir / FOLDER).as_uri()
    return {
        **dict.fromkeys(URIS, uri),
        "MLFLOW_RUN_ID": run_id(job, int(member_dir.name)),
        "MLFLOW_EXPERIMENT_ID": EXPERIMENT,
        "MLFLOW_EXPERIMENT_NAME": experiment,
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


def uri_of_others(names: Mapping[str, str]) -> str | None:
    """Where a rank's own store is, to which its number is added; None where the store is not ours."""
    ours = names.get("MLFLOW_TRACKING_URI") == Path(names["FAIRLEAD_MEMBER_DIR"], FOLDER).as_uri()
    return Path(names["FAIRLEAD_ATTEMPT_DIR"], FOLDER).as_uri() if ours else None


def run_folder(member: Member, job: str) -> Path:
    return member.path / FOLDER / EXPERIMENT / run_id(job, member.index)


def make(member: Member, job: str, experiment: str) -> None:
    """The store with the program's run, unless it is there. Raises OSError."""
    folder, now = run_folder(member, job), int(time.time() * 1000)
    if (folder / "meta.yaml").exists():
        return
    for path in (member.path / FOLDER, folder.parent, folder):
        make_private(path)
    for name in ("metrics", "params", "tags", "artifacts"):
        make_private(folder / name)
    _write(folder.parent, _experiment(folder.parent, experiment, now))
    _write(folder, _run(folder, now))


def files(store: Path) -> Iterator[Path]:
    """All that are there, whatever comes and goes meanwhile; no link, which may lead anywhere."""
    for place, _, names in os.walk(store):
        yield from (path for name in names if (path := Path(place, name)).is_file() and not path.is_symlink())


def is_metric(path: Path, store: Path) -> bool:
    """Whether a file of a store is a metric of a run: <experiment>/<run>/metrics/<name>."""
    return path.relative_to(store).parts[2:3] == ("metrics",)


def note_checked(member: Member, until: float) -> None:
    """All that was changed in a store until then, by its file system's clock, was looked through for secrets."""
    write_json(member.path / CHECKED, {"until": until})


def checked_until(member: Member) -> float:
    """0 where nobody has looked."""
    return float((read_json(member.path / CHECKED) or {"until": 0})["until"])


def keep_masked(run: Path, params: Mapping[str, str]) -> None:
    """Parameters of a run in a store that are no longer among its others, without the secret they held."""
    write_json(run / MASKED_PARAMS, {**masked_params(run), **params})


def masked_params(run: Path) -> dict[str, str]:
    """What `keep_masked` kept."""
    return read_json(run / MASKED_PARAMS) or {}


def _experiment(folder: Path, name: str, now: int) -> dict[str, Any]:
    return {
        "artifact_location": folder.as_uri(),
        "creation_time": now,
        "experiment_id": EXPERIMENT,
        "last_update_time": now,
        "lifecycle_stage": "active",
        "name": name,
    }


def _run(folder: Path, now: int) -> dict[str, Any]:
    return {
        "artifact_uri": (folder / "artifacts").as_uri(),
        "end_time": None,
        "entry_point_name": "",
        "experiment_id": EXPERIMENT,
        "lifecycle_stage": "active",
        "run_id": folder.name,
        "run_name": "",
        "run_uuid": folder.name,
        "source_name": "",
        "source_type": LOCAL,
        "source_version": "",
        "start_time": now,
        "status": RUNNING,
        "tags": [],
        "user_id": "",
    }


def _write(folder: Path, document: Mapping[str, Any]) -> None:
    """Each value as JSON has it, which is YAML too."""
    write_text(folder / "meta.yaml", "".join(f"{key}: {json.dumps(value)}\n" for key, value in document.items()))
