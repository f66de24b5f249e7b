"""Filters over columns take the rows that Python would take; what is no comparison is refused in words."""

from __future__ import annotations

import datetime as dt
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conf.schema import Component
from trainer.components import part
from trainer.data import expressions, filters
from trainer.data.records import Chunk, Records
from trainer.data.splits import Split, mistakes
from trainer.failure import UserError
from trainer.sources import table

pytestmark = pytest.mark.usefixtures("node")
NUMBERS = itertools.count()
WAYS = ("stratified", "random", "filter")
ROWS = [
    {"year": 2015 + i % 10, "x": i / 4, "kind": ["ox", "ant", "b`e"][i % 3], "ok": i % 4 == 0, "petal width": i % 7}
    for i in range(40)
]


def records(rows: list[dict[str, Any]], pieces: int = 3) -> Records:
    """Rows in several batches; of as many contents as there are calls, so that none is taken for another."""
    whole = pa.Table.from_pylist(rows)

    def read(kinds: Any) -> Any:
        row = 1
        for batch in whole.select(list(kinds)).to_batches(max_chunksize=max(1, len(rows) // pieces)):
            yield Chunk(batch, "rows", row, "data.path")
            row += batch.num_rows

    return Records(
        "rows", "data.path", next(NUMBERS), dict(zip(whole.schema.names, whole.schema.types, strict=True)), False, read
    )


def taken(rows: list[dict[str, Any]], validation: str, train: str = "") -> list[int]:
    sides = filters.sides_of(records(rows), Split(by="filter", train=train, validation=validation))
    assert sides is not None
    return sides.tolist()


@pytest.mark.parametrize(
    "text",
    [
        "year >= 2020",
        "2020 <= year",
        "2017 < year <= 2020",
        "year == 2020 or x < 1.5",
        "not (year == 2020 or x < 1.5)",
        "kind in ('ox', 'b`e') and year != 2016",
        'kind not in ["ox"]',
        "x > -1 and ok",
        "not ok",
        "ok == True",
        "`petal width` < 3 and kind == 'b`e'",
        "year > x",
        "kind < 'b'",
    ],
)
def test_filter_takes_what_python_takes(text: str) -> None:
    """Python itself is the reference: of whole rows it says the same."""
    python = text.replace("`petal width`", "width")

    wanted = [bool(eval(python, {}, {**row, "width": row["petal width"]})) for row in ROWS]

    assert taken(ROWS, text) == [2 if validates else 1 for validates in wanted]


LEAVES = st.sampled_from(
    ["a < 2", "a == 1", "b >= 1", "a != b", "b in (0, 2)", "c == 'x'", "c > 'x'", "d", "1 <= a < 3"]
)
TEXTS = st.recursive(
    LEAVES,
    lambda below: st.one_of(
        st.tuples(below, st.sampled_from(["and", "or"]), below).map(lambda t: f"({t[0]}) {t[1]} ({t[2]})"),
        below.map(lambda text: f"not ({text})"),
    ),
    max_leaves=5,
)
VALUES = st.fixed_dictionaries(
    {"a": st.integers(0, 3), "b": st.integers(0, 3), "c": st.sampled_from("wxy"), "d": st.booleans()}
)


@settings(max_examples=60, deadline=None)
@given(text=TEXTS, rows=st.lists(VALUES, min_size=1, max_size=12))
def test_filter_of_any_depth_takes_what_python_takes(text: str, rows: list[dict[str, Any]]) -> None:
    tree = expressions.parsed(text)
    batch = pa.RecordBatch.from_pylist(rows)

    assert filters._mask(tree, batch).to_pylist() == [bool(eval(text, {}, row)) for row in rows]


def test_filter_leaves_out_what_neither_part_takes() -> None:
    sides = taken(ROWS, validation="year >= 2022", train="year < 2020")

    assert sides == [2 if row["year"] >= 2022 else 1 if row["year"] < 2020 else 0 for row in ROWS]


def test_filter_missing_value_takes_no_row_and_nor_does_its_opposite() -> None:
    rows = [{"a": 1, "c": "x"}, {"a": None, "c": None}, {"a": 3, "c": "y"}]

    assert taken(rows, "a < 2", train="not a < 2") == [2, 0, 1]
    assert taken(rows, "c in ('x',)", train="c not in ('x',)") == [2, 0, 1]
    assert taken(rows, "a is None") == [1, 2, 1]
    assert taken(rows, "a is not None and a > 1") == [1, 1, 2]


def test_filter_compares_times_with_text() -> None:
    day = dt.datetime(2026, 1, 30)
    zone = dt.timezone(dt.timedelta(hours=1))
    for rows in (
        [{"t": day + dt.timedelta(days=i)} for i in range(3)],
        [{"t": (day + dt.timedelta(days=i)).date()} for i in range(3)],
        [{"t": (day + dt.timedelta(days=i, hours=1)).replace(tzinfo=zone)} for i in range(3)],
    ):
        assert taken(rows, "t >= '2026-01-31'") == [1, 2, 2]
        assert taken(rows, "t in ('2026-01-31T01:00:00+01:00',)") == [1, 2, 1]


def test_filter_looks_into_categories_and_decimals() -> None:
    from decimal import Decimal

    batch = pa.table({"c": pa.array(["x", "y"]).dictionary_encode(), "n": [Decimal("1.50"), Decimal("2.25")]})
    kinds = {name: filters._plain(batch.schema.field(name).type) for name in batch.schema.names}
    plain = batch.cast(pa.schema(list(kinds.items()))).combine_chunks().to_batches()[0]

    assert filters._mask(expressions.parsed("c == 'x' and n < 2"), plain).to_pylist() == [True, False]


@pytest.mark.parametrize(
    ("validation", "words"),
    [
        ("yaer > 2020", r"rows has no column 'yaer'\n.*validation\n.*did you mean 'year'"),
        ("nothing == 1", r"no column 'nothing'\n.*\n.*there is: 'year', 'x', 'kind', 'ok', 'petal width'"),
        ("year == '2020'", r"column 'year' is int64, and is compared with '2020'\n.*\n.*columns are year \(int64\)"),
        ("kind > 3", "column 'kind' is string, and is compared with 3"),
        ("ok == 1", "column 'ok' is bool, and is compared with 1"),
        ("year == True", "column 'year' is int64, and is compared with True"),
        ("year and ok", "column 'year' is int64, and stands alone"),
        ("year == kind", "the filter 'year == kind' cannot be"),
        ("year in (2020, 'x')", "column 'year' is int64, and is compared with 'x'"),
    ],
)
def test_filter_that_does_not_fit_the_columns_is_refused(validation: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        taken(ROWS, validation)


def test_filter_row_that_both_take_is_said() -> None:
    with pytest.raises(UserError, match="row 6 of rows is taken by both"):
        taken(ROWS, validation="year == 2020", train="year <= 2020")


@pytest.mark.parametrize(
    "text",
    [
        "year <",
        "__import__('os').system('true')",
        "year.real > 1",
        "year + 1 > 2",
        "lambda: 1",
        "[y for y in (1,)]",
        "f'{year}' == 'x'",
        "1 < 2",
        "2020",
        "'x'",
        "year == None",
        "year in kind",
        "year in ()",
        "year is 3",
        "year if ok else x",
        "(year := 3) > 1",
        "year < 1 and 3",
        "x == 1j",
        "x == b'a'",
        "-year < 3",
        "(" * 500,
        "year\x00",
    ],
)
def test_filter_that_is_no_comparison_is_refused_before_any_data(text: str) -> None:
    ((what, key, do),) = mistakes(Split(by="filter", validation=text), WAYS)  # type: ignore[arg-type]

    assert what.startswith("data.split.validation is") and key == "data.split.validation" and "year < 2020" in do


@pytest.mark.parametrize(
    ("split", "words"),
    [
        (Split(by="filter"), "validation is not given"),
        (Split(by="filter", validation="a < 1", leave_out=("x",)), "leave_out is given"),
        (Split(by="filter", validation=("a",)), "a filter is a text"),
        (Split(by="random", validation="a < 1"), "by is random, but data.split has a filter"),
        (Split(validation="a < 1"), "has a filter"),
    ],
)
def test_filter_beside_other_ways_is_refused(split: Split, words: str) -> None:
    ((what, _, do),) = mistakes(split, WAYS)  # type: ignore[arg-type]

    assert words in what and do


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_filter_parts_a_table_and_its_columns_are_no_features(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"t{suffix}"
    rows = [{**row, "kind": f"n{i % 2}"} for i, row in enumerate(ROWS)]
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        path.write_text("\n".join([",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]) + "\n")
    said = {"by": "filter", "train": "year < 2020 and kind in ('n0', 'n1')", "validation": "year >= 2022"}
    _, options = part("data", Component(kind="table", options={"path": str(path), "target": "kind", "split": said}))

    data = table.load(options)

    x = data.train_card.columns.index("x")
    assert set(data.train_card.columns) == {"x", "ok", "petal width"}
    assert data.train.batch(np.arange(len(data.train)))[0][:, x].tolist() == [r["x"] for r in rows if r["year"] < 2020]
    assert len(data.validation) == sum(row["year"] >= 2022 for row in rows)


def test_filter_that_takes_nothing_is_said(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "t.parquet")
    split = Split(by="filter", validation="year > 3000")

    with pytest.raises(UserError, match=r"leaves nothing of 40 samples for validation\n.*year > 3000"):
        table.load(table.Options(path=str(tmp_path), target="kind", split=split))
