"""What is refused in a grid, by key, with what to do."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from conf.sweep_schema import Block, Grid, Subset
from sweeps.grid import problems
from tests.sweeps.grids import grid


def keys_of(found: list[tuple[str, str, str]]) -> list[str]:
    return [key for _, key, _ in found]


def test_problems_well_said_grid_has_none() -> None:
    sweep = grid(
        product={"a": (1, 2)},
        zip={"b": (1, 2), "c": (3, 4)},
        blocks=(Block(product={"d": (1,)}), Block(product={"d": (2,)}, zip={"e": (1, 2)})),
        exclude=({"a": 1, "f": "5"},),
        repeats=2,
        subset=Subset(count=1000),
    )

    assert problems(sweep, {"f": [5, 6]}) == []
    assert problems(None, {"f": [5, 6]}) == []


def test_problems_zip_of_different_lengths_names_both() -> None:
    (mistake,) = problems(grid(zip={"a": (1, 2), "b": (1, 2, 3)}))

    assert mistake == (
        "lists that step together differ in length: a has 2, b has 3",
        "sweep.zip",
        "give every zipped list the same number of values, or move one to product",
    )


def test_problems_zip_in_a_block_is_found_there() -> None:
    blocks = (Block(), Block(zip={"a": (1,), "b": (1, 2)}))

    assert keys_of(problems(grid(blocks=blocks))) == ["sweep.blocks.1.zip"]


@pytest.mark.parametrize(
    ("sweep", "key"),
    [
        (grid(product={"a": ()}), "sweep.product.a"),
        (grid(blocks=(Block(product={"a": ()}),)), "sweep.blocks.0.product.a"),
        (grid(zip={"a": ()}), "sweep.zip.a"),
    ],
)
def test_problems_axis_without_values_is_named(sweep: Grid, key: str) -> None:
    assert key in keys_of(problems(sweep))


@pytest.mark.parametrize(
    ("sweep", "axes", "key", "words"),
    [
        (
            grid(product={"a": (1, 2)}, zip={"a": (3, 4)}),
            {},
            "sweep.zip.a",
            "a takes [1, 2] in sweep.product.a, and [3, 4] in sweep.zip.a",
        ),
        (
            grid(product={"a": (1, 2)}, blocks=(Block(), Block(product={"a": (3,)}))),
            {},
            "sweep.blocks.1.product.a",
            "a takes [1, 2] in sweep.product.a, and [3] in sweep.blocks.1.product.a",
        ),
        (
            grid(blocks=(Block(product={"a": (1,)}, zip={"a": (2,)}),)),
            {},
            "sweep.blocks.0.zip.a",
            "a takes [1] in sweep.blocks.0.product.a, and [2] in sweep.blocks.0.zip.a",
        ),
        (grid(zip={"a": (1,)}), {"a": [2]}, "a", "a takes [1] in sweep.zip.a, and [2] on the command line"),
        (
            grid(blocks=(Block(product={"a": (1,)}),)),
            {"a": [2]},
            "sweep.blocks.0.product.a",
            "a takes [2] on the command line, and [1] in sweep.blocks.0.product.a",
        ),
    ],
)
def test_problems_key_in_two_places_names_both(sweep: Grid, axes: dict[str, Any], key: str, words: str) -> None:
    assert problems(sweep, axes) == [(words, key, "say it in one place only")]


def test_problems_key_in_two_blocks_is_meant_so() -> None:
    assert problems(grid(blocks=(Block(product={"a": (1,)}), Block(zip={"a": (2,)})))) == []


def test_problems_exclude_names_no_axis_suggests_one() -> None:
    (mistake,) = problems(grid(product={"optimizer.lr": (1, 2)}, exclude=({"optimizr.lr": 1},)))

    assert mistake[0] == "exclude names optimizr.lr, and no axis has that key"
    assert mistake[1] == "sweep.exclude.0.optimizr.lr"
    assert mistake[2].startswith("did you mean optimizer.lr?")


def test_problems_exclude_value_that_no_axis_takes_shows_those_it_takes() -> None:
    sweep = grid(product={"a": (1, 2)}, blocks=(Block(product={"b": ("x",)}), Block(product={"b": ("y",)})))
    sweep = dataclasses.replace(sweep, exclude=({"b": "y"}, {"a": 1, "b": "z"}))

    assert problems(sweep) == [
        ("exclude names b z, and b takes [x, y]", "sweep.exclude.1.b", "name one of the values, or remove the entry")
    ]


def test_problems_exclude_nothing_in_particular_is_refused() -> None:
    assert keys_of(problems(grid(product={"a": (1, 2)}, exclude=({},)))) == ["sweep.exclude.0"]


@pytest.mark.parametrize(
    ("sweep", "axes"),
    [
        (grid(product={"seed": (1, 2)}, repeats=2), {}),
        (grid(blocks=(Block(), Block(zip={"seed": (1, 2)})), repeats=2), {}),
        (grid(repeats=2), {"seed": [1, 2]}),
    ],
)
def test_problems_repeats_beside_a_swept_seed_is_refused(sweep: Grid, axes: dict[str, Any]) -> None:
    (mistake,) = problems(sweep, axes)

    assert mistake[1] == "sweep.repeats"
    assert "repeats is 2" in mistake[0] and "[1, 2]" in mistake[0]


def test_problems_swept_seed_without_repeats_is_fine() -> None:
    assert problems(grid(product={"seed": (1, 2)})) == []


def test_problems_everything_excluded_is_refused() -> None:
    sweep = grid(product={"a": (1, 2)}, exclude=({"a": 1}, {"a": 2}))

    assert problems(sweep)[0][:2] == ("all 2 points are excluded, and none is left", "sweep.exclude")


def test_problems_grid_beyond_all_measure_is_refused_at_once() -> None:
    many = tuple(range(10_000))

    (mistake,) = problems(grid(product={"a": many, "b": many}, subset=Subset(count=5)), {"c": many})

    assert mistake[0].startswith(f"the grid has {10**12} points")
    assert mistake[1] == "sweep"
    assert keys_of(problems(None, {"a": [1], "b": many, "c": many[:200]})) == ["b"]


def test_problems_several_mistakes_are_all_named() -> None:
    sweep = grid(product={"a": (1,), "seed": (1,)}, zip={"a": (1,), "b": (1, 2)}, exclude=({"c": 1},), repeats=2)

    assert keys_of(problems(sweep)) == ["sweep.zip", "sweep.zip.a", "sweep.repeats", "sweep.exclude.0.c"]
