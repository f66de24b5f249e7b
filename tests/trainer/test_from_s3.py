"""Tar shards and images in a bucket train as those on the disk: real ranks, a real server that asks who is there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from conf import locations
from conf.schema import Component, Staging
from tests.trainer import servers
from tests.trainer.ranks import Member, assert_same, make_spec
from tests.trainer.samples import coloured, png
from tests.trainer.test_source_webdataset import write as write_shards
from trainer.data import node, staging
from trainer.failure import UserError

Make = Callable[..., Member]
CLASSES = ("blue", "green", "red")


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No proxy or credentials of the machine's; a node's folder of the test's own."""
    monkeypatch.setenv(node.FOLDER, str(tmp_path / "staged"))
    known = locations.VARIABLES["s3fs"]
    for name in [n for n in os.environ if n.lower().endswith("_proxy") or n in known]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@dataclass(frozen=True)
class Lab:
    """A server with a bucket, and the folders that were brought into it."""

    endpoint: str
    images: Path
    shards: Path


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Thirty images of three classes, in folders and in tar shards."""
    top, pictures = tmp_path_factory.mktemp("lab"), coloured()[::2]
    for number, image in enumerate(pictures):
        path = top / "images" / CLASSES[number % 3] / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(image))
    rows = [
        {"__key__": f"{i:02}", "png": png(one), "cls": i % 3, "json": {"day": f"2026-03-{1 + i // 2:02}", "ok": i != 7}}
        for i, one in enumerate(pictures)
    ]
    write_shards(top / "shards", rows, 7)
    with servers.s3() as endpoint:
        for path in sorted(top.rglob("*.*")):
            servers.put(endpoint, "lab", path.relative_to(top).as_posix(), path.read_bytes())
        yield Lab(endpoint, top / "images", top / "shards")


def run_of(member: Make, name: str, kind: str, path: object, **more: Any) -> Member:
    """A member that trains on colours for some steps."""
    options = {"path": str(path), "size": 8, **more.pop("options", {})}
    train = {"max_steps": 12, "batch_size": 12, "eval_every_steps": 6}
    model = Component(kind="cnn", options={"width": 8})
    return member(name, data=Component(kind=kind, options=options), model=model, train=train, **more)


def sources(run: Member) -> set[str]:
    return {row["dataset"]["source"] for row in run.lines("metrics.jsonl") if "dataset" in row}


def test_shards_in_a_bucket_train_as_those_on_the_disk(member: Make, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """On two ranks, and parted by what stands beside the samples."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "me")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "word")
    split = {"by": "filter", "train": "day < '2026-03-11' and ok", "validation": "day >= '2026-03-11' and ok"}
    told, asked = {"options": {"split": split}, "ranks": 2}, Staging(options={"endpoint_url": lab.endpoint})
    ours = run_of(member, "s3", "webdataset", "s3://lab/shards", staging=asked, **told)
    theirs = run_of(member, "disk", "webdataset", lab.shards, **told)

    for run in (ours, theirs):
        assert run.run() == [0, 0], run.log()

    assert_same(ours, theirs)
    assert "data: brought 5 file(s)" in ours.log()
    assert (sources(ours), sources(theirs)) == ({"s3://lab/shards/**/*.tar"}, {f"{lab.shards}/**/*.tar"})
    assert [row["dataset"]["rows"] for row in ours.lines("metrics.jsonl") if "dataset" in row] == [19, 10]


@pytest.mark.parametrize("told", ["variables", "profile"])
def test_images_in_a_private_bucket_train_as_those_on_the_disk(
    member: Make, lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: str
) -> None:
    """The server checks each signature, and what its key may do."""
    with servers.private(lab.endpoint, "lab") as (key, secret):
        monkeypatch.setenv("AWS_ENDPOINT_URL", lab.endpoint)
        if told == "variables":
            monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
        else:
            (tmp_path / "mine").write_text(f"[lab]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n")
            monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "mine"))
            monkeypatch.setenv("AWS_PROFILE", "lab")
        ours, theirs = (run_of(member, str(i), "images", at) for i, at in enumerate(("s3://lab/images", lab.images)))
        for run in (ours, theirs):
            assert run.run() == [0], run.log()

    assert_same(ours, theirs)
    assert "data: brought 30 file(s)" in ours.log()
    assert (sources(ours), sources(theirs)) == ({"s3://lab/images/*/*"}, {f"{lab.images}/*/*"})
    written = b"".join(path.read_bytes() for path in ours.path.rglob("*") if path.is_file())
    assert secret.encode() not in written


@pytest.mark.parametrize("who", ["nobody", "a stranger", "a liar", "another bucket's reader"])
def test_private_bucket_is_not_brought_to_who_may_not_read_it(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", lab.endpoint)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    spec = make_spec(data=Component(kind="images", options={"path": "s3://lab/images"}))
    with servers.private(lab.endpoint, "other" if who == "another bucket's reader" else "lab") as (key, secret):
        if who != "nobody":
            monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE" if who == "a stranger" else key)
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret[::-1] if who == "a liar" else secret)
        with pytest.raises(UserError, match=r"s3://lab/images may not be read[\s\S]*credentials in the env") as error:
            staging.brought_alone(spec)

    assert secret not in str(error.value)
