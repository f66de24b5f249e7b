"""Rows of tokens from files that the tests write: each window as a plain reader has it, and each mistake in words."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conf.schema import Component
from tests.trainer.ranks import Member
from tests.trainer.samples import HOSTILE, WHOLE
from trainer.data import windows
from trainer.data.splits import Split
from trainer.failure import UserError
from trainer.sources import Data, tokens

pytestmark = pytest.mark.usefixtures("node")


def write(path: Path, values: Any, dtype: str = "uint16") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    row = np.asarray(values, dtype=dtype)
    if path.suffix == ".npy":
        np.save(path, row)
    else:
        row.astype(row.dtype.newbyteorder("<")).tofile(path)
    return path


def load(path: Path, **options: Any) -> Data:
    return tokens.load(tokens.Options(**{"path": str(path), "context_length": 4, "split": WHOLE, **options}))


def naive(rows: list[list[int]], length: int) -> list[list[int]]:
    """Every window of every row, one token longer than it shows."""
    return [row[b : b + length + 1] for row in rows for b in range(0, len(row) - length, length)]


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 23), min_size=1, max_size=4),
    length=st.integers(1, 5),
    dtype=st.sampled_from(["uint8", "uint16", "uint32"]),
    data=st.data(),
)
def test_tokens_windows_are_those_of_a_plain_reader(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], length: int, dtype: str, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("tokens")
    top = {"uint8": 255, "uint16": 65535, "uint32": 2**31}[dtype]
    rows = [data.draw(st.lists(st.integers(0, top), min_size=n, max_size=n)) for n in lengths]
    for number, row in enumerate(rows):
        suffix = ".npy" if row and number % 2 else ".bin"
        write(folder / f"{number}{suffix}", row, dtype)
    wanted = naive(rows, length)
    if not wanted:
        return
    loaded = load(folder, context_length=length, dtype=dtype)
    order = data.draw(st.permutations(range(len(wanted))))

    inputs, targets = loaded.train.batch(np.array(order))

    assert inputs.tolist() == [wanted[i][:-1] for i in order]
    assert targets.tolist() == [wanted[i][1:] for i in order]
    assert (inputs.dtype, loaded.shape.input_dtype) == (torch.int64, "int64")
    assert loaded.shape.outputs == max(map(max, filter(None, rows))) + 1


def test_tokens_parts_lie_one_after_the_other_and_take_no_memory(tmp_path: Path) -> None:
    data = load(write(tmp_path / "t.bin", range(401)), split=Split(fraction=0.25))

    assert (len(data.train), len(data.validation)) == (75, 25)
    assert data.validation.batch(np.array([0]))[0].tolist() == [[300, 301, 302, 303]]
    assert isinstance(data.train.part, range)  # type: ignore[attr-defined]
    assert data.train_card.digest != data.validation_card.digest


def test_tokens_split_by_file_is_that_of_nano_gpt(tmp_path: Path) -> None:
    write(tmp_path / "in" / "train.bin", range(41))
    write(tmp_path / "in" / "val.bin", range(100, 121))
    split = Split(by="column", column="file", train=("train.bin",), validation=("val.bin",))

    data = load(tmp_path / "in", split=split)

    assert (len(data.train), len(data.validation)) == (10, 5)
    assert data.validation.batch(np.array([4]))[1].tolist() == [[117, 118, 119, 120]]


def test_tokens_batch_touches_only_the_files_of_its_windows(tmp_path: Path) -> None:
    """The other file is gone: whoever maps it fails."""
    for number in range(2):
        write(tmp_path / "in" / f"{number}.bin", range(number * 100, number * 100 + 41))
    data = load(tmp_path / "in")
    windows.mapped.cache_clear()
    (tmp_path / "in" / "1.bin").unlink()

    assert data.train.batch(np.array([9]))[0].tolist() == [[36, 37, 38, 39]]
    with pytest.raises(UserError, match=r"1\.bin cannot be read: No such file"):
        data.train.batch(np.array([10]))


def test_tokens_known_on_the_node_are_not_looked_through_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "t.bin", range(41))
    first = load(path)
    monkeypatch.setattr(tokens, "_pieces", None)  # who looks through them again fails

    assert load(path).train_card == first.train_card
    with pytest.raises(TypeError):
        load(write(tmp_path / "u.bin", range(41)))


@pytest.mark.parametrize("name", HOSTILE)
def test_tokens_hostile_names_are_read_and_shown_on_one_line(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name / f"{name}.bin", range(41))

    assert len(load(tmp_path / name).train) == len(load(path).train) == 10
    with pytest.raises(UserError, match=r"token 40, but data\.vocabulary is 40") as caught:
        load(path, vocabulary=40)
    assert len(str(caught.value).splitlines()) == 3


def test_tokens_digest_follows_tokens_and_not_the_place(tmp_path: Path) -> None:
    first = load(write(tmp_path / "t.bin", range(41))).train_card.digest

    assert load(write(tmp_path / "deep" / "u.bin", range(41))).train_card.digest == first
    assert load(write(tmp_path / "v.npy", range(41))).train_card.digest == first
    assert load(write(tmp_path / "w.bin", [*range(40), 0])).train_card.digest != first
    assert load(tmp_path / "t.bin", context_length=5).train_card.digest != first


@pytest.mark.parametrize(
    ("name", "make", "options", "words"),
    [
        ("t.bin", lambda p: p.write_bytes(b"abc"), {}, "3 bytes, which is no whole number of tokens of 2 bytes"),
        ("t.bin", lambda p: p.write_bytes(b""), {}, "0 tokens make 0 windows of 4, too few"),
        ("t.bin", lambda p: write(p, range(9)), {"split": Split(fraction=0.1)}, "nothing of 2 samples for validation"),
        ("t.npy", lambda p: p.write_bytes(b"abc"), {}, "t.npy cannot be read as .npy"),
        ("t.npy", lambda p: np.save(p, np.array([{}])), {}, "t.npy cannot be read as .npy"),
        ("t.npy", lambda p: np.save(p, np.zeros((2, 9), int)), {}, r"has 2 dimension\(s\) of int64"),
        ("t.npy", lambda p: np.save(p, np.zeros(9)), {}, r"has 1 dimension\(s\) of float64"),
        ("t.npy", lambda p: np.save(p, np.arange(-1, 9)), {}, "has token -1"),
        ("t.txt", lambda p: p.write_bytes(b"ab"), {}, "does not end in .bin, .npy"),
        ("t.bin", lambda p: None, {}, "there is nothing at"),
    ],
)
def test_tokens_mistake_is_said_with_its_file(
    tmp_path: Path, name: str, make: Callable[[Path], Any], options: dict[str, Any], words: str
) -> None:
    make(tmp_path / name)

    with pytest.raises(UserError, match=words):
        load(tmp_path / name, **options)


def test_tokens_preview_says_what_load_gives(tmp_path: Path) -> None:
    options = tokens.Options(path=str(write(tmp_path / "t.bin", range(41))), context_length=4)

    assert tokens.preview(options).form == tokens.load(options).shape.form == "tokens"
    wrong = tokens.preview(tokens.Options(path="x", split=Split(by="stratified"))).mistakes
    assert "cannot do" in wrong[0][0]


def test_tokens_train_a_model_to_the_next_one(member: Callable[..., Member], tmp_path: Path) -> None:
    path = write(tmp_path / "in" / "t.bin", [i % 7 for i in range(2000)])
    data = Component(kind="tokens", options={"path": str(path.parent), "context_length": 8, "vocabulary": 11})
    model = Component(kind="gpt", options={"n_layer": 1, "n_head": 2, "width": 16})
    run = member(
        data=data, model=model, train={"max_steps": 60, "batch_size": 16, "eval_every_steps": 60, "workers": 1}
    )
    run.env = {"TMPDIR": tempfile.gettempdir()}

    assert run.run() == [0], run.log()

    assert run.result()["metrics"]["val/accuracy"] > 0.8
