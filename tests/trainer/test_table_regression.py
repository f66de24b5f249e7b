"""Tables whose target is a number: as a plain reader has it, standardised by what trains, and refused by its row."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.samples import everything
from tests.trainer.test_source_table import ROWS, load, write
from trainer.data.splits import Split
from trainer.failure import UserError
from trainer.sources import Shape, table

pytestmark = pytest.mark.usefixtures("node")


def numbers(**options: Any) -> dict[str, Any]:
    return {"task": "regression", "target": "a", "features": ("b",), **options}


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_table_of_a_regression_gives_the_numbers_of_its_target(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"t{suffix}", ROWS)
    wanted = torch.tensor([row["a"] for row in ROWS], dtype=torch.float64)

    plain = load(path, **numbers(standardise_target=False))
    scaled = load(path, **numbers())

    assert plain.shape == Shape("regression", (1,), "float32", 1)
    assert torch.equal(everything(plain.train)[1], wanted.float())
    assert (scaled.shape.target_offset, scaled.shape.target_scale) == pytest.approx(
        (wanted.mean().item(), wanted.std(correction=0).item())
    )
    targets = everything(scaled.train)[1]
    assert targets.dtype == torch.float32 and targets.shape == (60,)
    torch.testing.assert_close(targets, ((wanted - wanted.mean()) / wanted.std(correction=0)).float())
    assert plain.train_card.digest != scaled.train_card.digest
    assert plain.train_card.classes == ()


def test_table_target_is_standardised_by_the_training_part_and_keeps_its_digits(tmp_path: Path) -> None:
    rows = [{"x": i, "y": 1e9 + i + (1000 if i >= 8 else 0)} for i in range(10)]  # float32 knows 64 and 128 there

    data = load(write(tmp_path / "t.csv", rows), task="regression", target="y", split=Split(by="end", fraction=0.2))

    assert data.shape.target_offset == 1e9 + 3.5
    back = everything(data.train)[1].double() * data.shape.target_scale + data.shape.target_offset
    assert back.tolist() == pytest.approx([row["y"] for row in rows[:8]], abs=1e-5)


def test_table_target_that_does_not_vary_is_divided_by_one(tmp_path: Path) -> None:
    rows = [{"x": i, "y": 5.25} for i in range(10)]

    data = load(write(tmp_path / "t.csv", rows), task="regression", target="y")

    assert (data.shape.target_offset, data.shape.target_scale) == (5.25, 1.0)


def test_table_of_a_regression_is_parted_at_random_where_nobody_says(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", ROWS)

    parted = [load(path, **numbers(split=Split(by=by, fraction=0.3, test_fraction=0.1))) for by in (None, "random")]

    assert [card.digest for _, card in parted[0].cards] == [card.digest for _, card in parted[1].cards]
    assert [card.rows for _, card in parted[0].cards] == [36, 18, 6]


def test_table_of_a_regression_cannot_be_stratified(tmp_path: Path) -> None:
    given = table.preview(table.Options(path=str(tmp_path), **numbers(split=Split(by="stratified"))))

    ((what, key, do),) = given.mistakes
    assert "it goes by classes, and they have none" in what and key == "data.split.by"
    assert "use one of: random, end" in do


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_table_fractions_among_the_classes_tell_of_the_regression(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(UserError, match=r"(?s)'a'.*data\.task=regression"):
        load(write(tmp_path / f"t{suffix}", ROWS), target="a")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize(
    ("value", "words"),
    [(None, "no value"), (math.nan, "no value"), (math.inf, "infinite"), (1e39, "too large for float32")],
)
def test_table_target_that_is_no_number_says_its_row(
    tmp_path: Path, suffix: str, value: float | None, words: str
) -> None:
    rows = [{"x": float(i), "y": value if i == 5 else i + 0.5} for i in range(9)]
    row = {".csv": 7, ".parquet": 6}[suffix]

    with pytest.raises(UserError, match=rf"{words}.*row {row}"):
        load(write(tmp_path / f"t{suffix}", rows), task="regression", target="y")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_table_target_of_text_is_no_number(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(UserError, match=r"column 'kind' of .* is string, and data.task is regression"):
        load(write(tmp_path / f"t{suffix}", ROWS), **numbers(target="kind"))
