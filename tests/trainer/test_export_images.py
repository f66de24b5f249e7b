"""Folders of images as Vertex AI exports them: for each its path and its class, in the part where we have it."""

from __future__ import annotations

import json
import os
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from PIL import Image

from conf.document import to_document
from conf.schema import Component, Staging
from tests.trainer import servers
from tests.trainer.ranks import make_spec
from tests.trainer.samples import HOSTILE, coloured, everything, png
from tests.trainer.test_export_splits import SPLIT, part_of, run_of
from trainer import components, export_splits
from trainer.data import annotated, written
from trainer.failure import UserError
from trainer.sources import Samples

pytestmark = pytest.mark.usefixtures("node")
CLASSES = ("blue", "green", "red")


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy of the machine's."""
    for name in [n for n in os.environ if n.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three classes of twenty images, all of them different, and what is no image."""
    for number, image in enumerate(coloured()):
        path = tmp_path / "images" / CLASSES[number % 3] / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(image))
    (tmp_path / "images/red/notes.txt").write_text("no image")
    return tmp_path / "images"


def images(path: object, **options: Any) -> Component:
    return Component(kind="images", options={"path": str(path), "size": 6, "split": SPLIT, **options})


def named(lines: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(line["imageGcsUri"], line["classificationAnnotation"]["displayName"]) for line in lines]


def seen_in(samples: Samples | None, classes: tuple[str, ...]) -> list[tuple[tuple[int, ...], str]]:
    """The colour of each sample's first pixel, and its class."""
    assert samples is not None
    pixels, codes = everything(samples)
    colours = (pixels[:, :, 0, 0] * 255).round().int().tolist()
    return [(tuple(colour), classes[code]) for colour, code in zip(colours, codes.tolist(), strict=True)]


def opened(lines: list[dict[str, Any]]) -> list[tuple[Any, str]]:
    found = []
    for path, name in named(lines):
        with Image.open(path) as image:
            found.append((image.getpixel((0, 0)), name))
    return found


@pytest.mark.parametrize(
    ("split", "glob"),
    [
        (SPLIT, "*/*"),
        ({"by": "column", "column": "folder", "train": ["one"], "validation": ["two"], "test": ["three"]}, "*/*/*"),
        ({"by": "column", "column": "folder", "validation": ["three"], "leave_out": ["two"]}, "*/*/*"),
    ],
)
def test_each_image_is_named_once_in_the_part_where_our_trainer_has_it(
    tmp_path: Path, folder: Path, split: dict[str, Any], glob: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(annotated, "PIECE", 7)
    if glob == "*/*/*":
        for number, path in enumerate(sorted(folder.glob("*/*.png"))):
            above = folder / ("one", "two", "three")[number % 3] / path.parent.name
            above.mkdir(parents=True, exist_ok=True)
            path.rename(above / path.name)
    data = images(folder, split=split, glob=glob)

    found = export_splits.export(run_of(tmp_path, data), 0, "jsonl")

    module, options = components.part("data", data)
    ours = module.load(options)
    count = 0
    for part, samples in zip(written.PARTS, (ours.train, ours.validation, ours.test), strict=True):
        lines = part_of(found, part, "jsonl")
        if part == "test" and "leave_out" in split:
            assert samples is None and not list(found.glob("test-*"))
            continue
        assert opened(lines) == seen_in(samples, ours.train_card.classes) and lines
        use = {"aiplatform.googleapis.com/ml_use": part}
        assert all(line["dataItemResourceLabels"] == use and len(line) == 3 for line in lines)
        count += len(lines)
    assert count == (40 if "leave_out" in split else 60)


def test_line_has_the_fields_of_vertex_in_their_order(tmp_path: Path, folder: Path) -> None:
    found = export_splits.export(run_of(tmp_path, images(folder)), 0, "jsonl")

    (file,) = found.glob("training-*")
    assert file.read_text().splitlines()[0] == (
        f'{{"imageGcsUri": "{folder}/blue/00.png", "classificationAnnotation": {{"displayName": "blue"}}, '
        '"dataItemResourceLabels": {"aiplatform.googleapis.com/ml_use": "training"}}'
    )


def test_awkward_names_arrive_as_they_are_and_a_link_to_the_folder_is_named_as_the_user_did(
    tmp_path: Path, folder: Path
) -> None:
    image = next(folder.glob("*/*.png"))
    for name in HOSTILE:
        (tmp_path / "odd" / name).mkdir(parents=True)
        for i in range(2):
            shutil.copy(image, tmp_path / "odd" / name / f"{i} {name}.png")
    (tmp_path / "link").symlink_to("odd")
    data = images(tmp_path / "link", split={"by": "stratified", "fraction": 0.5})

    found = export_splits.export(run_of(tmp_path, data), 0, "jsonl")

    lines = named(part_of(found, "training", "jsonl") + part_of(found, "validation", "jsonl"))
    expected = [(str(tmp_path / "link" / name / f"{i} {name}.png"), name) for name in HOSTILE for i in range(2)]
    assert sorted(lines) == sorted(expected)
    assert all(Path(path).is_file() for path, _ in lines)


def test_name_that_is_no_text_is_refused_and_shown(tmp_path: Path, folder: Path) -> None:
    image = next(folder.glob("*/*.png"))
    shutil.copy(image, os.fsencode(folder) + b"/red/\xff.png")
    run = run_of(tmp_path, images(folder))

    with pytest.raises(UserError, match=r"red/\\udcff.png' is not UTF-8") as refused:
        export_splits.export(run, 0, "jsonl")

    str(refused.value).encode()
    assert not (run / "splits/0").exists()
    assert export_splits.export(run_of(tmp_path, images(folder, glob="blue/*"), "blue"), 0, "jsonl")


def test_no_image_is_opened_and_what_changes_among_them_is_seen(tmp_path: Path, folder: Path) -> None:
    for path in folder.glob("*/*.png"):
        path.write_bytes(b"no image")
    keys = set()
    for job in ("one", "same", "grown", "more"):
        if job == "grown":
            path.write_bytes(b"nor is this one")
        elif job == "more":
            shutil.copy(path, path.with_name("more.jpg"))
        run = run_of(tmp_path, images(folder), job)
        export_splits.export(run, 0, "jsonl")
        (pin,) = (run / "splits").glob("*.json")
        keys.add((json.loads(pin.read_text())["entry"], job == "same"))
    assert len(keys) == 4 and len({key for key, _ in keys}) == 3


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"glob": "*/*.jpg"}, "no file matches"),
        ({"glob": "*"}, "lies in no class's folder"),
        ({"split": {"by": "column", "column": "folder", "validation": ["pink"]}}, "has 'pink'"),
    ],
)
def test_look_tells_what_is_wrong_with_the_folder(folder: Path, wrong: dict[str, Any], said: str) -> None:
    shutil.copy(next(folder.glob("*/*.png")), folder / "top.png")

    ((what, _, _),) = export_splits.look(to_document(images(folder, **wrong)), "jsonl")

    assert said in what
    assert export_splits.look(to_document(images(folder)), "jsonl") == []
    ((what, _, do),) = export_splits.look(to_document(images(folder)), "csv")
    assert "cannot be written as csv: 'classificationAnnotation'" in what and "jsonl" in do


@pytest.fixture
def web(tmp_path: Path, folder: Path) -> Iterator[str]:
    (folder / "red/a b#ü.png").write_text("odd")
    with servers.nginx(tmp_path, tmp_path / "nginx") as address:
        yield f"{address}/images"


def test_images_at_an_address_are_named_by_theirs_and_none_is_brought(tmp_path: Path, folder: Path, web: str) -> None:
    here = export_splits.export(run_of(tmp_path, images(folder), "here"), 0, "jsonl")

    there = export_splits.export(run_of(tmp_path, images(web), "there"), 0, "jsonl")

    for part in written.PARTS:
        expected = [
            (path.replace(str(folder), web).replace("a b#ü", "a%20b%23%C3%BC"), name)
            for path, name in named(part_of(here, part, "jsonl"))
        ]
        assert named(part_of(there, part, "jsonl")) == expected and expected
    asked = servers.requests_of(tmp_path / "nginx", wanted=".png", count=1)
    assert asked and not [row for row in asked if '"GET ' in row]
    with urllib.request.urlopen(f"{web}/red/a%20b%23%C3%BC.png", timeout=20) as answer:
        assert answer.read() == b"odd"


@pytest.mark.parametrize("path", ["s3://bucket/some", "s3://bucket/some/", "s3://bucket/some/*/*.png"])
def test_images_in_a_bucket_are_named_so_that_a_program_can_open_them(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "me")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "word")
    here = export_splits.export(run_of(tmp_path, images(folder), "here"), 0, "jsonl")
    with servers.s3() as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        for file in folder.glob("*/*"):
            servers.put(endpoint, "bucket", f"some/{file.relative_to(folder)}", file.read_bytes())

        there = export_splits.export(run_of(tmp_path, images(path), "there"), 0, "jsonl")

        for part in written.PARTS:
            ours, theirs = (named(part_of(found, part, "jsonl")) for found in (here, there))
            assert theirs == [(file.replace(str(folder), "s3://bucket/some"), name) for file, name in ours] and ours
        program = fsspec.filesystem("s3", skip_instance_cache=True)
        assert program.cat_file(theirs[0][0]) == Path(ours[0][0]).read_bytes()


def test_images_stay_where_they_are_though_data_are_brought_to_nodes(tmp_path: Path, folder: Path) -> None:
    spec = make_spec(data=images(folder), staging=Staging(copy=True))

    rows = export_splits.rows_of(spec)

    (chunk, *_) = rows.records.read(rows.records.types)
    assert chunk.batch.column("imageGcsUri")[0].as_py() == str(folder / "blue/00.png")
