"""Exported splits from the command to the program: what a rank is told, what is refused before anything is queued."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from launchers.config import export_rules
from tests.cluster.harness import ROOT, Cluster, attempts
from tests.launchers.checked import COMMAND, problems, sound
from tests.launchers.test_programs import entry_image
from tests.trainer.samples import coloured, png

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


OPENS = """
import glob, json, os, pathlib
from PIL import Image
seen = {}
for part in ("TRAINING", "VALIDATION", "TEST"):
    for path in sorted(glob.glob(os.environ[f"AIP_{part}_DATA_URI"])):
        for line in map(json.loads, open(path)):
            with Image.open(line["imageGcsUri"]) as image:
                image.load()
                name = line["classificationAnnotation"]["displayName"]
                seen.setdefault(part, []).append([name, image.getpixel((0, 0))])
assert os.environ["AIP_DATA_FORMAT"] == "jsonl"
pathlib.Path(os.environ["AIP_MODEL_DIR"], "seen.json").write_text(json.dumps(seen))
"""
READS = """
  cat $AIP_TRAINING_DATA_URI $AIP_VALIDATION_DATA_URI | sed 's/^{"imageGcsUri": "//; s/",.*//' | while read -r path; do
    cat "$path" && echo
    ( : > "$path" ) 2>/dev/null && echo "wrote $path"
  done
  exit 0
"""
IMAGES = ("data=images", "job.data_format=jsonl", "tracking=none")


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


def test_program_opens_every_image_that_it_is_given_and_finds_its_class(laptop: Cluster) -> None:
    for number, image in enumerate(coloured()):
        path = laptop.work / "flowers" / ("blue", "green", "red")[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(image))
    (laptop.work / "train.py").write_text(OPENS)

    run = laptop.launch(*IMAGES, "data.path=flowers", "data.split.test_fraction=0.1")

    assert laptop.wait(run)["state"] == "SUCCEEDED", laptop.fairlead("logs", str(run)).stdout
    seen = json.loads((run / "members/0/model/seen.json").read_text())
    assert {part: len(found) for part, found in seen.items()} == {"TRAINING": 48, "VALIDATION": 6, "TEST": 6}
    for name, pixel in (one for found in seen.values() for one in found):
        assert name == ("red", "green", "blue")[pixel.index(max(pixel))]


@pytest.mark.apptainer
def test_container_reads_images_where_the_user_says_they_are_and_cannot_write_to_them(laptop: Cluster) -> None:
    if shutil.which("apptainer") is None:
        pytest.skip("needs Apptainer")
    for number in range(6):
        path = laptop.work / "there" / "ab"[number % 2] / f"{number}, x.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"image {number}")
    (laptop.work / "link").symlink_to("there")
    image = entry_image(laptop.work, READS, ("sh", "cat", "sed"))
    words = ("job=command", "container=pytorch-cpu", f"container.image={image}", *IMAGES, "data.path=link")

    run = Cluster(laptop.work, first=()).launch(*words, "data.split.fraction=0.5")

    laptop.wait(run)
    said = (run / "members/0/attempt-0/rank-0.log").read_text().splitlines()
    assert sorted(said[1:]) == [f"image {number}" for number in range(6)]


def test_split_that_the_rows_do_not_have_fails_the_member_with_the_reason_and_starts_no_rank(laptop: Cluster) -> None:
    split = ("data.features=[x]", "data.split={by: column, column: id, validation: [99]}")

    assert laptop.fairlead("launch", *laptop.first, *TABLE, *split, check=False).returncode == 1

    (run,) = (laptop.work / "runs").glob("run-*")
    (attempt,) = attempts(run)
    assert (attempt["state"], attempt["cause"]) == ("FAILED", "user_error")
    assert "data.split.validation has '99', but no sample has that in column id" in attempt["message"]
    assert not (run / "members/0/attempt-0/rank.sh").exists()


def test_data_that_take_long_to_be_looked_at_are_left_to_the_node(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (*COMMAND, "data=images", f"data.path={workdir}", "job.data_format=jsonl")
    assert [problem.what.partition(" and ends")[0] for problem in problems(*words)] == ["no file matches */*"]
    export_rules._looked_at.cache_clear()
    monkeypatch.setattr(export_rules, "LOOK_S", 0.01)

    assert sound(*words).job.data_format == "jsonl"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("data.target=kin",), "rows.csv has no column 'kin'"),
        (("data.split.test=[ox]",), "data.split.test is ('ox',), but data.split.by is stratified"),
        (
            ("data=images", "data.path=."),
            "job.data_format is 'csv', but data.kind is 'images', of which only JSON lines",
        ),
        (
            ("data=stdlib",),
            "job.data_format is 'csv', but data bytes are neither rows with columns nor files of images",
        ),
        (("job=trainer", "model=mlp", "job.data_format=csv"), "is 'trainer', which reads the data itself"),
    ],
)
def test_data_that_cannot_be_exported_are_told_before_anything_is_queued(
    laptop: Cluster, words: tuple[str, ...], said: str
) -> None:
    first = () if "job=trainer" in words else laptop.first
    table = TABLE if "data" not in {word.partition("=")[0] for word in words} else ("job.data_format=csv",)

    done = laptop.fairlead("launch", *first, *table, *words, check=False)

    assert done.returncode == 2 and said in done.stderr, done.stderr
    assert not list((laptop.work / "runs").glob("run-*"))
