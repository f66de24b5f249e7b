"""A package of the user's on a real cluster, in containers on two hosts: installed offline, requeued, kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launchers.apptainer.sif import digest_of
from tests.cluster.harness import Cluster, attempts
from tests.launchers.programs import project, wheelhouse

pytestmark = pytest.mark.slurm

TASK = """
import json, os, pathlib, sys, time
import greeting, torch, trainer
rank = os.environ["RANK"]
mark = pathlib.Path(os.environ["AIP_CHECKPOINT_DIR"], f"rank-{rank}")
before = mark.exists()
mark.touch()
seen = {"host": os.uname().nodename, "file": trainer.__file__, "argv": sys.argv[1:], "world": os.environ["WORLD_SIZE"]}
pathlib.Path(os.environ["AIP_MODEL_DIR"], f"seen-{rank}.json").write_text(json.dumps(seen))
with open(os.environ["FAIRLEAD_REPORTS"], "a") as reports:
    reports.write(json.dumps({"step": 1, "loss": 0.5}) + "\\n")
while len(list(mark.parent.glob("rank-*"))) < int(os.environ["WORLD_SIZE"]):
    time.sleep(0.05)  # where one leaves before another has come, that one leaves no mark
sys.exit(0 if before else 75)
"""
"""Asks for another attempt once, as a program does that saved when it was told to leave."""


def image_of(run: Path) -> Path:
    return Path(json.loads((run / "plan.json").read_text())["plans"][0]["pools"][0]["container"]["image"])


@pytest.mark.apptainer
def test_module_runs_on_two_hosts_in_containers_from_a_wheelhouse_and_goes_on_after_a_requeue(cluster: Cluster) -> None:
    source = project(cluster.work / "my_project", {"trainer/__init__.py": "", "trainer/task.py": TASK})
    house = wheelhouse(cluster.work / "house")
    scratch = cluster.work / "disk"  # of this test: what it copies to a node stays there for later jobs
    shape = ("machine.nodes=2", "machine.ranks_per_node=2", "container=pytorch-cpu", "tracking=none", "name=mine")
    shape = (*shape, "site.image_local=true", f"site.scratch_dir={scratch}")
    reports = ("job.metrics.kind=jsonl", "objective.metric=loss")

    run = cluster.launch(
        "job=module", f"job.source={source}", f"job.wheelhouse={house}", "params.lr=0.1", *shape, *reports
    )
    end = cluster.wait(run)

    assert end["state"] == "SUCCEEDED", cluster.fairlead("logs", str(run), "--errors").stdout
    assert [a["state"] for a in attempts(run)] == ["REQUEUED", "SUCCEEDED"]
    seen = [json.loads((run / f"members/0/model/seen-{rank}.json").read_text()) for rank in range(4)]
    assert seen[0]["host"] == seen[1]["host"] != seen[2]["host"] and {s["world"] for s in seen} == {"4"}
    (layer,) = (cluster.work / "runs/.layers").glob("*/modules")
    assert {s["file"] for s in seen} == {str(Path(layer, "trainer/__init__.py"))}
    assert [s["argv"] for s in seen] == [["--lr=0.1"]] * 4
    assert end["result"]["metrics"]["loss"] == 0.5
    told = [json.loads((run / f"members/0/attempt-0/near-{node}.json").read_text()) for node in (0, 1)]
    assert [each["warnings"] for each in told] == [[], []] and {each["host"] for each in told} == {
        s["host"] for s in seen
    }
    logs = "".join(path.read_text() for path in run.glob("members/0/attempt-*/rank-*.log"))
    assert logs.count("fairlead: copied pytorch-cpu") == 1, "four hosts of one machine share its disk"
    kept = [path.name for path in scratch.glob("fairlead-copies-*/[!.]*") if not path.name.endswith(".lock")]
    assert sorted(name.partition("-")[2] for name in kept) == [layer.parent.name, image_of(run).name]
    (image,) = scratch.glob("fairlead-copies-*/*.sif")
    assert digest_of(image, fresh=True) == digest_of(image_of(run))
    assert cluster.status(run)["goodput"]["seconds"]["copy"] > 0
