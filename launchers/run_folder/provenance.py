"""Where a run comes from: code, image, packages, cluster, host and command line, as one document.

Secrets are not in it: the environment is not recorded, and values of overrides whose names say that
they are secret are masked.
"""

from __future__ import annotations

import datetime
import getpass
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from launchers.folders import ROOT
from launchers.run_folder.snapshot import Snapshot, git

SECRET_NAME = re.compile(r"(?i)(secret|token|passw|api_?key|credential)")
SECRET = re.compile(SECRET_NAME.pattern + "[^=]*=")
PACKAGES = (
    *("hydra-core", "omegaconf", "pydantic", "submitit", "mlflow", "optuna", "cmaes", "scipy"),
    *("torch", "deepspeed", "torchao", "numpy", "safetensors", "scikit-learn", "pyarrow", "datasets", "sqlalchemy"),
    *("fsspec", "onnx", "fairlead"),
)
"""Here, where it is launched; those of an image stand in its lock file, and the image by its digest."""


def gather(command: Sequence[str], cwd: Path, snapshot: Snapshot) -> dict[str, Any]:
    """What can be said before the plan is made; freeze.py adds digests of spec and image."""
    return {
        "command": [masked(word) for word in command],
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "user": getpass.getuser(),
        "cwd": str(cwd),
        "project": snapshot.project,
        "git": _revision(Path(snapshot.project) if snapshot.project else ROOT),
        "files_left_out": list(snapshot.skipped),
        "packages": _versions(),
        "host": {
            "name": platform.node(),
            "system": platform.platform(),
            "python": sys.version.split()[0],
            "cpus": os.cpu_count(),
        },
    }


def digest_of(document: Any) -> str:
    """sha256 of a document in one canonical form."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return "sha256:" + hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def slurm_version() -> str | None:
    """As `sbatch --version` says it, or None where there is none."""
    try:
        done = subprocess.run(["sbatch", "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.removeprefix("slurm-wlm").removeprefix("slurm").strip() or None


def masked(word: str) -> str:
    """The word without the values of what its name calls secret; a dictionary that names one is masked whole."""
    key, separator, value = word.partition("=")
    if SECRET.search(f"{key}="):
        return f"{key}=***"
    return f"{key}{separator}***" if SECRET_NAME.search(value) and value.lstrip().startswith(("{", "[")) else word


def _revision(folder: Path) -> Mapping[str, Any] | None:
    revision = git(folder, "rev-parse", "HEAD")
    if revision is None:
        return None
    diff = git(folder, "diff", "HEAD") or ""
    status = git(folder, "status", "--porcelain") or ""
    return {
        "revision": revision.strip(),
        "dirty": bool(status.strip()),
        "diff_sha256": hashlib.sha256(diff.encode("utf-8", "surrogateescape")).hexdigest() if diff else None,
        "diff": diff if len(diff) <= 1_000_000 else None,
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
