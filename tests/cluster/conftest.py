"""The fixtures `cluster` and `held`: a real Slurm and an allocation in it, or a skip that says what is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.harness import ROOT, TESTBED, Cluster

CANARY = "canary-of-the-environment"
WHERE = ("--config-dir", str(TESTBED / "conf"), "site=testbed")
SHAPE = ("machine=cpu-small", "machine.nodes=3", "machine.ranks_per_node=2", "machine.time_limit_min=20")
MEMBER = ("machine=cpu-small", "machine.time_limit_min=5", "job.notice_s=10")
SLURM_CONF = os.environ.get("SLURM_CONF")


def must_have_slurm() -> str:
    """Its configuration, or a skip that says what is missing."""
    if SLURM_CONF is None or shutil.which("sbatch") is None:
        pytest.skip("needs a Slurm cluster: run `make test` as root on Debian, or set SLURM_CONF")
    return SLURM_CONF


@pytest.fixture
def cluster(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """The command on the cluster. What a test that fails leaves in the queue does not take the next one's hosts."""
    monkeypatch.setenv("SLURM_CONF", must_have_slurm())
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    yield Cluster(workdir)
    queue = subprocess.run(
        ["squeue", "--noheader", "--format=%F %Z"], capture_output=True, text=True, timeout=60, check=True
    )
    rows = (line.split(" ", 1) for line in queue.stdout.splitlines())
    left = {job for job, folder in rows if Path(folder).is_relative_to(workdir)}
    if left:
        subprocess.run(["scancel", *left], check=True, timeout=60)


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The command on a pool of three nodes with two CPUs each, brought up where ORIGIN was set to a secret."""
    must_have_slurm()
    here = tmp_path_factory.mktemp("held")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("work", "home", "state"):
            (here / name).mkdir()
        patch.setenv("HOME", str(here / "home"))
        patch.setenv("XDG_STATE_HOME", str(here / "state"))
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("ORIGIN", CANARY)
        cluster = Cluster(here / "work", ("site=testbed", "launcher=pool", "launcher.pool=mine", *MEMBER))
        try:
            cluster.fairlead("pool", "up", "mine", *WHERE, *SHAPE, "--wait")
            patch.delenv("ORIGIN")
            yield cluster
        finally:
            cluster.fairlead("pool", "down", "mine", "--force")
