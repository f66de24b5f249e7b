"""Tar shards that webdataset's own writer writes: each sample as its own reader has it, and each mistake in words."""

from __future__ import annotations

import dataclasses
import gzip
import io
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset as wds
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from webdataset import tariterators

from conf.schema import Component
from tests.trainer.ranks import Member
from tests.trainer.samples import HOSTILE, WHOLE, coloured, everything, npy, png
from trainer.data import shards
from trainer.data.feed import Feed
from trainer.data.order import Order
from trainer.data.splits import Split
from trainer.failure import UserError
from trainer.sources import Data, webdataset

pytestmark = pytest.mark.usefixtures("node")


def image(seed: int) -> bytes:
    return png(Image.fromarray(np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)))


def samples(count: int) -> list[dict[str, Any]]:
    return [
        {"__key__": f"{i:04}", "png": image(i), "cls": i % 3, "json": {"label": "abc"[i % 3], "n": i}}
        for i in range(count)
    ]


def write(folder: Path, rows: list[dict[str, Any]], at_once: int = 5) -> Path:
    """Shards as webdataset writes them."""
    folder.mkdir(parents=True)
    with wds.ShardWriter(f"{folder}/%04d.tar", maxcount=at_once, verbose=0) as writer:
        for row in rows:
            writer.write(row)
    return folder


def packed(path: Path, members: list[tuple[str, bytes]], mode: str = "w") -> Path:
    """One shard, member by member, as tar itself would write it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode, format=tarfile.PAX_FORMAT) as tar:  # type: ignore[call-overload]
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def load(path: Path, **options: Any) -> Data:
    return webdataset.load(webdataset.Options(**{"path": str(path), "size": 6, "split": WHOLE, **options}))


def theirs(folder: Path) -> list[dict[str, Any]]:
    """What webdataset's own reader gives, undecoded."""
    found = []
    for path in sorted(folder.rglob("*.tar")):
        with path.open("rb") as f:
            members = tariterators.tar_file_expander([{"url": str(path), "stream": f}])
            found += list(tariterators.group_by_keys(members))
    return found


def as_it_reads(content: bytes) -> torch.Tensor:
    with Image.open(io.BytesIO(content)) as read:
        return torch.from_numpy(np.asarray(read).transpose(2, 0, 1).copy()).float() / 255


def test_webdataset_samples_are_those_of_its_own_reader_in_any_order(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", samples(23))
    data, wanted = load(folder), theirs(folder)
    chosen = [22, 0, 7, 7, 13]

    inputs, targets = data.train.batch(np.array(chosen))

    assert len(data.train) == len(wanted) == 23
    assert torch.equal(inputs, torch.stack([as_it_reads(wanted[i]["png"]) for i in chosen]))
    assert [data.train_card.classes[i] for i in targets] == [wanted[i]["cls"].decode() for i in chosen]
    assert (data.shape.form, data.shape.input_shape, data.shape.outputs) == ("images", (3, 6, 6), 3)


def test_webdataset_arrays_are_those_of_its_own_reader(tmp_path: Path) -> None:
    rows = [{"__key__": f"{i}", "x.npy": np.arange(4, dtype="i2") + i, "cls": i % 2} for i in range(9)]
    folder = write(tmp_path / "in", rows)
    wanted = np.stack([np.load(io.BytesIO(row["x.npy"])) for row in theirs(folder)])

    data = load(folder, input=("x.npy",))

    assert torch.equal(everything(data.train)[0], torch.from_numpy(wanted).float())
    assert (data.shape.input_shape, data.train_card.features) == ((4,), "4 float32")


def test_webdataset_texts_are_windows_of_their_bytes(tmp_path: Path) -> None:
    rows = [{"__key__": f"{i}", "txt": f"text number {i};"} for i in range(7)]
    folder = write(tmp_path / "in", rows)
    whole = b"".join(row["txt"] for row in theirs(folder))

    data = load(folder, input=("txt",), context_length=5)
    inputs, targets = everything(data.train)

    assert bytes(inputs.flatten().tolist()) == whole[: inputs.numel()] and len(inputs) == (len(whole) - 1) // 5
    assert bytes(targets[2].tolist()) == whole[11:16]
    assert (data.shape.task, data.shape.outputs) == ("next_token", 256)


@pytest.mark.parametrize(
    ("options", "classes"),
    [
        ({"target": "json", "field": "label"}, ("a", "b", "c")),
        ({"target": "json", "field": "n"}, tuple(map(str, range(12)))),
        ({"target": "cls"}, ("0", "1", "2")),
    ],
)
def test_webdataset_class_is_a_whole_part_or_a_field(tmp_path: Path, options: Any, classes: tuple[str, ...]) -> None:
    data = load(write(tmp_path / "in", samples(12)), **options)

    assert data.train_card.classes == classes
    assert [classes[i] for i in everything(data.train)[1]][:3] == list(classes[:3])


NAMES = st.text("ab/.", min_size=1, max_size=6).filter(
    lambda name: not name.startswith("/") and not any(part in ("", ".", "..") for part in name.split("/"))
)


@settings(max_examples=60, deadline=None)
@given(names=st.lists(st.tuples(NAMES, st.sampled_from(["txt", "cls"])), min_size=1, max_size=8))
def test_webdataset_grouping_is_that_of_its_own_reader(
    tmp_path_factory: pytest.TempPathFactory, names: list[tuple[str, str]]
) -> None:
    members = [(f"{stem}.{kind}", f"{i}".encode()) for i, (stem, kind) in enumerate(names)]
    path = packed(tmp_path_factory.mktemp("in") / "a.tar", members)
    problems = shards.Problems()
    file = shards.files.found(str(path), "")[0]
    try:
        wanted = theirs(path.parent)
    except ValueError as e:
        assert "duplicate file name" in str(e)
        assert list(shards._samples(file, problems)) and "twice" in problems.words[0]
        return

    found = [
        {"__key__": sample.key, **{part: shards.read(file, *place) for part, place in sample.parts.items()}}
        for sample in shards._samples(file, problems)
    ]

    assert found == [{k: v for k, v in row.items() if k not in ("__url__", "__local_path__")} for row in wanted]
    assert not problems.words


def test_webdataset_members_that_are_no_samples_are_passed_over(tmp_path: Path) -> None:
    path = packed(
        tmp_path / "a.tar",
        [("__meta__/x.json", b"{}"), ("1.png", image(1)), ("1.CLS", b" 7\n"), (".hidden", b""), ("README", b"")],
    )

    data = load(path)

    assert (len(data.train), data.train_card.classes) == (1, ("7",))


@pytest.mark.parametrize("name", HOSTILE)
def test_webdataset_hostile_names_are_read_and_shown_on_one_line(tmp_path: Path, name: str) -> None:
    path = packed(tmp_path / name / f"{name}.tar", [(f"{name}/{name}.png", b"no image"), (f"{name}/{name}.cls", b"x")])

    with pytest.raises(UserError, match="cannot be read as an image: it is none") as caught:
        load(path.parent).train.batch(np.array([0]))

    assert len(str(caught.value).splitlines()) == 3 and ".png" in str(caught.value)


def test_webdataset_split_by_folder_and_by_shard_take_what_they_name(tmp_path: Path) -> None:
    write(tmp_path / "in" / "train", samples(10))
    write(tmp_path / "in" / "val", samples(4))
    by_folder = Split(by="column", column="folder", train=("train",), validation=("val",))
    by_shard = Split(by="column", column="shard", validation=("train/0001.tar",))

    assert (len((one := load(tmp_path / "in", split=by_folder)).train), len(one.validation)) == (10, 4)
    assert (len((two := load(tmp_path / "in", split=by_shard)).train), len(two.validation)) == (9, 5)
    assert torch.equal(everything(two.validation)[0][0], as_it_reads(image(5)))


def test_webdataset_is_looked_through_once_per_node_and_only_the_batch_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path / "in", samples(10))
    first = load(folder)
    monkeypatch.setattr(shards, "_samples", None)  # who looks through them again fails
    data = load(folder)
    shards._opened.cache_clear()
    (folder / "0001.tar").unlink()

    assert data.train_card == first.train_card
    assert torch.equal(data.train.batch(np.array([4]))[0][0], as_it_reads(image(4)))
    with pytest.raises(UserError, match=r"0001\.tar cannot be read: No such file"):
        data.train.batch(np.array([5]))


def test_webdataset_digest_follows_samples_and_not_how_they_are_sharded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def digest(name: str, rows: list[dict[str, Any]], at_once: int) -> str:
        return load(write(tmp_path / name, rows, at_once)).train_card.digest

    changed = [*samples(9), {**samples(10)[9], "png": image(99)}]
    first = digest("a", samples(10), 5)

    assert digest("b", samples(10), 3) == first != digest("c", changed, 5)
    monkeypatch.setattr("trainer.sources.WHOLE_BYTES", 100)
    monkeypatch.setattr("trainer.sources.PROBES", 2)
    read: list[int] = []
    monkeypatch.setattr(shards, "read", lambda file, offset, size, real=shards.read: read.append(size) or b"0")
    digest("d", samples(10), 5)
    assert sorted(read, reverse=True)[:3] == sorted([len(image(0)), len(image(5)), 1], reverse=True)


def cut(path: Path, at: int) -> None:
    path.write_bytes(path.read_bytes()[:at])


def garbled(path: Path) -> None:
    """The header of the second sample's first member."""
    with tarfile.open(path) as tar:
        offset = tar.getmembers()[3].offset
    with path.open("r+b") as f:
        f.seek(offset)
        f.write(b"\xff" * 200)


def doubled(path: Path) -> None:
    path.write_bytes(path.read_bytes() * 2)


def zipped(path: Path) -> None:
    path.write_bytes(gzip.compress(path.read_bytes()))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda p: cut(p, 300), "is no tar file, or is damaged or cut"),
        (lambda p: cut(p, 600), r"damaged or cut: 'a\.png' is not all there"),
        (lambda p: cut(p, 3 * 512), r"damaged or cut: 'a\.cls' is not all there"),
        (lambda p: cut(p, 7 * 512 + 300), r"damaged or cut: unexpected end of data"),
        (lambda p: cut(p, 8 * 512), "is cut: its end mark is missing at byte 4096"),
        (lambda p: cut(p, 8 * 512 + 7), "there is no header at byte 4096"),
        (lambda p: cut(p, 0), "is no tar file"),
        (garbled, r"is damaged: there is no header at byte \d+"),
        (doubled, r"goes on after its end at byte \d+"),
        (zipped, r"is compressed \(gzip\)"),
        (lambda p: p.write_bytes(b"nothing of a tar" * 99), "is no tar file"),
        (lambda p: packed(p, []), "holds no samples"),
        (lambda p: packed(p, [("a.png", b"x")]), r"has no \.cls for sample 'a' \(it has '\.png'\)"),
        (lambda p: packed(p, [("a.cls", b"1")]), r"has no \.jpg or .* for sample 'a'"),
        (lambda p: packed(p, [("a.png", b"x"), ("a.jpg", b"x"), ("a.cls", b"1")]), r"more than one \.jpg or"),
        (lambda p: packed(p, [("a.png", b"x"), ("a.cls", b"1"), ("a.png", b"x")]), r"has 'a\.png' twice"),
        (lambda p: packed(p, [("a.png", b"x"), ("a.cls", b"")]), r"\.cls without a class for sample 'a'"),
        (lambda p: packed(p, [("a.png", b"x"), ("a.cls", b"1.5")]), "'1.5', which is a number and no class"),
        (lambda p: packed(p, [("a.png", b"x"), ("a.cls", b"\xff")]), "without a class for sample 'a': 'utf-8'"),
    ],
)
def test_webdataset_damage_is_said_with_its_shard(tmp_path: Path, spoil: Callable[[Path], Any], words: str) -> None:
    path = packed(tmp_path / "a.tar", [("a.png", image(1)), ("a.cls", b"1"), ("a.txt", b"1"), ("b.png", image(2))])
    spoil(path)

    with pytest.raises(UserError, match=words) as caught:
        load(path)

    assert len(str(caught.value).splitlines()) == 3


def test_webdataset_all_problems_of_all_shards_are_said_at_once(tmp_path: Path) -> None:
    packed(tmp_path / "a.tar", [("1.png", b"x")])
    packed(tmp_path / "b.tar", [(f"{i}.cls", b"1") for i in range(20)])
    (tmp_path / "c.tar").write_bytes(b"x" * 999)

    with pytest.raises(UserError, match=r"a\.tar has no \.cls[\s\S]*b\.tar has no .*'0'.*and 14 more"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"x", "cannot be read as .npy"),
        (np.array([{}, {}, {}, {}]), "Object arrays cannot be loaded"),
        (np.zeros(5), r"has the shape \(5,\), but the first array has \(4,\)"),
        (np.array(["a"] * 4), "it has no numbers"),
    ],
)
def test_webdataset_array_that_does_not_fit_is_named(tmp_path: Path, content: Any, words: str) -> None:
    bad = content if isinstance(content, bytes) else npy(content)
    members = [("1.npy", npy(np.zeros(4))), ("1.cls", b"0"), ("2.npy", bad), ("2.cls", b"1")]
    data = load(packed(tmp_path / "a.tar", members), input=("npy",))

    with pytest.raises(UserError, match=rf"a\.tar: 2\.npy.*{words}"):
        data.train.batch(np.array([0, 1]))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"input": ("pyd",)}, "a pickled object"),
        ({"input": ("x.PICKLE",)}, "a pickled object"),
        ({"target": "pyd"}, "a pickled object"),
        ({"input": ("jpg", "npy")}, "not all images, all arrays or all texts"),
        ({"input": ()}, "not all images"),
        ({"target": "jpg"}, "no part that holds a class"),
        ({"target": "json"}, "data.field is None"),
        ({"field": "x"}, "data.field is 'x'"),
    ],
)
def test_webdataset_parts_that_cannot_be_are_refused_before_anything_is_read(options: Any, words: str) -> None:
    ((what, key, do),) = webdataset.preview(webdataset.Options(path="x", **options)).mistakes

    assert words in what and key.startswith("data.") and do
    with pytest.raises(UserError, match=words):
        load(Path("x"), **options)


def test_webdataset_preview_says_what_load_gives(tmp_path: Path) -> None:
    texts = [{"__key__": f"{i}", "png": image(i), "cls": 1, "txt": "some text"} for i in range(5)]
    folder = write(tmp_path / "in", texts)

    for parts, form in ((("png",), "images"), (("txt",), "tokens")):
        options = webdataset.Options(path=str(folder), input=parts, context_length=4, size=6, split=WHOLE)
        assert webdataset.preview(options).form == webdataset.load(options).shape.form == form
    assert webdataset.preview(webdataset.Options(path="x", input=("npy",))).form is None


def numbered(folder: Path, count: int) -> Path:
    """Samples that say which one they are."""
    return write(folder, [{"__key__": f"{i:03}", "npy": np.array([float(i)]), "cls": i % 2} for i in range(count)], 7)


def ids(samples: Any, world: int, steps: range) -> list[list[int]]:
    """Of each step the samples that all ranks together read, fillers left out."""
    orders = [Order(len(samples), 8, seed=3, world=world, rank=rank) for rank in range(world)]
    read = []
    for step in steps:
        read.append([])
        for order in orders:
            for batch in Feed(samples, torch.device("cpu")).batches(order.passes(step, step + 1)):
                real = slice(None) if batch.weights is None else batch.weights > 0
                read[-1] += batch.inputs[real].flatten().int().tolist()
    return read


def test_webdataset_each_sample_once_per_epoch_when_ranks_change_on_the_way(tmp_path: Path) -> None:
    samples = load(numbered(tmp_path / "in", 45), input=("npy",)).train
    per_epoch = 6

    whole = ids(samples, 1, range(2 * per_epoch))
    chain = ids(samples, 1, range(0, 4)) + ids(samples, 4, range(4, 9)) + ids(samples, 2, range(9, 2 * per_epoch))

    assert list(map(sorted, chain)) == list(map(sorted, whole))
    for epoch in (chain[:per_epoch], chain[per_epoch:]):
        assert sorted(i for step in epoch for i in step) == list(range(45))
    assert chain[:per_epoch] != chain[per_epoch:]


def test_webdataset_trains_a_model_that_goes_on_on_two_ranks(member: Callable[..., Member], tmp_path: Path) -> None:
    """Augmented, by the user's own code too."""
    change = {"flip": True, "crop": 0.5, "colour": 0.1, "own": {"_target_": "own.Noisy", "most": 0.01}}
    rows = [{"__key__": f"{i:02}", "png": png(one), "cls": i % 3} for i, one in enumerate(coloured())]
    options = {"path": str(write(tmp_path / "in", rows, 13)), "size": 8, "augment": change}
    data = Component(kind="webdataset", options=options)
    train = {"max_steps": 12, "batch_size": 18, "eval_every_steps": 12, "workers": 1}
    run = member(data=data, model=Component(kind="cnn", options={"width": 8}), train=train)
    run.env = {"TMPDIR": tempfile.gettempdir()}
    assert run.run() == [0], run.log()
    run.ranks, run.spec = 2, dataclasses.replace(run.spec, train=dataclasses.replace(run.spec.train, max_steps=30))

    assert run.run() == [0, 0], run.log()

    assert run.result()["steps"] == 30
    assert run.result()["metrics"]["val/accuracy"] > 0.6
    assert run.lines("metrics.jsonl")[0]["dataset"]["classes"] == ["0", "1", "2"]
