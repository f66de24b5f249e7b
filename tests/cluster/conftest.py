"""The fixture `cluster`: a real Slurm, or a skip that says what is missing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.cluster.harness import ROOT, Cluster

SLURM_CONF = os.environ.get("SLURM_CONF")


@pytest.fixture
def cluster(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    if SLURM_CONF is None or shutil.which("sbatch") is None:
        pytest.skip("needs a Slurm cluster: run `make test` as root on Debian, or set SLURM_CONF")
    monkeypatch.setenv("SLURM_CONF", SLURM_CONF)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return Cluster(workdir)
