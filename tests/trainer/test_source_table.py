"""Tables of numbers from files that the tests write: each cell as a plain reader has it, each mistake in words."""

from __future__ import annotations

import csv
import datetime as dt
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from conf.schema import Component
from tests.trainer.ranks import Member
from tests.trainer.samples import HOSTILE, WHOLE, everything
from trainer.components import part
from trainer.data.splits import Split
from trainer.failure import UserError
from trainer.sources import Data, table

ROWS = [
    {"a": i / 7, "b": i * 3, "name": f"n{i}", "ok": i % 2 == 0, "kind": ["ox", "ant", "bee"][i % 3], "fold": i % 4}
    for i in range(60)
]
pytestmark = pytest.mark.usefixtures("node")


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, default=str) + "\n" for row in rows))
    else:
        with path.open("w", newline="") as f:
            writer = csv.DictWriter(f, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


def load(path: Path, **options: Any) -> Data:
    return table.load(table.Options(**{"path": str(path), "target": "kind", "split": WHOLE, **options}))


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_table_every_format_gives_each_cell_as_a_plain_reader_has_it(tmp_path: Path, suffix: str) -> None:
    data = load(write(tmp_path / f"t{suffix}", ROWS), features=("b", "a", "ok"))

    inputs, targets = data.train.batch(np.array([59, 0, 31, 31]))

    wanted = [[ROWS[i]["b"], ROWS[i]["a"], float(ROWS[i]["ok"])] for i in (59, 0, 31, 31)]
    assert torch.equal(inputs, torch.tensor(wanted, dtype=torch.float32))
    assert [data.train_card.classes[i] for i in targets] == [ROWS[i]["kind"] for i in (59, 0, 31, 31)]
    assert (data.shape.task, data.shape.input_shape, data.shape.outputs) == ("classification", (3,), 3)


def test_table_classes_are_in_order_of_text_or_of_number(tmp_path: Path) -> None:
    numbers = [{"x": i, "kind": [10, 9, 100][i % 3]} for i in range(9)]

    assert load(write(tmp_path / "t.csv", ROWS)).train_card.classes == ("ant", "bee", "ox")
    for suffix in (".csv", ".parquet", ".jsonl"):
        assert load(write(tmp_path / f"n{suffix}", numbers)).train_card.classes == ("9", "10", "100")


def test_table_features_not_named_are_all_other_columns_of_numbers(tmp_path: Path) -> None:
    for suffix in (".csv", ".jsonl", ".parquet"):
        data = load(write(tmp_path / f"t{suffix}", ROWS), split=Split(by="column", column="fold", validation=(3,)))
        assert data.train_card.columns == ("a", "b", "ok")


def test_table_files_of_a_folder_follow_their_names_whatever_these_are(tmp_path: Path) -> None:
    for number, name in enumerate(sorted(HOSTILE)):
        write(tmp_path / "in" / f"{name}.csv", ROWS[number * 10 : number * 10 + 10])
    (tmp_path / "in" / "notes.txt").write_text("nothing of a table")

    inputs, _ = everything(load(tmp_path / "in", features=("b",)).train)

    assert inputs[:, 0].tolist() == [row["b"] for row in ROWS]


@pytest.mark.parametrize("name", HOSTILE)
def test_table_hostile_name_is_on_one_line_of_the_message(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"{name}.csv"
    path.write_text("a,kind\n1,x\nbad,y\n")

    with pytest.raises(UserError, match=r"row 3 of column 'a'") as caught:
        load(path, features=("a",))

    assert len(str(caught.value).splitlines()) == 3


def test_table_parquet_touches_no_other_column(tmp_path: Path) -> None:
    """The bytes of another column are overwritten: whoever reads them fails."""
    rows = pa.table({"a": np.arange(50_000.0), "kind": ["x", "y"] * 25_000, "z": np.random.rand(50_000)})
    path = tmp_path / "t.parquet"
    pq.write_table(rows, path, compression="none", use_dictionary=["kind"])
    chunk = pq.ParquetFile(path).metadata.row_group(0).column(2)
    with path.open("r+b") as f:
        f.seek(chunk.data_page_offset)
        f.write(b"\xff" * chunk.total_compressed_size)
    with pytest.raises((OSError, UserError)):
        load(path)

    data = load(path, features=("a",))

    assert torch.equal(everything(data.train)[0][:, 0], torch.arange(50_000.0))


def test_table_is_read_once_per_node_and_not_for_each_batch(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", ROWS)
    data = load(path)
    before = everything(load(path).train)[0]
    content, times = path.read_bytes(), path.stat()
    path.write_bytes(b"x" * len(content))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    assert torch.equal(everything(data.train)[0], before)
    assert not isinstance(data.train, torch.Tensor) and isinstance(data.train.matrix.features, np.memmap)  # type: ignore[attr-defined]


def test_table_digest_follows_cells_and_not_the_format_or_the_place(tmp_path: Path) -> None:
    features = {"features": ("a", "b")}
    digests = {
        load(write(tmp_path / "deep" / f"t{suffix}", ROWS), **features).train_card.digest
        for suffix in (".csv", ".jsonl", ".parquet")
    }
    moved = load(write(tmp_path / "u.csv", ROWS), **features).train_card.digest
    other = load(write(tmp_path / "v.csv", [*ROWS[:-1], {**ROWS[-1], "a": 0}]), **features).train_card.digest

    assert digests == {moved}
    assert other != moved
    assert load(tmp_path / "u.csv", **features, standardise=True).train_card.digest != moved


GAPS = "a,b,kind\n1,1,x\n,3,y\n3,NaN,x\n8,5,y\n"


@pytest.mark.parametrize(
    ("missing", "wanted"),
    [("zero", [[1, 1], [0, 3], [3, 0], [8, 5]]), ("mean", [[1, 1], [4, 3], [3, 3], [8, 5]])],
)
def test_table_missing_number_becomes_what_was_asked_for(tmp_path: Path, missing: str, wanted: list) -> None:
    (tmp_path / "t.csv").write_text(GAPS)

    inputs, _ = everything(load(tmp_path / "t.csv", missing=missing).train)

    assert inputs.tolist() == wanted


def test_table_mean_and_deviation_are_those_of_the_training_part(tmp_path: Path) -> None:
    rows = [{"a": (1e6 + i if i < 40 else 1e9) if i % 5 else None, "c": 5, "kind": i % 2} for i in range(60)]
    path = write(tmp_path / "t.parquet", rows)
    data = load(path, missing="mean", standardise=True, split=Split(by="end", fraction=1 / 3))
    known = np.array([row["a"] for row in rows[:40] if row["a"] is not None])
    filled = np.array([known.mean() if row["a"] is None else row["a"] for row in rows[:40]])

    inputs, _ = everything(data.train)

    np.testing.assert_allclose(inputs[:, 0], (filled - known.mean()) / filled.std(), rtol=1e-5, atol=1e-6)
    assert inputs[:, 1].eq(0).all()
    assert data.train_card.offset == pytest.approx((known.mean(), 5))
    assert data.train_card.scale == pytest.approx((filled.std(), 1))


def test_table_split_by_column_keeps_what_it_names(tmp_path: Path) -> None:
    split = Split(by="column", column="fold", train=(0, 1), validation=("2",), leave_out=(3,))
    for suffix in (".csv", ".jsonl", ".parquet"):
        data = load(write(tmp_path / f"t{suffix}", ROWS), features=("b",), split=split)
        inputs, _ = everything(data.train)
        assert inputs[:, 0].tolist() == [row["b"] for row in ROWS if row["fold"] < 2]
        assert len(data.validation) == 15


@pytest.mark.parametrize("before", ["2026-02-01", "2026-02-01T01:00:00+01:00"])
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_table_split_by_time_validates_what_comes_later(tmp_path: Path, suffix: str, before: str) -> None:
    begin = dt.datetime(2026, 1, 1)
    rows = [{"day": begin + dt.timedelta(days=(7 * i) % 60), "b": i, "kind": i % 2} for i in range(60)]
    text = suffix != ".parquet"
    rows = [{**row, "day": row["day"].isoformat() if text else row["day"]} for row in rows]  # type: ignore[attr-defined]

    data = load(write(tmp_path / f"t{suffix}", rows), split=Split(by="time", column="day", before=before))

    assert everything(data.train)[0][:, 0].tolist() == [i for i in range(60) if (7 * i) % 60 < 31]


def test_table_split_by_time_can_go_by_a_number(tmp_path: Path) -> None:
    data = load(write(tmp_path / "t.csv", ROWS), split=Split(by="time", column="b", before=90))

    assert (len(data.train), len(data.validation)) == (30, 30)


MISTAKES: list[tuple[str, str, dict[str, Any], str]] = [
    ("t.csv", "a,kind\n", {}, "no column of numbers|no rows"),
    ("t.csv", "a,kind\n", {"features": ("a",)}, "the table has no rows"),
    ("t.csv", "", {}, "t.csv is empty"),
    ("t.jsonl", "", {}, "t.jsonl is empty"),
    ("t.csv", "a,kind\n1,x\n2\n", {}, r"has 1 values in row 3, but 2 columns"),
    ("t.csv", "a,a,kind\n1,2,x\n", {}, "more than one column called 'a'"),
    ("t.csv", "a,kimd\n1,x\n", {}, r"no column 'kind'\n.*\n.*did you mean 'kimd'\?"),
    ("t.csv", "width,kind\n1,x\n", {"features": ("wdith",)}, r"no column 'wdith'\n.*\n.*'width'"),
    ("t.csv", "a,kind\n1,x\n", {"split": Split(by="column", column="fodl", validation=(1,))}, "no column 'fodl'"),
    ("t.csv", "a,kind\n1,x\ntwo,y\n", {"features": ("a",)}, r"no double in row 3 of column 'a': .*'two'"),
    (
        "t.jsonl",
        '{"a":1,"kind":"x"}\n\n{"a":"two","kind":"y"}\n',
        {"features": ("a",)},
        "'two' in line 3 of column 'a'",
    ),
    ("t.jsonl", '{"a":1,"kind":"x"}\n{"a":\n', {}, "no JSON in line 2"),
    ("t.jsonl", '{"a":1,"kind":"x"}\n[1]\n', {}, "no JSON object in line 2"),
    ("t.parquet", "this is none", {}, "t.parquet: Parquet"),
    ("t.csv", GAPS, {}, "no value in row 3 of column 'a'"),
    ("t.csv", "a,kind\n1,x\n1e39,y\n", {}, "row 3 of column 'a' that is infinite, or too large"),
    ("t.csv", "a,kind\ninf,x\n2,y\n", {"missing": "zero"}, "row 2 of column 'a' that is infinite"),
    ("t.csv", "a,kind\n1,x\n2,\n", {}, r"no value in column 'kind': row 3"),
    ("t.jsonl", '{"a":1,"kind":"x"}\n{"a":2}\n', {}, r"no value in column 'kind': row 2"),
    ("t.csv", "a,kind\n1,1.5\n2,2\n", {}, "'1.5', which is a number and no class"),
    ("t.jsonl", '{"a":1,"kind":1.5}\n{"a":2,"kind":2}\n', {}, "a fraction in column 'kind'.*row 1"),
    ("t.csv", "a,kind\n,1\n,2\n", {"missing": "mean", "features": ("a",)}, "'a' has no value in the training part"),
    ("t.csv", "n,kind\nx,1\ny,2\n", {}, "no column of numbers beside 'kind'"),
    ("t.csv", "n,a,kind\nx,1,1\n", {"split": Split(by="time", column="n", before="2026-01-01")}, "wants times or num"),
    (
        "t.csv",
        "d,a,kind\n2026-01-01,1,1\n",
        {"split": Split(by="time", column="d", before="soon")},
        "'soon', but column",
    ),
    ("t.txt", "a,kind\n1,x\n", {}, "does not end in .csv"),
]


@pytest.mark.parametrize(("name", "text", "options", "words"), MISTAKES)
def test_table_mistake_is_said_with_file_row_and_column(
    tmp_path: Path, name: str, text: str, options: dict[str, Any], words: str
) -> None:
    (tmp_path / name).write_text(text)

    with pytest.raises(UserError, match=words):
        load(tmp_path / name, **options)


def test_table_mistake_far_down_is_said_with_its_row(tmp_path: Path) -> None:
    """Beyond the blocks in which pyarrow reads."""
    lines = [json.dumps({"a": i if i != 150_000 else "two", "kind": i % 2}) for i in range(200_000)]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    (tmp_path / "t.csv").write_text("a,kind\n" + "".join(f"{i if i != 350_000 else 'two'},0\n" for i in range(400_000)))

    with pytest.raises(UserError, match="'two' in line 150001 of column 'a'"):
        load(tmp_path / "t.jsonl")
    with pytest.raises(UserError, match="row 350002 of column 'a'"):
        load(tmp_path / "t.csv")


def test_table_second_file_that_differs_is_said(tmp_path: Path) -> None:
    write(tmp_path / "in" / "1.parquet", [{"a": 1, "kind": "x"}])
    write(tmp_path / "in" / "2.parquet", [{"a": "one", "kind": "y"}])
    with pytest.raises(UserError, match=r"column 'a' of .*2\.parquet is string, where double is wanted"):
        load(tmp_path / "in")
    write(tmp_path / "in" / "2.parquet", [{"b": 2, "kind": "y"}])
    with pytest.raises(UserError, match=r"2\.parquet has no column 'a'"):
        load(tmp_path / "in")


def test_table_without_pyarrow_names_the_package_and_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "t.csv", ROWS)
    for name in [n for n in sys.modules if n.partition(".")[0] == "pyarrow"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "meta_path", [f for f in sys.meta_path if getattr(f, "__name__", "") != "PathFinder"])  # type: ignore[attr-defined]

    with pytest.raises(UserError, match=r"needs the Python package pyarrow[\s\S]*image's lock file"):
        load(path)


def test_table_options_come_from_json_with_their_types() -> None:
    said = {"path": "x", "target": "kind", "features": ["a"], "split": {"by": "column", "column": "c", "train": [1]}}

    _, options = part("data", Component(kind="table", options=said))

    assert options.features == ("a",)
    assert options.split == Split(by="column", column="c", train=(1,))


def test_table_preview_refuses_columns_that_have_two_parts() -> None:
    def mistakes(**options: Any) -> str:
        return str(table.preview(table.Options(path="x", target="kind", **options)).mistakes)

    assert mistakes(features=("a", "b")) == "()"
    assert "'kind' twice" in mistakes(features=("a", "kind"))
    assert "target or a feature" in mistakes(features=("a",), split=Split(by="time", column="a", before=1))


def test_table_trains_on_two_ranks_as_on_one(member: Callable[..., Member], tmp_path: Path) -> None:
    rows = [{"a": i % 3 + (i * 7 % 10) / 20, "b": 1000 * (i % 5), "kind": "xyz"[i % 3]} for i in range(120)]
    options = {"path": str(write(tmp_path / "t.parquet", rows)), "target": "kind", "standardise": True}
    train = {"max_steps": 40, "batch_size": 20, "eval_every_steps": 40}
    made = []
    for ranks in (1, 2):
        env = {"TMPDIR": tempfile.gettempdir()}
        run = member(
            str(ranks), ranks, data=Component(kind="table", options=options), model=Component(kind="mlp"), train=train
        )
        run.env = env
        assert run.run() == [0] * ranks, run.log()
        made.append(run)

    first, second = (run.result()["metrics"] for run in made)
    assert first["val/accuracy"] == second["val/accuracy"] == 1
    assert first["train/loss"] == pytest.approx(second["train/loss"], rel=1e-4)
    card = made[0].lines("metrics.jsonl")[0]["dataset"]
    assert (card["classes"], card["columns"]) == (["x", "y", "z"], ["a", "b"])
