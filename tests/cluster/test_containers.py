"""What a container gets of its node, on a real cluster: shared memory, a private /tmp, and nothing that stays."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.cluster.harness import QUICK, TESTBED, Cluster

pytestmark = [pytest.mark.slurm, pytest.mark.apptainer]
LOADS = """
import json, os, pathlib, time
import torch
from torch.utils.data import DataLoader, Dataset

class Large(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, i):
        return torch.full((50_000_000,), i, dtype=torch.uint8)

if __name__ == "__main__":
    rank, member = int(os.environ["RANK"]), pathlib.Path(os.environ["FAIRLEAD_MEMBER_DIR"])
    pathlib.Path(f"/dev/shm/of-{rank}").write_text(os.environ["RANK"])
    pathlib.Path(f"/tmp/of-{rank}").touch()
    until = time.monotonic() + 60
    while not (other := pathlib.Path(f"/dev/shm/of-{1 - rank}")).exists() and time.monotonic() < until:
        time.sleep(0.05)
    loader = DataLoader(Large(), batch_size=2, num_workers=2, prefetch_factor=1, multiprocessing_context="spawn")
    total = sum(int(batch.sum(dtype=torch.int64)) for batch in loader) if rank == 0 else 0
    seen = {"total": total, "other": other.exists()}
    seen |= {"shm_device": os.stat("/dev/shm").st_dev, "tmp": sorted(os.listdir("/tmp")), "home": os.listdir("/home")}
    (member / f"seen-{rank}.json").write_text(json.dumps(seen))
"""
"""200 MB of tensors come from two processes through /dev/shm, and two ranks of a node see the same one."""
JOB = ("job=script", "job.script=loads.py", "tracking=none", "container=pytorch-cpu", "job.metrics.kind=none")


def test_data_loader_shares_200_mb_and_ranks_share_memory_and_nothing_stays_on_the_node(cluster: Cluster) -> None:
    (cluster.work / "loads.py").write_text(LOADS)
    run = cluster.launch(*JOB, "machine.ranks_per_node=2", "container.shm_gb=0.5", "+launcher.sbatch.nodelist=n1")

    assert cluster.wait(run)["state"] == "SUCCEEDED", cluster.fairlead("logs", str(run), "--errors").stdout
    seen = [json.loads((run / f"members/0/seen-{rank}.json").read_text()) for rank in (0, 1)]
    assert seen[0]["total"] == 50_000_000 * (0 + 1 + 2 + 3)
    assert [s["other"] for s in seen] == [True, True] and seen[0]["shm_device"] == seen[1]["shm_device"]
    assert seen[0]["shm_device"] == Path("/dev/shm").stat().st_dev, "the node's own"
    assert all({"of-0", "of-1"} & set(s["tmp"]) and s["home"] == ["fairlead"] for s in seen)
    assert not list(Path("/tmp").glob("of-[01]")) and not list(Path("/dev/shm").glob("of-[01]"))
    assert not list(Path("/dev/shm").glob(f"fairlead-{run.name}*")) + list(Path("/tmp").glob(f"fairlead-{run.name}*"))


def test_images_that_cannot_run_are_refused_before_anything_queues(cluster: Cluster) -> None:
    whole = cluster.image("pytorch-cpu")
    short, damaged = cluster.work / "short.sif", cluster.work / "damaged.sif"
    with whole.open("rb") as f:
        head = f.read(200_000)
    short.write_bytes(head)
    damaged.write_bytes(head[:32_768] + bytes(len(head)))
    os.truncate(damaged, whole.stat().st_size)
    cases = {
        f"container.image={short}": "short.sif is cut off: it has 200000 bytes",
        f"container.image={damaged}": "damaged.sif cannot be started",
        "container.python=/opt/none/python": "there is no Python /opt/none/python of pytorch-cpu",
        f"container.digest=sha256:{'0' * 64}": "has digest sha256:",
    }
    where = ("--config-dir", str(TESTBED / "conf"), *cluster.first, "container=pytorch-cpu", *QUICK)
    quiet = ("tracking=none", "tracking.register=null")
    for wrong, said in cases.items():
        done = cluster.fairlead("launch", *where, *quiet, wrong, check=False)
        assert done.returncode == 3 and said in done.stderr, f"{wrong}: {done.stderr}"
        assert not list((cluster.work / "runs").glob("run-*"))


def test_bind_that_is_not_on_the_node_is_named_with_the_node(cluster: Cluster) -> None:
    (cluster.work / "loads.py").write_text("print('begun')\n")

    run = cluster.launch(*JOB, "container.binds=[{source: /only/elsewhere}]", "+launcher.sbatch.nodelist=n2")

    (member,) = cluster.wait(run)["members"]
    assert "/only/elsewhere is not on n2, and the container has to see it (container.binds" in member["message"]
