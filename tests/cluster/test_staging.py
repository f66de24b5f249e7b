"""Staged data on a node of the cluster: in containers, whose /tmp is private, a second member finds them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.harness import Cluster

pytestmark = [pytest.mark.slurm, pytest.mark.apptainer]


def test_members_in_containers_on_one_node_bring_their_data_once(cluster: Cluster, tmp_path: Path) -> None:
    texts, scratch = tmp_path / "texts", tmp_path / "scratch"
    for folder in (texts, scratch):
        folder.mkdir()
    for number in range(3):
        (texts / f"{number}.txt").write_text(f"the text of file {number}, " * 60)
    data = ("data=stdlib", f"data.path={texts}", "data.glob='*.txt'", "data.context_length=16", "data.max_mb=null")
    small = ("model=gpt", "model.n_layer=1", "model.n_head=1", "model.width=8", "train.max_steps=2")
    where = ("container=pytorch-cpu", f"site.scratch_dir={scratch}", "+launcher.sbatch.nodelist=n1")

    run = cluster.launch("-m", *data, *small, *where, "staging.copy=true", "seed=1,2", "launcher.max_parallel=1")

    assert cluster.wait(run)["state"] == "SUCCEEDED"
    logs = [(run / "members" / str(member) / "attempt-0" / "rank-0.log").read_text() for member in (0, 1)]
    assert "data: brought 3 file(s)" in logs[0]
    assert "data: 3 file(s), 0.0 MB, on the node already" in logs[1]
    (kept,) = scratch.iterdir()
    assert kept.name.startswith("fairlead-data-")
    assert kept.stat().st_mode & 0o777 == 0o700
