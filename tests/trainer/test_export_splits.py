"""Splits as files: every row once, in the part where our trainer has it, each value as it was; whole or not there."""

from __future__ import annotations

import csv
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from conf.document import to_document
from conf.schema import Component
from tests.trainer import servers
from tests.trainer.ranks import ROOT, make_spec
from tests.trainer.samples import everything
from trainer import components, export_splits
from trainer.data import written
from trainer.data.listed import Format
from trainer.failure import UserError

pytestmark = pytest.mark.usefixtures("node")
SPLIT = {"by": "stratified", "fraction": 0.2, "test_fraction": 0.1, "seed": 3}
ROWS = [{"id": i, "x": i / 8, "kind": ["ox", "ant", "bee"][i % 3]} for i in range(90)]
TABLE = {"target": "kind", "features": ["id", "x"], "split": SPLIT}
FORMATS: tuple[Format, ...] = ("csv", "jsonl")
UNICODE = "é 漢 \u2028 🐜"


def run_of(tmp_path: Path, data: Component, job: str = "job", members: int = 1) -> Path:
    """A run folder as the exporter finds it."""
    run = tmp_path / "runs" / job
    for member in range(members):
        folder = run / "members" / str(member)
        folder.mkdir(parents=True)
        (folder / "spec.json").write_text(json.dumps(to_document(make_spec(data=data))))
    return run


def table(tmp_path: Path, rows: pa.Table | None = None, **options: Any) -> Component:
    """Data in a Parquet file."""
    path = tmp_path / "rows.parquet"
    pa.parquet.write_table(pa.Table.from_pylist(ROWS) if rows is None else rows, path)
    return Component(kind="table", options={"path": str(path), **TABLE, **options})


def part_of(folder: Path, part: str, form: Format) -> list[dict[str, Any]]:
    """All rows of a part, in order, as a program reads them."""
    found: list[dict[str, Any]] = []
    for path in sorted(folder.glob(f"{part}-*.{form}")):
        with path.open(newline="", encoding="utf-8") as file:
            found += csv.DictReader(file) if form == "csv" else map(json.loads, file)
    return found


def _csv(tmp_path: Path) -> Component:
    pa.csv.write_csv(pa.Table.from_pylist(ROWS), tmp_path / "rows.csv")
    return Component(kind="table", options={"path": str(tmp_path / "rows.csv"), **TABLE})


def _jsonl(tmp_path: Path) -> Component:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return Component(kind="table", options={"path": str(tmp_path / "rows.jsonl"), **TABLE})


def _sql(tmp_path: Path) -> Component:
    with sqlite3.connect(tmp_path / "rows.db") as base:
        base.execute("CREATE TABLE t (id INTEGER, x REAL, kind TEXT)")
        base.executemany("INSERT INTO t VALUES (:id, :x, :kind)", ROWS)
    return Component(kind="sql", options={"url_env": "ROWS_URL", "query": "SELECT * FROM t", **TABLE})


def _huggingface(tmp_path: Path) -> Component:
    import datasets

    datasets.Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "saved"))
    return Component(kind="huggingface", options={"path": str(tmp_path / "saved"), "form": "numbers", **TABLE})


@pytest.mark.parametrize(
    ("make", "form"),
    [(table, "csv"), (table, "jsonl"), (_csv, "csv"), (_jsonl, "jsonl"), (_sql, "csv"), (_huggingface, "jsonl")],
)
def test_source_exported_has_each_row_once_where_our_trainer_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], Component], form: Format
) -> None:
    monkeypatch.setenv("ROWS_URL", f"sqlite:///{tmp_path}/rows.db")
    data = make(tmp_path)

    folder = export_splits.export(run_of(tmp_path, data), 0, form)

    module, options = components.part("data", data)
    ours = module.load(options)
    parts = {name: part_of(folder, name, form) for name in written.PARTS}
    for name, samples in zip(written.PARTS, (ours.train, ours.validation, ours.test), strict=True):
        assert [int(row["id"]) for row in parts[name]] == everything(samples)[0][:, 0].int().tolist()
    rows = sorted((row for part in parts.values() for row in part), key=lambda row: int(row["id"]))
    assert [(int(row["id"]), float(row["x"]), row["kind"]) for row in rows] == [tuple(row.values()) for row in ROWS]
    assert [len(part) for part in parts.values()] == [63, 18, 9]


def test_table_at_an_address_is_brought_to_the_node_and_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [n for n in os.environ if n.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    (tmp_path / "web").mkdir()
    pa.csv.write_csv(pa.Table.from_pylist(ROWS), tmp_path / "web/rows.csv")
    with servers.plain(tmp_path / "web") as address:
        data = Component(kind="table", options={"path": f"{address}/rows.csv", **TABLE})
        folder = export_splits.export(run_of(tmp_path, data), 0, "csv")

    assert len(part_of(folder, "training", "csv")) == 63


@pytest.mark.parametrize("name", ["iris", "digits"])
def test_set_of_scikit_learn_is_exported_with_the_names_of_its_classes(tmp_path: Path, name: str) -> None:
    data = Component(kind="sklearn", options={"set": name, "split": {**SPLIT, "test_fraction": 0.0}})

    folder = export_splits.export(run_of(tmp_path, data), 0, "csv")

    module, options = components.part("data", data)
    ours = module.load(options)
    for part, samples in (("training", ours.train), ("validation", ours.validation)):
        said = [row["target"] for row in part_of(folder, part, "csv")]
        assert said == [ours.train_card.classes[int(code)] for code in everything(samples)[1]]
    assert not list(folder.glob("test-*")) and ours.test is None


def test_rows_of_a_regression_are_parted_as_our_trainer_parts_them(tmp_path: Path) -> None:
    sources = (
        Component(kind="sklearn", options={"set": "diabetes", "split": {"fraction": 0.2}}),
        table(
            tmp_path, target="x", features=["id"], task="regression", standardise_target=False, split={"fraction": 0.2}
        ),
    )
    for number, data in enumerate(sources):
        folder = export_splits.export(run_of(tmp_path / str(number), data), 0, "csv")

        module, options = components.part("data", data)
        ours = module.load(options)
        shape = ours.shape
        for part, samples in (("training", ours.train), ("validation", ours.validation)):
            said = [float(row["target" if number == 0 else "x"]) for row in part_of(folder, part, "csv")]
            learned = everything(samples)[1].double() * shape.target_scale + shape.target_offset
            assert said == pytest.approx(learned.tolist(), rel=1e-5)


def test_rows_parted_by_their_classes_are_not_taken_for_those_of_a_regression(tmp_path: Path) -> None:
    rows = pa.Table.from_pylist([{"id": i, "level": i % 2} for i in range(60)])
    validated = []
    for task in ("classification", "regression"):
        data = table(tmp_path, rows, target="level", features=["id"], task=task, split={"fraction": 0.5})
        folder = export_splits.export(run_of(tmp_path, data, job=task), 0, "csv")
        validated.append([row["id"] for row in part_of(folder, "validation", "csv")])

    assert sorted(validated[0]) != sorted(validated[1])


@pytest.mark.parametrize(
    "split",
    [
        {"by": "column", "column": "kind", "validation": ["ant"], "test": ["bee"]},
        {"by": "filter", "validation": "id < 30 and kind == 'ox'", "test": "id >= 80"},
        {"by": "time", "column": "id", "before": 60, "test_from": 80},
        {"by": "random", "fraction": 0.5, "test_fraction": 0.25},
    ],
)
def test_way_of_parting_gives_a_test_of_its_own(tmp_path: Path, split: dict[str, Any]) -> None:
    data = table(tmp_path, target="class", features=["x"], split=split)
    rows = pa.Table.from_pylist([{**row, "class": row["kind"]} for row in ROWS])
    pa.parquet.write_table(rows, data.options["path"])
    data = Component(kind="table", options={**data.options, "features": None})

    folder = export_splits.export(run_of(tmp_path, data), 0, "jsonl")

    ids = {part: [row["id"] for row in part_of(folder, part, "jsonl")] for part in written.PARTS}
    assert sorted(i for part in ids.values() for i in part) == list(range(90)) and all(ids.values())
    if split["by"] == "column":
        assert ids["test"] == list(range(2, 90, 3)) and ids["validation"] == list(range(1, 90, 3))
    elif split["by"] == "time":
        assert ids["test"] == list(range(80, 90)) and ids["validation"] == list(range(60, 80))
    elif split["by"] == "filter":
        assert ids["test"] == list(range(80, 90)) and ids["validation"] == list(range(0, 30, 3))


def awkward(tmp_path: Path) -> Component:
    texts = ['comma, "quote"', "two\nlines\r\n", UNICODE, "", None, " x ", "NaN", "\\n", "a\tb", "last"]
    numbers = [0.1, float("nan"), None, 1e-300, -0.0, 2.0**53, 1.5, 3.0, -7.25, 1e22]
    columns = {"text": texts, "number": numbers, "yes": [True, None] * 5, "kind": ["a"] * 10}
    rows = pa.table({**columns, "day": pa.array(range(10), pa.date32())})
    return table(tmp_path, rows, features=None, split={"by": "end", "fraction": 0.2})


def test_awkward_values_in_json_lines_are_those_of_the_source(tmp_path: Path) -> None:
    data = awkward(tmp_path)

    folder = export_splits.export(run_of(tmp_path, data), 0, "jsonl")

    seen = part_of(folder, "training", "jsonl") + part_of(folder, "validation", "jsonl")
    expected = pa.parquet.read_table(data.options["path"]).to_pylist()
    for row in expected:
        row["day"] = str(row["day"])
        row["number"] = None if row["number"] != row["number"] else row["number"]
    assert seen == expected


def test_awkward_values_in_csv_are_those_of_the_source(tmp_path: Path) -> None:
    data = awkward(tmp_path)

    folder = export_splits.export(run_of(tmp_path, data), 0, "csv")

    seen = part_of(folder, "training", "csv") + part_of(folder, "validation", "csv")
    expected = pa.parquet.read_table(data.options["path"]).to_pylist()
    assert [row["text"] for row in seen] == [row["text"] or "" for row in expected]
    assert [row["yes"] for row in seen] == ["true", ""] * 5 and seen[1]["number"] == "nan" and seen[2]["number"] == ""
    assert [float(row["number"]) for row in seen[3:]] == [row["number"] for row in expected[3:]]
    (file,) = folder.glob("training-*")
    options = pa.csv.ConvertOptions(strings_can_be_null=True, quoted_strings_can_be_null=False)
    parsed = pa.csv.read_csv(file, parse_options=pa.csv.ParseOptions(newlines_in_values=True), convert_options=options)
    assert parsed["text"].to_pylist() == [row["text"] for row in expected[:8]]  # "" and a gap are told apart


def test_infinite_number_is_refused_in_json_and_written_in_csv(tmp_path: Path) -> None:
    rows = pa.table({"number": [1.0, float("inf"), 2.0], "kind": ["a", "b", "a"]})
    run = run_of(tmp_path, table(tmp_path, rows, features=None, split={"by": "end", "fraction": 0.0}))

    with pytest.raises(UserError, match=r"infinite number in column 'number'.*\n.*\n.*job.data_format=csv"):
        export_splits.export(run, 0, "jsonl")
    assert not (run / "splits/0").exists() and not list((tmp_path / "runs/.splits").glob("*.part"))

    folder = export_splits.export(run, 0, "csv")
    assert [row["number"] for row in part_of(folder, "training", "csv")] == ["1", "inf", "2"]


@pytest.mark.parametrize("form", FORMATS)
def test_shards_are_cut_by_size_and_counted_in_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: Format
) -> None:
    monkeypatch.setattr(written, "SHARD_BYTES", 400)
    monkeypatch.setattr(written, "PIECE", 10)

    folder = export_splits.export(run_of(tmp_path, table(tmp_path)), 0, form)

    names = sorted(path.name for path in folder.glob("training-*"))
    assert len(names) > 2
    assert names == [f"training-{i:05d}-of-{len(names):05d}.{form}" for i in range(len(names))]
    assert len(part_of(folder, "training", form)) == 63
    index = json.loads((folder / "splits.json").read_text())
    assert index["rows"] == {"training": 63, "validation": 18, "test": 9}
    assert {file["name"]: file["sha256"] for file in index["files"]} == {
        path.name: export_splits.durable.sha256(path) for path in folder.glob(f"*.{form}")
    }
    assert {path.stat().st_mode & 0o777 for path in folder.glob(f"*.{form}")} == {0o400}
    assert folder.stat().st_mode & 0o777 == 0o700


def test_part_without_rows_is_one_file_with_the_names_alone(tmp_path: Path) -> None:
    data = table(tmp_path, split={"by": "end", "fraction": 0.0})

    folder = export_splits.export(run_of(tmp_path, data), 0, "csv")

    (file,) = folder.glob("validation-*")
    assert file.name == "validation-00000-of-00001.csv" and file.read_text() == '"id","x","kind"\n'


def exporting(run: Path, member: int = 0, before: str = "") -> subprocess.Popen[str]:
    program = f"{before}\nimport sys\nfrom trainer import export_splits\nsys.exit(export_splits.main(sys.argv[1:]))"
    words = [sys.executable, "-c", program, str(run), str(member), "csv"]
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


DIES = """
import os, signal
from trainer.data import written
written.PIECE = 16
add = written.Shards.add
def dies(self, batch, chunk):
    add(self, batch, chunk)
    self._file.flush()
    if self.name == "validation": os.kill(os.getpid(), signal.SIGKILL)
written.Shards.add = dies
"""


def test_export_killed_in_the_middle_leaves_nothing_whole_and_the_next_one_makes_it(tmp_path: Path) -> None:
    run = run_of(tmp_path, table(tmp_path))
    killed = exporting(run, before=DIES)
    killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert list((tmp_path / "runs/.splits").glob("*.part/training-*")) and not (run / "splits/0").exists()

    again = exporting(run)

    said, _ = again.communicate(timeout=60)
    assert again.returncode == 0, said
    assert len(part_of(run / "splits/0", "training", "csv")) == 63
    assert not list((tmp_path / "runs/.splits").glob("*.part"))


def test_export_by_many_members_of_two_jobs_at_once_is_made_once(tmp_path: Path) -> None:
    data = table(tmp_path)
    runs = [run_of(tmp_path, data, job, members=2) for job in ("one", "two")]

    started = [exporting(run, member) for run in runs for member in (0, 1)]

    said = [one.communicate(timeout=120)[0] for one in started]
    assert [one.returncode for one in started] == [0] * 4, said
    assert sum("exported" in text for text in said) == 1
    (entry,) = (path for path in (tmp_path / "runs/.splits").iterdir() if path.is_dir())
    for run in runs:
        for member in (0, 1):
            folder = run / "splits" / str(member)
            assert [path.name for path in sorted(folder.iterdir())] == [p.name for p in sorted(entry.iterdir())]
            assert (folder / "splits.json").stat().st_ino == (entry / "splits.json").stat().st_ino


def test_members_of_a_job_keep_their_rows_when_the_file_changes_and_a_later_job_has_the_new_ones(
    tmp_path: Path,
) -> None:
    data = table(tmp_path)
    run = run_of(tmp_path, data, members=3)
    first = export_splits.export(run, 0, "csv")

    table(tmp_path, pa.Table.from_pylist(ROWS[:60]))

    second, later = export_splits.export(run, 1, "csv"), export_splits.export(run_of(tmp_path, data, "new"), 0, "csv")
    assert (second / "splits.json").read_bytes() == (first / "splits.json").read_bytes()
    assert json.loads((later / "splits.json").read_text())["rows"]["training"] == 42
    (kept,) = (json.loads(path.read_text())["entry"] for path in (run / "splits").glob("*.json"))
    export_splits.shutil.rmtree(tmp_path / "runs/.splits" / kept)
    with pytest.raises(UserError, match="not those that this job's first member was given"):
        export_splits.export(run, 2, "csv")


def test_entry_that_a_program_has_changed_is_made_anew_for_the_next_job(tmp_path: Path) -> None:
    data = table(tmp_path)
    folder = export_splits.export(run_of(tmp_path, data), 0, "csv")
    (file,) = folder.glob("training-*")
    file.chmod(0o600)
    file.write_bytes(file.read_bytes().replace(b"ox", b"xo"))

    later = export_splits.export(run_of(tmp_path, data, "new"), 0, "csv")

    assert {row["kind"] for row in part_of(later, "training", "csv")} == {"ox", "ant", "bee"}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (Component(kind="tokens", options={"path": "/nowhere"}), "data.kind is 'tokens', which has neither rows"),
        (Component(kind="huggingface", options={"path": "/x", "form": "tokens"}), "data.form is 'tokens'"),
    ],
)
def test_source_without_rows_is_refused_and_says_what_can_be(tmp_path: Path, data: Component, said: str) -> None:
    with pytest.raises(UserError, match=said) as refused:
        export_splits.export(run_of(tmp_path, data), 0, "csv")
    assert "numbers" in str(refused.value)


def test_look_tells_of_a_column_that_is_not_there_and_reads_no_rows(tmp_path: Path) -> None:
    data = table(tmp_path, target="kin")

    ((what, where, do),) = export_splits.look(to_document(data), "csv")

    assert "has no column 'kin'" in what and where == "data.target" and "'kind'" in do
    assert export_splits.look(to_document(table(tmp_path)), "csv") == []
    nested = pa.Table.from_pylist([{"kind": "a", "list": [1, 2], "of": {"x": 1}}])
    ((what, _, do),) = export_splits.look(to_document(table(tmp_path, nested, features=None)), "csv")
    assert "columns that cannot be written as csv: 'list'" in what and "'of'" in what and "jsonl" not in do
    ((what, _, _),) = export_splits.look(to_document(table(tmp_path, nested, features=None)), "jsonl")
    assert "columns that cannot be written as jsonl: 'list' (list<element: int64>)" in what and "'of'" not in what


def test_structures_are_objects_in_json_lines_and_refused_in_csv(tmp_path: Path) -> None:
    day = pa.array(range(6), pa.date32())
    inner = pa.StructArray.from_arrays([day, pa.array([0.5, float("nan")] * 3)], names=["day", "share"])
    outer = pa.StructArray.from_arrays(
        [inner, pa.array(["x", "y"] * 3).dictionary_encode()], names=["in", "word"], mask=pa.array([False] * 5 + [True])
    )
    rows = pa.table({"kind": ["a", "b"] * 3, "of": outer})
    data = table(tmp_path, rows, features=None, split={"by": "end", "fraction": 0.5})

    folder = export_splits.export(run_of(tmp_path, data), 0, "jsonl")

    seen = [row["of"] for part in ("training", "validation") for row in part_of(folder, part, "jsonl")]
    share = [0.5, None] * 3
    assert seen[:5] == [{"in": {"day": f"1970-01-0{i + 1}", "share": share[i]}, "word": "xy"[i % 2]} for i in range(5)]
    assert seen[5] is None
    ((_, _, do),) = export_splits.look(to_document(data), "csv")
    assert do.endswith("or use job.data_format=jsonl")
