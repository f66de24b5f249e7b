"""Several pools on a real Slurm, each in an image of its own: what every replica is told, what it sees, and whose end
is the job's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.harness import ON_SLURM, ROOT, Cluster, attempts

pytestmark = [pytest.mark.slurm, pytest.mark.apptainer]
PROGRAM = """
import json, os, pathlib, sys
import shared
member, rank = pathlib.Path(os.environ["FAIRLEAD_MEMBER_DIR"]), os.environ["RANK"]
names = ("CLUSTER_SPEC", "TF_CONFIG", "APPTAINER_CONTAINER", "FAIRLEAD_POOL", "FAIRLEAD_REPLICA", "WORLD_SIZE")
told = {name: os.environ[name] for name in names}
told["folders"] = [os.path.isdir(os.environ[f"AIP_{n}_DIR"]) for n in ("MODEL", "CHECKPOINT", "TENSORBOARD_LOG")]
told["host"] = os.uname().nodename
told["data"] = shared.SAID
(member / "checkpoints" / f"told-{rank}.json").write_text(json.dumps(told))
"""
CHIEF = """
import time
while len(list((member / "checkpoints").glob("told-*"))) < 3:
    time.sleep(0.1)
"""
WORKER = """
import signal, time
def leave(*_):
    (member / "checkpoints" / f"left-{rank}").touch()
    sys.exit(0)
signal.signal(signal.SIGTERM, leave)
time.sleep(100)
"""


def programs(work: Path) -> None:
    """What the pools run, and a file of the project that all read."""
    (work / "chief.py").write_text(PROGRAM + CHIEF)
    (work / "worker.py").write_text(PROGRAM + WORKER)
    (work / "shared.py").write_text("SAID = 'of the project'\n")


def other_image(cluster: Cluster) -> Path:
    """The image of the tests as another file, with another digest: a SIF may end in bytes that nothing points to."""
    said = cluster.fairlead("image", "build", "pytorch-cpu", "site=testbed", "--config-dir",
                            str(ROOT / "tests/testbed/conf"), "--json", timeout_s=600).stdout  # fmt: skip
    path = shutil.copy(json.loads(said)[0]["path"], cluster.work / "other.sif")
    with Path(path).open("ab") as f:
        f.write(b"of the workers")
    return Path(path)


def test_each_pool_is_in_its_own_image_and_the_chiefs_end_ends_the_job(cluster: Cluster) -> None:
    programs(cluster.work)
    other = other_image(cluster)
    box = f"{{base: pytorch-cpu, recipe: null, image: {other}}}"
    workers = f"{{machine: {{nodes: 2, mem_gb: 0.7}}, container: {box}, job: {{command: [python3, worker.py]}}}}"
    job = ("job=command", "job.command=[python3,chief.py]", "job.metrics.kind=none", "tracking=none")
    run = Cluster(cluster.work, ON_SLURM).launch(
        *job, "machine.mem_gb=0.5", "container=pytorch-cpu", f"pools=[{{}},{workers}]"
    )

    assert cluster.wait(run)["state"] == "SUCCEEDED", cluster.fairlead("logs", str(run), "--errors").stdout
    assert [a["state"] for a in attempts(run)] == ["SUCCEEDED"]
    folder = run / "members/0/checkpoints"
    told: list[dict[str, Any]] = [json.loads((folder / f"told-{rank}.json").read_text()) for rank in range(3)]
    assert {p.name for p in folder.glob("left-*")} == {"left-1", "left-2"}
    assert told[0]["APPTAINER_CONTAINER"] != str(other)
    assert [t["APPTAINER_CONTAINER"] for t in told[1:]] == [str(other)] * 2
    specs = [json.loads(t["CLUSTER_SPEC"]) for t in told]
    assert [s.pop("task") for s in specs] == [
        {"type": "workerpool0", "index": 0},
        {"type": "workerpool1", "index": 0},
        {"type": "workerpool1", "index": 1},
    ]
    assert specs[0] == specs[1] == specs[2]
    addresses = [a for name in ("workerpool0", "workerpool1") for a in specs[0]["cluster"][name]]
    assert [a.partition(":")[0] for a in addresses] == [t["host"] for t in told] and len(set(addresses)) == 3
    images = [pool["container_spec"]["image_uri"] for pool in specs[0]["job"]["worker_pool_specs"]]
    assert images == [t["APPTAINER_CONTAINER"] for t in told[:2]]
    assert [t["folders"] for t in told] == [[True] * 3] * 3 and {t["data"] for t in told} == {"of the project"}
