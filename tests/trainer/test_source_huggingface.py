"""Hugging Face data sets that their own package saved: each sample as it reads them back, each mistake in words."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value, load_from_disk
from datasets.utils import disable_progress_bars
from PIL import Image as Pillow

from conf.schema import Component
from tests.trainer.ranks import ROOT, Member
from tests.trainer.samples import WHOLE, coloured, everything
from trainer.data.splits import Split
from trainer.failure import UserError
from trainer.sources import Data, huggingface

pytestmark = pytest.mark.usefixtures("node")
disable_progress_bars()
BY_NAME = Split(by="column", column="split", train=("train",), validation=("test",))


def rows(count: int, first: int = 0) -> Dataset:
    """Images, numbers, texts and tokens with a class."""
    pixels = np.random.default_rng(first).integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)
    numbers = range(first, first + count)
    columns = {
        "image": [Pillow.fromarray(one) for one in pixels],
        "label": [i % 3 for i in numbers],
        "a": [i / 2 for i in numbers],
        "b": [i * 3 for i in numbers],
        "text": [f"text ünumber {i}" for i in numbers],
        "input_ids": [[i, i + 1, 7] for i in numbers],
    }
    kinds = {
        "image": Image(),
        "label": ClassLabel(names=["ox", "ant", "bee", "never"]),
        "a": Value("float32"),
        "b": Value("int16"),
        "text": Value("string"),
        "input_ids": List(Value("int32")),
    }
    return Dataset.from_dict(columns, features=Features(kinds))


def saved(path: Path, data: Dataset | DatasetDict, **options: Any) -> Path:
    data.save_to_disk(str(path), **options)
    return path


def load(path: Path, form: Any, **options: Any) -> Data:
    return huggingface.load(
        huggingface.Options(**{"path": str(path), "form": form, "size": 6, "split": WHOLE, **options})
    )


def test_huggingface_images_are_those_of_their_own_package(tmp_path: Path) -> None:
    path = saved(tmp_path / "in", rows(20), num_shards=3)
    theirs, data = load_from_disk(str(path)), load(path, "images")
    chosen = [19, 0, 7, 7]

    inputs, targets = data.train.batch(np.array(chosen))

    wanted = np.stack([np.asarray(theirs[i]["image"]).transpose(2, 0, 1) for i in chosen]) / np.float32(255)
    assert torch.equal(inputs, torch.from_numpy(wanted))
    assert targets.tolist() == [theirs[i]["label"] for i in chosen]
    assert data.train_card.classes == ("ox", "ant", "bee", "never")
    assert (data.shape.input_shape, data.shape.outputs) == ((3, 6, 6), 4)


def test_huggingface_numbers_are_those_of_their_own_package(tmp_path: Path) -> None:
    path = saved(tmp_path / "in", rows(20))
    theirs, data = load_from_disk(str(path)), load(path, "numbers")

    inputs, targets = everything(data.train)

    assert data.train_card.columns == ("a", "b")
    assert inputs.tolist() == [[row["a"], row["b"]] for row in theirs]
    assert targets.tolist() == theirs["label"][:]
    assert load(path, "numbers", features=("b",), standardise=True).train_card.scale != ()


def test_huggingface_numbers_can_be_predicted(tmp_path: Path) -> None:
    path = saved(tmp_path / "in", rows(20))

    data = load(path, "numbers", task="regression", target="a", features=("b",), standardise_target=False)

    assert data.shape.task == "regression"
    assert everything(data.train)[1].tolist() == pytest.approx(load_from_disk(str(path))["a"][:])
    with pytest.raises(UserError, match=r"data\.task is regression, but data\.form is images"):
        load(path, "images", task="regression")
    with pytest.raises(UserError, match=r"column 'label' of .* and data.task is regression"):
        load(path, "numbers", task="regression")


def test_huggingface_class_can_be_any_column_of_labels(tmp_path: Path) -> None:
    path = saved(tmp_path / "in", Dataset.from_dict({"x": [1.0, 2.0, 3.0], "kind": ["b", "a", "b"], "n": [10, 9, 10]}))

    assert load(path, "numbers", target="kind").train_card.classes == ("a", "b")
    assert load(path, "numbers", target="n").train_card.classes == ("9", "10")


def test_huggingface_texts_are_their_bytes_each_with_a_line_break(tmp_path: Path) -> None:
    path = saved(tmp_path / "in", rows(9))
    whole = "".join(f"{text}\n" for text in load_from_disk(str(path))["text"]).encode()

    data = load(path, "tokens", features=("text",), context_length=5)
    inputs, targets = everything(data.train)

    assert bytes(inputs.flatten().tolist()) == whole[: inputs.numel()] and len(inputs) == (len(whole) - 1) // 5
    assert bytes(targets[1].tolist()) == whole[6:11]
    assert (data.shape.task, data.shape.outputs, data.train_card.features) == ("next_token", 256, "5 bytes")


def test_huggingface_token_lists_follow_each_other(tmp_path: Path) -> None:
    path = saved(tmp_path / "in", rows(9))

    data = load(path, "tokens", features=("input_ids",), context_length=4)

    assert everything(data.train)[0].flatten().tolist() == [t for i in range(9) for t in (i, i + 1, 7)][:24]
    assert (data.shape.outputs, data.train_card.features) == (10, "4 tokens")
    with pytest.raises(UserError, match=r"token 9, but data\.vocabulary is 9"):
        load(path, "tokens", features=("input_ids",), vocabulary=9)


def test_huggingface_dict_is_split_by_its_own_names_in_every_form(tmp_path: Path) -> None:
    path = saved(tmp_path / "in", DatasetDict(train=rows(12), test=rows(6, 12)))

    for form, sizes in (("images", (12, 6)), ("numbers", (12, 6))):
        data = load(path, form, split=BY_NAME)
        assert (len(data.train), len(data.validation)) == sizes
    assert everything(data.validation)[0][:, 1].tolist() == [i * 3 for i in range(12, 18)]
    tokens = load(path, "tokens", features=("input_ids",), split=BY_NAME, context_length=2)
    assert (len(tokens.train), len(tokens.validation)) == (17, 8)
    assert tokens.validation.batch(np.array([0]))[0].tolist() == [[12, 13]]
    only = load(path, "numbers", only="test")
    assert len(only.train) == 6


def test_huggingface_dict_is_not_mixed_unless_told(tmp_path: Path) -> None:
    path = saved(tmp_path / "in", DatasetDict(train=rows(12), test=rows(6)))

    for split in (Split(), Split(by="random"), WHOLE):
        with pytest.raises(UserError, match=r"'train', 'test', which data\.split would mix[\s\S]*data\.only"):
            load(path, "images", split=split)


@pytest.mark.parametrize("form", ["images", "numbers"])
def test_huggingface_filter_looks_at_all_columns_and_at_names_of_classes(tmp_path: Path, form: str) -> None:
    path = saved(tmp_path / "in", DatasetDict(train=rows(12), test=rows(6, 12)))
    split = Split(by="filter", train="split == 'train' and label != 'bee'", validation="b >= 36 and text > 'a'")

    data = load(path, form, split=split)

    assert (len(data.train), len(data.validation)) == (8, 6)
    assert data.train_card.classes == ("ox", "ant", "bee", "never")
    assert set(everything(data.train)[1].tolist()) == {0, 1}


def test_huggingface_digest_follows_content_and_not_the_place(tmp_path: Path) -> None:
    path = saved(tmp_path / "in", rows(8))
    first = {form: load(path, form, **one).train_card.digest for form, one in FORMS}
    moved = Path(shutil.copytree(path, tmp_path / "moved"))
    other = saved(tmp_path / "other", rows(8, first=1))

    assert {form: load(moved, form, **one).train_card.digest for form, one in FORMS} == first
    again = {form: load(other, form, **one).train_card.digest for form, one in FORMS}
    assert not set(again.values()) & set(first.values())


FORMS: list[tuple[Any, dict[str, Any]]] = [
    ("images", {}),
    ("numbers", {}),
    ("tokens", {"features": ("text",), "context_length": 4}),
]


def cut_between_batches(path: Path) -> None:
    """What Arrow itself takes for a whole stream."""
    file = next(path.glob("*.arrow"))
    file.write_bytes(file.read_bytes()[:-8])
    assert len(load_from_disk(str(path))) == 5


def cut(path: Path) -> None:
    file = next(path.glob("*.arrow"))
    file.write_bytes(file.read_bytes()[:-50])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (cut_between_batches, r"\.arrow is cut: its end mark is missing"),
        (cut, "cannot be read as a Hugging Face data set: Expected"),
        (lambda p: next(p.glob("*.arrow")).unlink(), "cannot be read as a Hugging Face data set"),
        (lambda p: (p / "dataset_info.json").write_text("{"), "cannot be read as a Hugging Face data set"),
        (lambda p: (p / "state.json").write_text("{}"), "cannot be read as a Hugging Face data set"),
        (lambda p: (p / "state.json").unlink(), "neither a `Dataset` directory nor a `DatasetDict`"),
        (shutil.rmtree, "there is no folder at"),
    ],
)
def test_huggingface_damage_is_said(tmp_path: Path, spoil: Callable[[Path], Any], words: str) -> None:
    path = saved(tmp_path / "in", rows(5))
    spoil(path)

    with pytest.raises(UserError, match=words) as caught:
        load(path, "numbers")

    assert len(str(caught.value).splitlines()) == 3


def own(**columns: Any) -> Dataset:
    return Dataset.from_dict(columns)


@pytest.mark.parametrize(
    ("data", "form", "options", "words"),
    [
        (own(x=[1.0], label=[1]), "images", {}, "has 0 columns of images\n.*\n.*'x', 'label'"),
        (own(x=[1.0], label=[1]), "images", {"features": ("x",)}, "column 'x' of .* is Value.*, which holds no images"),
        (own(x=[b"x"], label=[1]), "images", {}, "row 0 of the data set cannot be read as an image"),
        (own(x=[1.0], label=[1]), "numbers", {"target": "lable"}, r"no column 'lable'\n.*\n.*'label'"),
        (own(x=["a"], label=[1]), "numbers", {"features": ("x",)}, "column 'x' of .* is string, and features are num"),
        (own(x=["a"], label=[1]), "numbers", {}, "no column of numbers beside 'label'"),
        (own(x=[1.0, None], label=[1, 2]), "numbers", {}, "no value in row 1 of column 'x'"),
        (own(x=[1.0, 2.0], label=[1, None]), "numbers", {}, "no value in column 'label': row 1"),
        (own(x=[1.0], label=[[1]]), "numbers", {}, "column 'label' is list<item: int64>, where string is wanted"),
        (own(x=["a"], y=["b"]), "tokens", {}, "has 2 columns of texts or tokens"),
        (own(x=[1.5]), "tokens", {"features": ("x",)}, "holds no texts or tokens"),
        (own(x=["a" * 20, None]), "tokens", {}, "row 1 has no value in column 'x'"),
        (own(x=[[1, -2]]), "tokens", {}, "has token -2"),
        (own(x=["a"]), "tokens", {}, "too few"),
        (own(x=[1.0], label=[1]), "numbers", {"only": "train"}, "has no data set 'train'"),
        (
            Dataset.from_dict({"x": [1.0], "label": [-1]}, Features(x=Value("float32"), label=ClassLabel(names=["a"]))),
            "numbers",
            {},
            "no value in column 'label': row 0",
        ),
        (
            Dataset.from_dict({"x": [None], "label": [0]}, Features(x=Image(), label=Value("int8"))),
            "images",
            {},
            "row 0 of the data set has no image in column 'x'",
        ),
    ],
)
def test_huggingface_mistake_is_said(tmp_path: Path, data: Dataset, form: Any, options: Any, words: str) -> None:
    path = saved(tmp_path / "in", data)

    with pytest.raises(UserError, match=words):
        load(path, form, **options).train.batch(np.array([0]))


def test_huggingface_datasets_with_other_columns_are_refused_unless_one_is_chosen(tmp_path: Path) -> None:
    path = saved(tmp_path / "in", DatasetDict(train=own(x=[1.0], label=[1]), test=own(y=[1.0], label=[1])))

    with pytest.raises(UserError, match=r"'train' and 'test' of .* have different columns"):
        load(path, "numbers", split=BY_NAME)
    assert len(load(path, "numbers", only="test").train) == 1


def test_huggingface_preview_says_what_load_gives(tmp_path: Path) -> None:
    path = saved(tmp_path / "in", rows(9))
    for form, options in FORMS:
        said = huggingface.Options(path=str(path), form=form, size=6, split=WHOLE, **options)
        assert huggingface.preview(said).form == huggingface.load(said).shape.form == form
        assert huggingface.preview(said).mistakes == ()
    two = huggingface.Options(path="x", form="images", features=("a", "b"))
    assert "names 2 columns" in huggingface.preview(two).mistakes[0][0]


def test_huggingface_asks_nobody_outside(tmp_path: Path) -> None:
    """Whoever looks up a host name or connects is killed."""
    path = saved(tmp_path / "in", rows(5))
    script = f"""
import os, sys
sys.addaudithook(lambda event, args: event in ("socket.connect", "socket.getaddrinfo") and os.abort())
sys.path.insert(0, {str(ROOT)!r})
from trainer.sources import huggingface
from trainer.data.splits import Split
options = huggingface.Options(path={str(path)!r}, form="images", split=Split(fraction=0.0))
print(len(huggingface.load(options).train))
"""

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100)

    assert done.stdout == "5\n", done.stderr


def test_huggingface_trains_a_model_with_workers(member: Callable[..., Member], tmp_path: Path) -> None:
    kinds = Features(image=Image(), label=ClassLabel(names=["blue", "green", "red"]))
    data = Dataset.from_dict({"image": coloured(), "label": [i % 3 for i in range(60)]}, features=kinds)
    options = {"path": str(saved(tmp_path / "in", data)), "form": "images", "size": 8}
    run = member(
        data=Component(kind="huggingface", options=options),
        model=Component(kind="cnn", options={"width": 8}),
        train={"max_steps": 24, "batch_size": 18, "eval_every_steps": 24, "workers": 1},
    )
    run.env = {"TMPDIR": tempfile.gettempdir()}

    assert run.run() == [0], run.log()

    assert run.result()["metrics"]["val/accuracy"] > 0.6
    assert json.dumps(run.lines("metrics.jsonl")[0]["dataset"]["classes"]) == '["blue", "green", "red"]'
