"""Samples of tar shards and arrays are parted by what stands beside them, as a table of the same columns is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conf.schema import Component
from tests.trainer.ranks import Member, assert_same, own
from tests.trainer.samples import everything, npy
from tests.trainer.test_source_arrays import write as write_arrays
from tests.trainer.test_source_webdataset import packed
from tests.trainer.test_source_webdataset import write as write_shards
from trainer.components import part
from trainer.data import shards
from trainer.failure import UserError
from trainer.sources import Data, arrays, table, webdataset

pytestmark = pytest.mark.usefixtures("node")
ROWS: list[dict[str, Any]] = [
    {
        "fold": i % 4,
        "kind": ["ox", "ant", "b`e"][i % 3],
        "ok": i % 5 == 0,
        "x": i / 4,
        "odd name": -i,
        "day": f"2026-01-{1 + i % 28:02}",
        "at": f"2026-01-{1 + i % 28:02}T0{i % 10}:30:00Z",
    }
    for i in range(40)
]
SPLITS: list[dict[str, Any]] = [
    {"by": "column", "column": "fold", "train": [0, 1], "validation": [2], "leave_out": [3]},
    {"by": "column", "column": "fold", "validation": [2], "test": [3]},
    {"by": "column", "column": "kind", "validation": ["b`e"]},
    {"by": "column", "column": "ok", "validation": [True]},
    {"by": "column", "column": "day", "validation": ["2026-01-05", "2026-01-28"]},
    {"by": "time", "column": "day", "before": "2026-01-20", "test_from": "2026-01-26"},
    {"by": "time", "column": "at", "before": "2026-01-20T09:00:00+01:00"},
    {"by": "time", "column": "x", "before": 6.5},
    {"by": "filter", "validation": "fold == 2 and not ok or kind in ('ant',)"},
    {"by": "filter", "train": "day < '2026-01-20'", "validation": "at >= '2026-01-20T09:00:00+01:00'"},
    {"by": "filter", "train": "x < 5", "validation": "5 <= x < 7", "test": "`odd name` < -30 and kind != 'ox'"},
]


def loaded(source: Any, path: Path, split: dict[str, Any], **options: Any) -> Data:
    kind = source.__name__.rpartition(".")[2]
    _, said = part("data", Component(kind=kind, options={"path": str(path), "split": split, **options}))
    data: Data = source.load(said)
    return data


def numbers_of(data: Data) -> list[list[int]]:
    """Of each part which samples are in it: the one number that each of them has."""
    parts = (data.train, data.validation, data.test)
    return [everything(samples)[0].flatten().int().tolist() for samples in parts if samples is not None]


def as_table(tmp_path: Path, split: dict[str, Any]) -> list[list[int]]:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"n": i, "label": i % 2, **row}) + "\n" for i, row in enumerate(ROWS)))
    return numbers_of(loaded(table, path, split, target="label", features=["n"]))


def as_shards(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """Seven samples a shard, whose .json are the rows."""
    samples = [
        {"__key__": f"{i:03}", "npy": np.array([float(i)]), "cls": i % 2, "json": row} for i, row in enumerate(rows)
    ]
    return write_shards(folder, samples, 7)


def of_shards(path: Path, split: dict[str, Any]) -> Data:
    return loaded(webdataset, path, split, input=["npy"])


def columns(rows: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """The rows as arrays; times as numpy has them."""
    found = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    found["at"] = np.array([text.removesuffix("Z") for text in found["at"]], dtype="M8[ms]")
    return {**found, "day": found["day"].astype("M8[D]")}


@pytest.mark.parametrize("split", SPLITS)
def test_beside_shards_are_parted_as_a_table_is(tmp_path: Path, split: dict[str, Any]) -> None:
    wanted = as_table(tmp_path, split)

    assert numbers_of(of_shards(as_shards(tmp_path / "in", ROWS), split)) == wanted
    assert all(wanted) and len(wanted) == 2 + bool({"test", "test_from"} & set(split))


@pytest.mark.parametrize("place", ["a.npz", "a"])
@pytest.mark.parametrize("split", SPLITS)
def test_beside_arrays_are_parted_as_a_table_is(tmp_path: Path, split: dict[str, Any], place: str) -> None:
    path = write_arrays(tmp_path / place, x0=np.arange(40.0)[:, None], y=np.arange(40) % 2, **columns(ROWS))

    assert numbers_of(loaded(arrays, path, split, inputs="x0")) == as_table(tmp_path, split)


def test_beside_a_field_that_a_sample_lacks_is_a_gap(tmp_path: Path) -> None:
    """As null is, and as in a table of JSON lines: no comparison takes it, nor its opposite."""
    rows = [{"a": 1}, {"a": None}, {"b": 0}, {"a": 3.5}, {"a": 9}]
    path = as_shards(tmp_path / "in", rows)

    for train, validation, wanted in (
        ("not a < 2", "a < 2", [[3, 4], [0]]),
        ("a is not None", "a is None", [[0, 3, 4], [1, 2]]),
    ):
        data = of_shards(path, {"by": "filter", "train": train, "validation": validation})
        assert numbers_of(data) == wanted


def test_beside_folder_shard_and_fields_go_into_one_filter(tmp_path: Path) -> None:
    as_shards(tmp_path / "in" / "old", ROWS[:14])
    as_shards(tmp_path / "in" / "new", ROWS[:14])
    split = {"by": "filter", "train": "folder == 'old'", "validation": "shard == 'new/0001.tar' and fold == 3"}

    assert numbers_of(of_shards(tmp_path / "in", split)) == [list(range(14)), [7, 11]]


def test_beside_fields_are_read_once_per_node_and_again_when_a_shard_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, split = as_shards(tmp_path / "in", ROWS), SPLITS[0]
    first = of_shards(path, split)
    with monkeypatch.context() as here:
        here.setattr(shards, "_samples", None)  # who looks through them again fails
        assert of_shards(path, split).train_card == first.train_card

    (path / "0000.tar").unlink()
    packed(path / "0000.tar", [("0.npy", npy([99.0])), ("0.cls", b"0"), ("0.json", b'{"fold": 2}')])
    shards._opened.cache_clear()
    assert numbers_of(of_shards(path, split))[1][:2] == [99, 10]


@pytest.mark.parametrize(
    "split", [{"by": "random"}, {"by": "column", "column": "folder", "train": ["a"], "validation": ["b"]}]
)
def test_beside_fields_are_read_where_the_split_goes_by_them_alone(tmp_path: Path, split: dict[str, Any]) -> None:
    for name in ("a", "b"):
        rows = [(f"{i}.{kind}", content) for i in range(9) for kind, content in
                (("npy", npy([float(i)])), ("cls", b"0"), ("json", b"no JSON"))]  # fmt: skip
        packed(tmp_path / "in" / name / "0.tar", rows)

    assert sum(map(len, numbers_of(of_shards(tmp_path / "in", split)))) == 18


GOOD = {"by": "column", "column": "fold", "validation": [1]}


@pytest.mark.parametrize(
    ("beside", "split", "words"),
    [
        ({"fold": 1}, {**GOOD, "column": "fodl"}, r"in has no column 'fodl'[\s\S]*column[\s\S]*did you mean 'fold'"),
        ({"fold": 1, "q": 2}, {**GOOD, "column": "zz"}, r"'zz'[\s\S]*is: 'fold', 'day', 'q', 'shard', 'folder'"),
        ({"fold": 1}, {"by": "filter", "validation": "yaer > 2"}, r"no column 'yaer'[\s\S]*split\.validation"),
        ({"day": "x"}, GOOD, r"0001\.tar has no value in column 'fold': sample '007'"),
        ({"fold": None}, GOOD, r"0001\.tar has no value in column 'fold': sample '007'"),
        ({"fold": 1}, {"by": "time", "column": "day", "before": "2026-01-02"}, "no value in column 'day': sample"),
        ({"fold": 1.5}, GOOD, r"a fraction in column 'fold', which has labels: sample '007'"),
        ({"fold": "1"}, GOOD, r"0001\.tar has a \.json .* for sample '007': 'fold' is '1', where others have numbers"),
        ({"fold": True}, GOOD, "'fold' is True, where others have numbers"),
        ({"fold": [1]}, GOOD, r"'fold' is \[1\], which is no text, number, true or false"),
        ({"fold": 1 << 64}, GOOD, "'fold' is 18446744073709551616, which is no text, number"),
        ([1], GOOD, r"\.json .* for sample '007': it is no object"),
        (b"{", GOOD, r"\.json .* for sample '007': Expecting property name"),
        (b"\xff\xfe{", GOOD, r"\.json .* for sample '007': "),
        (b'{"fold": "\\ud800"}', GOOD, "which is no text"),
        (None, GOOD, r"0001\.tar has no \.json for sample '007' \(it has '\.npy', '\.cls'\)"),
        ({"fold": 0}, {"by": "filter", "train": "fold == 0", "validation": "fold < 1"}, "sample '000' of .*0000.tar"),
        ({"fold": 0}, {"by": "filter", "validation": "fold == 'x'"}, "'fold' is int64, and is compared with 'x'"),
        ({"fold": 0}, {"by": "time", "column": "shard", "before": 1}, "'shard' of .*in is string, and a split by time"),
    ],
)  # fmt: skip
def test_beside_what_is_wrong_with_a_field_is_said_with_sample_and_shard(
    tmp_path: Path, beside: Any, split: dict[str, Any], words: str
) -> None:
    """Of nine samples in two shards the eighth is wrong."""
    for number, keys in enumerate((range(7), range(7, 9))):
        members: list[tuple[str, bytes]] = []
        for key in keys:
            said: Any = beside if key == 7 else {"fold": key % 2, "day": f"2026-01-0{key + 1}"}
            members += [(f"{key:03}.npy", npy([1.0])), (f"{key:03}.cls", b"0")]
            if said is not None:
                members.append((f"{key:03}.json", said if isinstance(said, bytes) else json.dumps(said).encode()))
        packed(tmp_path / "in" / f"{number:04}.tar", members)

    with pytest.raises(UserError, match=words) as caught:
        of_shards(tmp_path / "in", split)

    assert len(str(caught.value).splitlines()) == 3


X, Y = np.arange(6.0)[:, None], np.arange(6) % 2
FOLD = np.array([0, 1, 0, 1, 0, 0])


@pytest.mark.parametrize("place", ["a.npz", "a"])
@pytest.mark.parametrize(
    "fold",
    [*(FOLD.astype(kind) for kind in ("i1", "u8", ">i4", "f2", ">f8", "U5", ">U5", "?")), FOLD.astype("M8[D]"),
     FOLD.astype("M8[h]"), FOLD.astype("M8[D]").astype("M8[ns]")],
    ids=lambda array: str(array.dtype),
)  # fmt: skip
def test_beside_arrays_of_any_type_are_columns(tmp_path: Path, place: str, fold: np.ndarray) -> None:
    path = write_arrays(tmp_path / place, x=X, y=Y, fold=fold)
    later = {"b": True, "M": str(fold[1]), "U": "1"}.get(fold.dtype.kind, 1)
    said = "fold" if later is True else f"fold == {later!r}"

    assert numbers_of(loaded(arrays, path, {"by": "filter", "validation": said})) == [[0, 2, 4, 5], [1, 3]]
    if fold.dtype.kind not in "Ub":
        data = loaded(arrays, path, {"by": "time", "column": "fold", "before": later})
        assert numbers_of(data) == [[0, 2, 4, 5], [1, 3]]


@pytest.mark.parametrize(
    ("members", "split", "words"),
    [
        ({"flod": FOLD}, GOOD, r"has no array 'fold' \(it has: .*'flod'.*\)\n.*data\.split\n.*did you mean 'flod'"),
        ({"fold": FOLD[:5]}, GOOD, "fold.* has 5 values, and there are 6 samples"),
        ({"fold": FOLD[:, None]}, GOOD, r"array 'fold' of .* has 2 dimension\(s\) of int64"),
        ({"fold": FOLD + 1j}, GOOD, r"array 'fold' of .* has 1 dimension\(s\) of complex128"),
        ({"fold": FOLD.astype(object)}, GOOD, "cannot be read as an array: .*(Object|objects)"),
        ({"fold": FOLD.astype("u8") + (1 << 63)}, GOOD, "is uint64, where int64 is wanted"),
        ({"fold": FOLD + 0.5}, GOOD, "has a fraction in column 'fold', which has labels: row 0"),
        ({"fold": np.where(FOLD, np.nan, 1)}, {"by": "time", "column": "fold", "before": 1}, "no value .*: row 1"),
        ({"fold": FOLD}, {**GOOD, "validation": [7]}, "has '7', but no sample has that in column fold"),
        ({"fold": FOLD}, {"by": "filter", "train": "fold < 2", "validation": "fold == 1"}, "row 1 of .* is taken by"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("place", ["a.npz", "a"])
def test_beside_array_that_is_no_column_is_said(
    tmp_path: Path, place: str, members: dict[str, Any], split: dict[str, Any], words: str
) -> None:
    path = write_arrays(tmp_path / place, x=X, y=Y, **members)

    with pytest.raises(UserError, match=words) as caught:
        loaded(arrays, path, split)

    assert len(str(caught.value).splitlines()) == 3


def test_beside_arrays_that_are_kept_apart_are_parted_by_nothing(tmp_path: Path) -> None:
    path = write_arrays(tmp_path / "a", x=X, y=Y, v=X[:2], w=Y[:2])

    data = loaded(arrays, path, {"by": "column", "column": "none", "validation": [1]}, validation=["v", "w"])

    assert numbers_of(data) == [[0, 1, 2, 3, 4, 5], [0, 1]]


def test_beside_preview_sees_what_no_data_are_needed_for() -> None:
    for kind, options in (("arrays", {}), ("webdataset", {"input": ["npy"]})):
        for split, words in (
            ({"by": "time", "column": "day"}, "data.split.before is not given"),
            ({"by": "column", "validation": [1]}, "data.split.column is not given"),
            ({"by": "filter", "validation": "a <"}, "it is no expression"),
        ):
            module, said = part("data", Component(kind=kind, options={"path": "x", "split": split, **options}))
            assert words in str(module.preview(said).mistakes)
    _, said = part("data", Component(kind="arrays", options={"path": "x", "test": ["v", "w"], "split": SPLITS[1]}))
    assert "the split keeps a test" in str(arrays.preview(said).mistakes)


def test_beside_samples_train_on_two_ranks_as_those_parted_by_hand(
    member: Callable[..., Member], tmp_path: Path
) -> None:
    labels, fold = np.arange(120) % 10, np.arange(120) % 4
    inputs = np.eye(10)[labels] + 0.05 * np.random.default_rng(1).standard_normal((120, 10))
    path = write_arrays(tmp_path / "mine.npz", x=inputs, y=labels, fold=fold, v=inputs[fold == 1], w=labels[fold == 1],
                        i=inputs[fold != 1], t=labels[fold != 1])  # fmt: skip
    said = {"beside": {"split": {"by": "column", "column": "fold", "validation": [1]}},
            "by hand": {"inputs": "i", "targets": "t", "validation": ["v", "w"]}}  # fmt: skip
    runs = [
        member(
            name,
            ranks=2,
            data=Component(kind="arrays", options={"path": str(path), **options}),
            model=own("own.Net"),
            train={"max_steps": 20},
        )
        for name, options in said.items()
    ]

    for run in runs:
        assert run.run() == [0, 0], run.log()

    assert_same(*runs)
    assert runs[0].result()["metrics"] == runs[1].result()["metrics"]
