"""Exported splits from the command to the program: what a rank is told, what is refused before anything is queued."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.cluster.harness import ROOT, Cluster, attempts

PROGRAM = """
import csv, glob, json, os, pathlib
from google.cloud.aiplatform.training_utils import environment_variables as env
uris = {"train": env.training_data_uri, "val": env.validation_data_uri, "test": env.test_data_uri}
rows = {name: [row for path in sorted(glob.glob(uri)) for row in csv.DictReader(open(path, newline=""))]
        for name, uri in uris.items() if uri}
seen = {"format": os.environ["AIP_DATA_FORMAT"], "uris": uris, "rows": rows}
pathlib.Path(env.model_dir, "seen-" + os.environ["RANK"] + ".json").write_text(json.dumps(seen))
"""
TABLE = ("data=table", "data.path=rows.csv", "data.target=kind", "job.data_format=csv")


@pytest.fixture
def laptop(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    rows = "".join(f'{i},{i / 4},"{"ox" if i % 2 else "ant, big"}"\n' for i in range(40))
    (workdir / "rows.csv").write_text(f"id,x,kind\n{rows}")
    (workdir / "train.py").write_text(PROGRAM)
    return Cluster(workdir, first=("job=command", f"job.command=[{sys.executable},train.py]", "tracking=none"))


def test_readers_of_vertex_find_the_exported_rows_on_every_rank_and_plan_tells_the_same(laptop: Cluster) -> None:
    words = (*TABLE, "data.split.test_fraction=0.1", "machine.ranks_per_node=2")

    run = laptop.launch(*words)

    assert laptop.wait(run)["state"] == "SUCCEEDED", laptop.fairlead("logs", str(run)).stdout
    first, second = (json.loads((run / f"members/0/model/seen-{rank}.json").read_text()) for rank in (0, 1))
    assert first == second and first["format"] == "csv"
    assert {name: len(rows) for name, rows in first["rows"].items()} == {"train": 28, "val": 8, "test": 4}
    rows = sorted((row for part in first["rows"].values() for row in part), key=lambda row: int(row["id"]))
    assert [row["kind"] for row in rows] == ["ant, big", "ox"] * 20
    planned = json.loads(laptop.fairlead("plan", *laptop.first, *words, "--rank", "1", "--json").stdout)["environment"]
    for name, uri in (("TRAINING", "train"), ("VALIDATION", "val"), ("TEST", "test")):
        said = planned[f"AIP_{name}_DATA_URI"]
        assert said.partition("/splits/")[2] == first["uris"][uri].partition("/splits/")[2] != ""


def test_members_of_a_grid_have_the_split_that_each_asks_for(laptop: Cluster) -> None:
    (laptop.work / "train.py").write_text(
        "import json, os\nprint(json.dumps({k: v for k, v in os.environ.items() if k.endswith('DATA_URI')}))"
    )

    run = laptop.launch("-m", *TABLE, "data.split.test_fraction=0,0.1")

    laptop.wait(run)
    logs = [(run / f"members/{k}/attempt-0/rank-0.log").read_text().splitlines() for k in (0, 1)]
    without, tested = (json.loads(log[-1]) for log in logs)
    assert set(tested) - set(without) == {"AIP_TEST_DATA_URI"}
    assert "exported 32 rows for training, 8 rows for validation, in" in logs[0][0]
    assert "exported 28 rows for training, 8 rows for validation, 4 rows for test, in" in logs[1][0]


def test_split_that_the_rows_do_not_have_fails_the_member_with_the_reason_and_starts_no_rank(laptop: Cluster) -> None:
    split = ("data.features=[x]", "data.split={by: column, column: id, validation: [99]}")

    assert laptop.fairlead("launch", *laptop.first, *TABLE, *split, check=False).returncode == 1

    (run,) = (laptop.work / "runs").glob("run-*")
    (attempt,) = attempts(run)
    assert (attempt["state"], attempt["cause"]) == ("FAILED", "user_error")
    assert "data.split.validation has '99', but no sample has that in column id" in attempt["message"]
    assert not (run / "members/0/attempt-0/rank.sh").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("data.target=kin",), "rows.csv has no column 'kin'"),
        (("data.split.test=[ox]",), "data.split.test is ('ox',), but data.split.by is stratified"),
        (("data=images", "data.path=."), "job.data_format is 'csv', but data images are no rows with columns"),
        (("job=trainer", "model=mlp", "job.data_format=csv"), "is 'trainer', which reads the data itself"),
    ],
)
def test_data_that_cannot_be_exported_are_told_before_anything_is_queued(
    laptop: Cluster, words: tuple[str, ...], said: str
) -> None:
    first = () if "job=trainer" in words else laptop.first
    table = ("job.data_format=csv",) if "data=images" in words else TABLE

    done = laptop.fairlead("launch", *first, *table, *words, check=False)

    assert done.returncode == 2 and said in done.stderr, done.stderr
    assert not list((laptop.work / "runs").glob("run-*"))
