"""The points of a grid: all of them, each once, always in the same order."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conf.sweep_schema import Block, Subset
from sweeps.grid import points, product
from tests.sweeps.grids import grid

KEYS = st.text("abc.", min_size=1, max_size=3)
AXES = st.dictionaries(KEYS, st.lists(st.text("01x,= ", max_size=3), min_size=1, max_size=4), max_size=4)


def test_product_no_axes_is_one_empty_point() -> None:
    assert product({}) == [{}]


def test_product_two_axes_last_one_is_fastest() -> None:
    points = product({"a": ["1", "2"], "b": ["x", "y"]})

    assert [(p["a"], p["b"]) for p in points] == [("1", "x"), ("1", "y"), ("2", "x"), ("2", "y")]


def test_product_repeated_value_gives_one_point() -> None:
    assert product({"a": ["1", "1", "2"]}) == [{"a": "1"}, {"a": "2"}]


def test_product_axis_without_values_gives_no_points() -> None:
    assert product({"a": ["1"], "b": []}) == []


@given(AXES)
def test_product_any_axes_has_every_combination_once(axes: dict[str, list[str]]) -> None:
    points = product(axes)

    assert len(points) == math.prod(len(set(values)) for values in axes.values())
    assert len({tuple(sorted(p.items())) for p in points}) == len(points)
    assert all(set(p) == set(axes) and all(p[k] in axes[k] for k in axes) for p in points)


@given(AXES)
def test_product_same_axes_same_order(axes: dict[str, list[str]]) -> None:
    first, second = product(axes), product({k: list(v) for k, v in axes.items()})

    assert first == second


@given(AXES)
def test_product_values_stay_in_the_order_given(axes: dict[str, list[str]]) -> None:
    """Index 0 is always the first value of every axis: members keep their numbers."""
    assert product(axes)[0] == {k: values[0] for k, values in axes.items()}


def test_points_no_grid_is_the_command_lines_product() -> None:
    assert points(None, {"a": [1, 2], "b": ["x"]}, seed=1) == [{"a": 1, "b": "x"}, {"a": 2, "b": "x"}]


def test_points_empty_grid_is_one_plain_member() -> None:
    assert points(grid(), {}, seed=1) == [{}]


def test_points_all_parts_later_ones_are_faster() -> None:
    sweep = grid(product={"a": (1, 2)}, zip={"b": ("x", "y"), "c": ("X", "Y")}, blocks=(Block(product={"d": (5, 6)}),))

    found = points(sweep, {"e": [8, 9]}, seed=1)

    assert ["".join(str(v) for v in p.values()) for p in found] == [
        f"{a}{bc}{d}{e}" for a in "12" for bc in ("xX", "yY") for d in "56" for e in "89"
    ]


def test_points_blocks_come_one_after_the_other() -> None:
    blocks = (
        Block(product={"optimizer": ("sgd",), "optimizer.momentum": (0.0, 0.9)}),
        Block(product={"optimizer": ("adamw",)}, zip={"optimizer.lr": (1, 2), "optimizer.weight_decay": (3, 4)}),
        Block(),
    )

    assert points(grid(blocks=blocks), {}, seed=1) == [
        {"optimizer": "sgd", "optimizer.momentum": 0.0},
        {"optimizer": "sgd", "optimizer.momentum": 0.9},
        {"optimizer": "adamw", "optimizer.lr": 1, "optimizer.weight_decay": 3},
        {"optimizer": "adamw", "optimizer.lr": 2, "optimizer.weight_decay": 4},
        {},
    ]


def test_points_blocks_that_overlap_give_each_point_once_at_its_first_place() -> None:
    blocks = (Block(product={"a": (1, 2)}), Block(product={"a": (3, 2, 4)}))

    assert [p["a"] for p in points(grid(blocks=blocks), {}, seed=1)] == [1, 2, 3, 4]


def test_points_lists_and_mappings_are_values_too() -> None:
    values = ([0.9, 0.99], [0.9, 0.999], [0.9, 0.99], {"kind": "cnn", "width": 8}, {"width": 8, "kind": "cnn"})

    found = points(grid(product={"a": values}), {}, seed=1)

    assert [p["a"] for p in found] == [[0.9, 0.99], [0.9, 0.999], {"kind": "cnn", "width": 8}]


def test_points_true_and_one_and_word_one_are_three_points() -> None:
    found = points(grid(product={"a": (1, True, "1", 1.0)}), {}, seed=1)

    assert [repr(p["a"]) for p in found] == ["1", "True", "'1'", "1.0"]


@pytest.mark.parametrize("said", [0.01, "1e-2", "0.01", "1.0E-2", "+.01"])
def test_points_exclude_numbers_match_however_they_are_spelled(said: Any) -> None:
    sweep = grid(product={"optimizer.lr": (0.1, 0.01)}, exclude=({"optimizer.lr": said},))

    assert points(sweep, {}, seed=1) == [{"optimizer.lr": 0.1}]


def test_points_exclude_words_are_compared_letter_by_letter() -> None:
    sweep = grid(product={"version": ("1.1", "1.10")}, exclude=({"version": "1.1"},))

    assert points(sweep, {}, seed=1) == [{"version": "1.10"}]


def test_points_exclude_one_is_not_true() -> None:
    sweep = grid(product={"a": (True, 1, 1.0, "1", False)}, exclude=({"a": 1},))

    assert points(sweep, {}, seed=1) == [{"a": True}, {"a": False}]


def test_points_exclude_goes_only_where_every_value_matches() -> None:
    sweep = grid(product={"a": (1, 2), "b": (1, 2)}, exclude=({"a": 1, "b": 2},))

    assert points(sweep, {}, seed=1) == [{"a": 1, "b": 1}, {"a": 2, "b": 1}, {"a": 2, "b": 2}]


def test_points_exclude_a_key_of_one_block_spares_the_others() -> None:
    blocks = (Block(product={"a": (1, 2)}), Block(product={"b": (1, 2)}))

    assert points(grid(blocks=blocks, exclude=({"a": 1},)), {}, seed=1) == [{"a": 2}, {"b": 1}, {"b": 2}]


def test_points_exclude_reaches_axes_of_the_command_line() -> None:
    sweep = grid(product={"a": (1, 2)}, exclude=({"a": 1, "b": 3},))

    assert points(sweep, {"b": [3, 4]}, seed=1) == [{"a": 1, "b": 4}, {"a": 2, "b": 3}, {"a": 2, "b": 4}]


def test_points_repeats_count_seeds_up_and_are_fastest() -> None:
    found = points(grid(product={"a": (1, 2)}, repeats=3), {}, seed=7)

    assert [(p["a"], p["seed"]) for p in found] == [(1, 7), (1, 8), (1, 9), (2, 7), (2, 8), (2, 9)]


def test_points_one_repeat_leaves_seed_alone() -> None:
    assert points(grid(product={"a": (1,)}), {}, seed=7) == [{"a": 1}]


def test_points_subset_is_these_members_on_every_python() -> None:
    """The literal holds the choice that `random` made in 2026: another would change what a sweep runs."""
    found = points(grid(product={"a": tuple(range(100))}, subset=Subset(count=5, seed=3)), {}, seed=1)

    assert [p["a"] for p in found] == [16, 30, 47, 69, 75]


def test_points_subset_larger_than_the_grid_is_all_of_it() -> None:
    sweep = grid(product={"a": (1, 2)}, subset=Subset(count=5))

    assert points(sweep, {}, seed=1) == [{"a": 1}, {"a": 2}]


def test_points_subset_counts_repeats_as_points() -> None:
    sweep = grid(product={"a": (1, 2)}, repeats=5, subset=Subset(count=3))

    assert len(points(sweep, {}, seed=1)) == 3


def test_points_ten_thousand_are_all_there_and_all_different() -> None:
    sweep = grid(
        product={"model": ("mlp", "cnn"), "optimizer.lr": tuple(10.0**-k for k in range(10))},
        zip={"data.batch": (16, 32, 64, 128, 256), "train.epochs": (5, 4, 3, 2, 1)},
        blocks=(Block(product={"optimizer": ("sgd",), "m": (0, 1, 2, 3)}), Block(product={"optimizer": ("adamw",)})),
        exclude=({"model": "mlp", "optimizer.lr": 1.0}, {"optimizer": "sgd", "m": 3, "model": "cnn"}),
    )

    found = points(sweep, {"seed": list(range(25))}, seed=1)

    assert len({json.dumps(point, sort_keys=True) for point in found}) == len(found) > 10_000
