"""Arrays that the tests write with numpy: each sample as a plain reader has it, and each mistake in words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conf.schema import Component
from tests.trainer.ranks import Member, own
from tests.trainer.samples import HOSTILE, WHOLE, everything
from trainer.data.splits import Split
from trainer.failure import UserError
from trainer.sources import Data, arrays

pytestmark = pytest.mark.usefixtures("node")
RANDOM = np.random.default_rng(1)


def write(path: Path, **members: Any) -> Path:
    """A .npz file, or a folder of .npy files."""
    if path.suffix == ".npz":
        np.savez_compressed(path, **members)
    else:
        path.mkdir()
        for name, array in members.items():
            np.save(path / f"{name}.npy", array)
    return path


def load(path: Path, **options: Any) -> Data:
    return arrays.load(arrays.Options(**{"path": str(path), "split": WHOLE, **options}))


@pytest.mark.parametrize("place", ["a.npz", "a"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "float16", "float64", ">f4"])
@pytest.mark.parametrize("shape", [(7,), (4, 5), (3, 4, 5)])
def test_arrays_samples_are_the_numbers_that_were_written(
    tmp_path: Path, place: str, dtype: str, shape: tuple[int, ...]
) -> None:
    written = RANDOM.integers(0, 256, (20, *shape)).astype(dtype)
    labels = np.arange(20) % 3

    form = "numbers" if len(shape) == 1 else "images"
    data = load(write(tmp_path / place, x=written, y=labels), form=form)

    inputs, targets = everything(data.train)
    each = (1, *shape) if len(shape) == 2 else shape
    wanted = written.astype("f4") / (255 if dtype == "uint8" else 1)
    assert inputs.dtype == torch.float32 and torch.equal(inputs, torch.from_numpy(wanted.reshape(20, *each)))
    assert targets.tolist() == labels.tolist()
    assert (data.shape.form, data.shape.input_shape, data.shape.outputs) == (form, each, 3)
    assert data.train_card.scale == ((255.0,) if dtype == "uint8" else ())


def test_arrays_images_with_their_channels_last_are_turned(tmp_path: Path) -> None:
    images = RANDOM.integers(0, 256, (6, 4, 5, 3)).astype("uint8")
    path = write(tmp_path / "a.npz", x=images, y=np.arange(6)[:, None])

    inputs, targets = everything(load(path, form="images", channels_last=True).train)

    assert inputs.shape == (6, 3, 4, 5) and inputs.is_contiguous()
    assert inputs[2, 1, 3, 4] == torch.tensor(images[2, 3, 4, 1] / 255, dtype=torch.float32)
    assert targets.tolist() == list(range(6))


def test_arrays_that_are_kept_apart_already_are_the_parts(tmp_path: Path) -> None:
    members = {f"{x}_{part}": RANDOM.random((n, 2)) if x == "x" else np.arange(n) % 2
               for part, n in (("train", 8), ("val", 3), ("test", 5)) for x in ("x", "y")}  # fmt: skip
    path = write(tmp_path / "mnist.npz", **members)
    apart = {"inputs": "x_train", "targets": "y_train", "validation": ("x_val", "y_val")}

    data = load(path, **apart, test=("x_test", "y_test"), split=Split(fraction=0.5))

    assert data.test is not None
    assert [len(part) for part in (data.train, data.validation, data.test)] == [8, 3, 5]
    assert torch.equal(everything(data.test)[0], torch.from_numpy(members["x_test"].astype("f4")))


@pytest.mark.parametrize("by", ["stratified", "random", "end"])
def test_arrays_are_parted_with_each_sample_in_one_part(tmp_path: Path, by: Any) -> None:
    numbers = np.arange(40, dtype="f4")[:, None]
    split = Split(by=by, fraction=0.2, test_fraction=0.1)

    data = load(write(tmp_path / "a", x=numbers, y=np.arange(40) % 2), split=split)

    assert data.test is not None
    parts = [everything(part)[0].ravel().tolist() for part in (data.train, data.validation, data.test)]
    assert [len(part) for part in parts] == [28, 8, 4]
    assert sorted(number for part in parts for number in part) == numbers.ravel().tolist()


def test_arrays_digest_is_of_the_samples_wherever_they_lie(tmp_path: Path) -> None:
    x, y = RANDOM.random((9, 4)), np.arange(9) % 2
    changed = x.copy()
    changed[4, 2] += 1

    cards = [load(write(tmp_path / name, x=a, y=y)).train_card for name, a in (("a", x), ("b.npz", x), ("c", changed))]

    assert cards[0].digest == cards[1].digest != cards[2].digest


@pytest.mark.parametrize("name", HOSTILE)
def test_arrays_of_any_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    members: dict[str, Any] = {name: np.ones((4, 2)), "y": np.arange(4) % 2}
    path = write(tmp_path / name / "a.npz", **members)

    assert len(load(path, inputs=name).train) == 4


X, Y = np.ones((4, 2)), np.arange(4) % 2


@pytest.mark.parametrize(
    ("members", "options", "words"),
    [
        ({"x": X, "z": Y}, {}, "has no array 'y' (it has: 'x', 'z')"),
        ({"x": X, "y": Y[:3]}, {}, "has 4 samples, and"),
        ({"x": X, "y": Y + 0.5}, {}, "has 1 dimension(s) of float64"),
        ({"x": X, "y": Y - 1}, {}, "the lowest -1"),
        ({"x": X, "y": np.stack([Y, Y], 1)}, {}, "has 2 dimension(s) of int64"),
        ({"x": X[:, 0], "y": Y}, {}, "has 1 dimension(s) of float64"),
        ({"x": X[:, None], "y": Y}, {}, "has 3 dimension(s) of float64, and data.form is 'numbers'"),
        ({"x": X, "y": Y}, {"form": "images"}, "has 2 dimension(s) of float64, and data.form is 'images'"),
        ({"x": X.astype("U3"), "y": Y}, {}, "has 2 dimension(s) of <U3"),
        ({"x": X.astype(object), "y": Y}, {}, "cannot be read as an array"),
        ({"x": X, "y": Y, "v": X[:, :1]}, {"validation": ("v", "y")}, "are [1], and those that train [2]"),
    ],
)
@pytest.mark.parametrize("place", ["a.npz", "a"])
def test_arrays_mistakes_are_told(
    tmp_path: Path, place: str, members: dict[str, Any], options: dict[str, Any], words: str
) -> None:
    path = write(tmp_path / place, **members)

    with pytest.raises(UserError) as error:
        load(path, **options)

    assert words in str(error.value) and str(error.value).count("\n") == 2


def test_arrays_split_that_keeps_a_test_beside_one_that_is_kept_apart_is_told_before_anything_is_read() -> None:
    split = Split(test_fraction=0.1)

    for apart in ({"validation": ("v", "w")}, {"test": ("v", "w")}):
        given = arrays.preview(arrays.Options(path="nowhere", split=split, **apart))
        assert [key for _, key, _ in given.mistakes] == ["data.split"]
    assert arrays.preview(arrays.Options(path="nowhere", split=split)).mistakes == ()


def test_arrays_file_that_is_none_is_told(tmp_path: Path) -> None:
    for name, words in (("a.npz", "cannot be read as .npz"), ("a.txt", "does not end in .npz")):
        (tmp_path / name).write_text("no array")
        with pytest.raises(UserError, match=words):
            load(tmp_path / name)


def test_arrays_train_on_two_ranks(member: Callable[..., Member], tmp_path: Path) -> None:
    labels = np.arange(120) % 10
    path = write(tmp_path / "mine.npz", x=np.eye(10)[labels] + 0.05 * RANDOM.standard_normal((120, 10)), y=labels)
    run = member(
        ranks=2,
        data=Component(kind="arrays", options={"path": str(path)}),
        model=own("own.Net"),
        optimizer=Component(kind="adamw", options={"lr": 0.03}),
        train={"max_steps": 60},
    )

    assert run.run() == [0, 0], run.log()

    assert run.result()["metrics"]["val/accuracy"] > 0.9


@pytest.mark.parametrize("place", ["a.npz", "a"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int16"])
def test_arrays_of_a_regression_give_numbers(tmp_path: Path, place: str, dtype: str) -> None:
    y = (RANDOM.normal(size=(20, 1)) * 100).astype(dtype)
    path = write(tmp_path / place, x=RANDOM.random((20, 3)), y=y, x_val=RANDOM.random((4, 3)), y_val=y[:4, 0])

    data = load(path, task="regression", validation=("x_val", "y_val"))

    shape, learned = data.shape, everything(data.train)[1]
    assert (shape.task, shape.outputs) == ("regression", 1)
    assert (shape.target_offset, shape.target_scale) == pytest.approx((y.mean(dtype="f8"), y.std(dtype="f8")))
    assert learned.dtype == torch.float32 and learned.shape == (20,)
    np.testing.assert_allclose(learned.double() * shape.target_scale + shape.target_offset, y[:, 0], rtol=1e-5)
    assert torch.equal(everything(data.validation)[1], learned[:4])
    plain = load(path, task="regression", standardise_target=False)
    assert torch.equal(everything(plain.train)[1], torch.from_numpy(y[:, 0].astype("f4")))
    assert plain.train_card.digest != load(path, task="regression").train_card.digest


@pytest.mark.parametrize(
    ("y", "words"),
    [
        (np.array([0.0, 1, np.nan, 2]), "has nan at 2, and float32 holds"),
        (np.ones((4, 2)), "has 2 dimension(s) of float64"),
        (np.array(["a"] * 4), "has 1 dimension(s) of <U1"),
    ],
)
def test_arrays_of_a_regression_that_are_no_numbers_are_told(tmp_path: Path, y: np.ndarray, words: str) -> None:
    with pytest.raises(UserError) as error:
        load(write(tmp_path / "a", x=X, y=y), task="regression")

    assert words in str(error.value)


def test_arrays_of_fractions_tell_of_the_regression(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.task=regression"):
        load(write(tmp_path / "a", x=X, y=Y + 0.5))
