"""The fixture `cluster`: a real Slurm, or a skip that says what is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.harness import ROOT, Cluster

SLURM_CONF = os.environ.get("SLURM_CONF")


@pytest.fixture
def cluster(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """The command on the cluster. What a test that fails leaves in the queue does not take the next one's hosts."""
    if SLURM_CONF is None or shutil.which("sbatch") is None:
        pytest.skip("needs a Slurm cluster: run `make test` as root on Debian, or set SLURM_CONF")
    monkeypatch.setenv("SLURM_CONF", SLURM_CONF)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    yield Cluster(workdir)
    queue = subprocess.run(
        ["squeue", "--noheader", "--format=%F %Z"], capture_output=True, text=True, timeout=60, check=True
    )
    rows = (line.split(" ", 1) for line in queue.stdout.splitlines())
    left = {job for job, folder in rows if Path(folder).is_relative_to(workdir)}
    if left:
        subprocess.run(["scancel", *left], check=True, timeout=60)
