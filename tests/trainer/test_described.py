"""Folders of images with metadata beside them: what is said of each is what datasets' own imagefolder reads."""

from __future__ import annotations

import datetime as dt
import json
import os
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from conf.schema import Component
from tests.trainer import servers
from tests.trainer.ranks import make_spec
from tests.trainer.samples import everything, png
from trainer import export_splits
from trainer.components import part
from trainer.data import staging
from trainer.failure import UserError
from trainer.sources import Data, images

pytestmark = pytest.mark.usefixtures("node")
ROWS = [
    {"kind": ["ox", "ant"][i % 2], "site": i % 3, "day": f"2026-01-{1 + i:02}", "ok": i != 4, "n": i} for i in range(12)
]


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy of the machine's."""
    for name in [n for n in os.environ if n.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


def write(root: Path, name: str, number: int) -> str:
    """An image that says which one it is."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(Image.new("RGB", (4, 4), (number, 0, 0))))
    return name


def metadata(path: Path, rows: list[dict[str, Any]]) -> None:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist([{**row, "day": dt.date.fromisoformat(row["day"])} for row in rows]), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        lines = [",".join(rows[0]), *(",".join(str(row[name]) for name in rows[0]) for row in rows)]
        path.write_text("\n".join(lines).replace("True", "true").replace("False", "false") + "\n")


def flat(root: Path, name: str = "metadata.csv") -> Path:
    """Twelve images without folders, named backwards, and a line for one that is not there."""
    rows = [{"file_name": write(root, f"{99 - i}.png", i), **row} for i, row in enumerate(ROWS)]
    metadata(root / name, [{**ROWS[0], "file_name": "none.png"}, *rows])
    return root


def loaded(path: Path, split: dict[str, Any], **options: Any) -> Data:
    said = {"path": str(path), "size": 4, "glob": "**/*", "split": split, **options}
    return images.load(part("data", Component(kind="images", options=said))[1])


def numbers_of(data: Data) -> list[list[int]]:
    """Of each part which images are in it, and their classes' names."""
    parts = [samples for samples in (data.train, data.validation, data.test) if samples is not None]
    return [sorted((everything(samples)[0][:, 0, 0, 0] * 255).round().int().tolist()) for samples in parts]


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl", "metadata.parquet"])
@pytest.mark.parametrize(
    ("split", "wanted"),
    [
        ({"by": "column", "column": "site", "validation": [2]}, lambda row: row["site"] == 2),
        ({"by": "time", "column": "day", "before": "2026-01-09"}, lambda row: row["day"] >= "2026-01-09"),
        ({"by": "filter", "validation": "site > 0 and ok"}, lambda row: row["site"] > 0 and row["ok"]),
    ],
)
def test_images_are_parted_and_named_by_their_metadata(tmp_path: Path, name: str, split: Any, wanted: Any) -> None:
    data = loaded(flat(tmp_path / "in", name), split, label="kind")

    assert numbers_of(data) == [[r["n"] for r in ROWS if wanted(r) is kept] for kept in (False, True)]
    assert data.train_card.classes == ("ant", "ox")
    for samples in (data.train, data.validation):
        pixels, classes = everything(samples)
        for number, code in zip((pixels[:, 0, 0, 0] * 255).round().int().tolist(), classes.tolist(), strict=True):
            assert data.train_card.classes[code] == ROWS[number]["kind"]


def test_images_are_said_of_what_imagefolder_says_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    root, kinds = tmp_path / "in", ["ox", "ant", "b`e"]
    for first, name in ((0, "x"), (20, "y/deep")):
        rows = [{"file_name": write(root / name, f"{i % 2}/{i}.png", i), "kind": kinds[i % 3], "site": i % 5 // 4}
                for i in range(first, first + 9)]  # fmt: skip
        metadata(root / name / "metadata.jsonl", rows)
    said = {"data_dir": str(root), "split": "train", "drop_labels": True, "cache_dir": str(tmp_path / "cache")}
    theirs = [(row["image"].getpixel((0, 0))[0], row["kind"], row["site"])
              for row in datasets.load_dataset("imagefolder", **said)]  # fmt: skip

    data = loaded(root, {"by": "column", "column": "site", "train": [0], "validation": [1]}, label="kind")

    ours = []
    for site, samples in enumerate((data.train, data.validation)):
        pixels, classes = everything(samples)
        numbers = (pixels[:, 0, 0, 0] * 255).round().int().tolist()
        ours += [(n, data.train_card.classes[code], site) for n, code in zip(numbers, classes.tolist(), strict=True)]
    assert sorted(ours) == sorted(theirs) and len(ours) == 18


def test_images_are_described_where_they_lie_and_above(tmp_path: Path) -> None:
    """As imagefolder has it: file_name counts from the folder of the metadata, whatever the classes go by."""
    root = tmp_path / "in"
    for name in ("train", "test"):
        rows = [{"file_name": write(root / name, f"{kind}/{i}.png", i), "site": i} for i, kind in enumerate("ab")]
        metadata(root / name / "metadata.jsonl", rows)
    metadata(root / "metadata.csv", [{"file_name": write(root, "more/a/7.png", 7), "site": 1}])

    data = loaded(root, {"by": "filter", "train": "site == 0", "validation": "site == 1 and folder != 'test'"})

    assert (numbers_of(data), data.train_card.classes) == ([[0, 0], [1, 7]], ("a", "b"))


def test_images_that_nothing_is_said_of_have_gaps(tmp_path: Path) -> None:
    root = flat(tmp_path / "in")
    write(root, "alone.png", 50)
    split = {"by": "filter", "train": "site is not None", "validation": "site is None"}

    assert numbers_of(loaded(flat(tmp_path / "x"), {"by": "random"}, label="site"))
    with pytest.raises(UserError, match=r"no value in column 'kind': image 'alone\.png'"):
        loaded(root, split, label="kind")
    for path in root.glob("*.png"):
        (root / "a").mkdir(exist_ok=True)
        path.rename(root / "a" / path.name)
    metadata(root / "metadata.csv", [{"file_name": f"a/{99 - i}.png", **row} for i, row in enumerate(ROWS)])
    assert numbers_of(loaded(root, split)) == [list(range(12)), [50]]


def test_images_whose_file_lacks_a_column_have_gaps(tmp_path: Path) -> None:
    for number in range(4):
        write(tmp_path, f"{number % 2}/{number}.png", number)
    metadata(tmp_path / "0" / "metadata.csv", [{"file_name": f"{n}.png", "kind": "a", "site": "x"} for n in (0, 2)])
    metadata(tmp_path / "1" / "metadata.csv", [{"file_name": f"{n}.png", "kind": "b"} for n in (1, 3)])

    data = loaded(tmp_path, {"by": "filter", "validation": 'site == "x"', "train": 'kind == "b"'}, label="kind")

    assert numbers_of(data) == [[1, 3], [0, 2]]


def test_images_digest_follows_the_classes_of_the_metadata(tmp_path: Path) -> None:
    root = flat(tmp_path / "in")
    first = loaded(root, {"fraction": 0.0}, label="kind").train_card.digest
    assert loaded(root, {"fraction": 0.0}, label="site").train_card.digest != first
    metadata(root / "metadata.csv", [{"file_name": f"{99 - i}.png", "kind": "ox"} for i in range(12)])
    changed = loaded(root, {"fraction": 0.0}, label="kind").train_card

    assert changed.digest != first and changed.classes == ("ox",)


@pytest.mark.parametrize(
    ("rows", "options", "words"),
    [
        ([{"file": "1.png", "kind": "a"}], {"label": "kind"}, r"metadata\.csv has no column 'file_name'"),
        ([{"file_name": "1.png", "kind": "a"}] * 2, {"label": "kind"}, r"names '1\.png', of which a line before says"),
        ([{"file_name": "1.png", "kind": "a"}], {"label": "kidn"}, r"'kidn'\n.*data\.label\n.*did you mean 'kind'"),
        ([], {"label": "kind"}, r"in \(no metadata\.csv there.*\) has no column 'kind'\n.*data\.label"),
        ([{"file_name": "1.png", "kind": "a"}], {}, "lies in no class's folder[\\s\\S]*or data.label"),
    ],
)
def test_images_metadata_that_do_not_say_it_are_told(tmp_path: Path, rows: Any, options: Any, words: str) -> None:
    write(tmp_path / "in", "1.png", 1)
    if rows:
        metadata(tmp_path / "in" / "metadata.csv", rows)

    with pytest.raises(UserError, match=words) as caught:
        loaded(tmp_path / "in", {"fraction": 0.0}, **options)

    assert len(str(caught.value).splitlines()) == 3


def test_images_and_metadata_at_an_address_are_brought_and_those_that_are_not_are_missed(tmp_path: Path) -> None:
    split = {"by": "column", "column": "site", "validation": [2]}
    here = loaded(flat(tmp_path / "files" / "in"), split, label="kind")
    with servers.nginx(tmp_path / "files", tmp_path / "nginx") as address:
        said = {"path": f"{address}/in", "size": 4, "glob": "*", "label": "kind", "split": split}
        spec = make_spec(data=Component(kind="images", options=said))
        there = images.load(part("data", staging.brought_alone(spec))[1])
        spec = make_spec(data=Component(kind="images", options={**said, "glob": "*.png"}))
        with pytest.raises(UserError, match=r"no metadata\.csv there, or none that data\.glob brought"):
            images.load(part("data", staging.brought_alone(spec))[1])
        with pytest.raises(UserError, match=r"of which nothing is read, has no column 'kind'\n.*data\.label"):
            export_splits.rows_of(spec)

    assert numbers_of(there) == numbers_of(here)
    assert [card.digest for _, card in there.cards] == [card.digest for _, card in here.cards]
