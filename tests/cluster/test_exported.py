"""Exported splits on a real cluster: two hosts in containers find them, written once, and cannot change them."""

from __future__ import annotations

import json

import pytest

from tests.cluster.harness import Cluster

pytestmark = pytest.mark.slurm

PROGRAM = """
import csv, glob, json, os, pathlib
uris = [os.environ[f"AIP_{part}_DATA_URI"] for part in ("TRAINING", "VALIDATION", "TEST")]
files = [path for uri in uris for path in sorted(glob.glob(uri))]
ids = [int(row["id"]) for path in files for row in csv.DictReader(open(path, newline=""))]
try:
    pathlib.Path(files[0]).parent.joinpath("more.csv").touch()
    written = True
except OSError:
    written = False
seen = {"host": os.uname().nodename, "ids": ids, "written": written}
pathlib.Path(os.environ["AIP_MODEL_DIR"], f"seen-{os.environ['RANK']}.json").write_text(json.dumps(seen))
"""


@pytest.mark.apptainer
def test_program_in_containers_on_two_hosts_finds_each_row_once_and_only_reads_them(cluster: Cluster) -> None:
    (cluster.work / "rows.csv").write_text("id,kind\n" + "".join(f"{i},{'ab'[i % 2]}\n" for i in range(40)))
    (cluster.work / "train.py").write_text(PROGRAM)
    shape = ("machine.nodes=2", "machine.ranks_per_node=1", "container=pytorch-cpu", "tracking=none", "name=split")
    data = ("data=table", "data.path=rows.csv", "data.target=kind", "data.split.test_fraction=0.1")

    run = cluster.launch("job=script", "job.script=train.py", "job.data_format=csv", *data, *shape)
    end = cluster.wait(run)

    assert end["state"] == "SUCCEEDED", cluster.fairlead("logs", str(run), "--errors").stdout
    seen = [json.loads((run / f"members/0/model/seen-{rank}.json").read_text()) for rank in (0, 1)]
    assert seen[0]["host"] != seen[1]["host"]
    assert [sorted(one["ids"]) for one in seen] == [list(range(40))] * 2 and not any(one["written"] for one in seen)
    assert (run / "members/0/attempt-0/rank-0.log").read_text().count("exported") == 1
