"""The points of a grid: all of them, each once, always in the same order."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conf.sweep_schema import Block, Grid, Subset
from sweeps.grid import point_id, points, problems, product
from sweeps.values import same

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


def grid(**said: Any) -> Grid:
    return Grid(kind="grid", **said)


def keys_of(found: list[tuple[str, str, str]]) -> list[str]:
    return [key for _, key, _ in found]


# points


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


# The whole meaning again, as plain loops.

VALUES = st.lists(st.sampled_from([0, 1, 1.0, True, "1", "a", None, [1, "a"], {"k": 1}]), min_size=1, max_size=3)


def axes_of(names: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from(names), VALUES.map(tuple), max_size=len(names))


@st.composite
def zips_of(draw: st.DrawFn, names: str) -> dict[str, Any]:
    keys = draw(st.lists(st.sampled_from(names), unique=True, max_size=2))
    rows = draw(st.integers(1, 3))
    return {key: tuple((draw(VALUES) * 3)[:rows]) for key in keys}


@st.composite
def grids(draw: st.DrawFn) -> tuple[Grid, dict[str, Any]]:
    """A grid that is well said, and axes of the command line."""
    blocks = st.lists(st.builds(Block, product=axes_of("pq"), zip=zips_of("rs")), max_size=3)
    sweep = grid(product=draw(axes_of("ab")), zip=draw(zips_of("cd")), blocks=tuple(draw(blocks)))
    axes = draw(axes_of("xy"))
    whole = product_by_hand(sweep, axes)
    exclude = []
    for base in draw(st.lists(st.sampled_from(whole), max_size=2)):
        if base:
            exclude.append({k: base[k] for k in draw(st.sets(st.sampled_from(sorted(base)), min_size=1))})
    return dataclasses.replace(sweep, exclude=tuple(exclude), repeats=draw(st.integers(1, 3))), axes


def combinations(axes: list[tuple[str, Any]]) -> list[dict[str, Any]]:
    if not axes:
        return [{}]
    *before, (key, values) = axes
    return [{**point, key: value} for point in combinations(before) for value in values]


def rows_of(axes: dict[str, Any]) -> list[dict[str, Any]]:
    length = len(next(iter(axes.values()), [None]))
    return [{key: values[i] for key, values in axes.items()} for i in range(length)]


def product_by_hand(sweep: Grid, axes: dict[str, Any]) -> list[dict[str, Any]]:
    found = []
    for multiplied in combinations(list(sweep.product.items())):
        for row in rows_of(dict(sweep.zip)):
            for block in sweep.blocks or (Block(),):
                for inner in combinations(list(block.product.items())):
                    for inner_row in rows_of(dict(block.zip)):
                        for outer in combinations(list(axes.items())):
                            found.append({**multiplied, **row, **inner, **inner_row, **outer})
    return found


@given(grids(), st.integers(0, 5))
def test_points_any_grid_is_what_its_parts_mean(case: tuple[Grid, dict[str, Any]], seed: int) -> None:
    sweep, axes = case
    expected: list[dict[str, Any]] = []
    texts = set()
    for point in product_by_hand(sweep, axes):
        gone = any(all(k in point and same(point[k], v) for k, v in entry.items()) for entry in sweep.exclude)
        text = json.dumps(point, sort_keys=True)
        if not gone and text not in texts:
            texts.add(text)
            expected += [{**point, "seed": seed + n} if sweep.repeats > 1 else point for n in range(sweep.repeats)]

    found = points(sweep, axes, seed)

    assert list(map(repr, found)) == list(map(repr, expected))
    assert [key for _, key, _ in problems(sweep, axes)] == ([] if expected else ["sweep.exclude"])


@given(grids(), st.integers(1, 12), st.integers(0, 3))
def test_points_subset_keeps_order_and_depends_on_its_seed_alone(
    case: tuple[Grid, dict[str, Any]], count: int, seed: int
) -> None:
    sweep, axes = case
    whole = points(sweep, axes, 1)

    some = points(dataclasses.replace(sweep, subset=Subset(count=count, seed=seed)), axes, 1)

    places = [list(map(repr, whole)).index(repr(point)) for point in some]
    assert len(some) == min(count, len(whole))
    assert places == sorted(set(places))


@given(grids())
def test_point_ids_of_a_grid_are_all_different(case: tuple[Grid, dict[str, Any]]) -> None:
    found = points(*case, seed=1)

    assert len({point_id(point) for point in found}) == len(found)


# point_id


def test_point_id_is_this_one_for_ever() -> None:
    """Members are found by it long after they ran: it must not change with a version of ours."""
    assert point_id({"optimizer.lr": 0.001, "model": "cnn"}) == "59ad5dce"


def test_point_id_order_of_keys_does_not_count() -> None:
    one = {"a": 1, "b": {"c": 2, "d": 3}}
    other = {"b": {"d": 3, "c": 2}, "a": 1}

    assert point_id(one) == point_id(other)


def test_point_id_lists_and_tuples_are_alike() -> None:
    assert point_id({"a": [1, 2]}) == point_id({"a": (1, 2)})


@pytest.mark.parametrize("other", [1.0, "1", True, [1], None])
def test_point_id_another_value_another_id(other: Any) -> None:
    assert point_id({"a": 1}) != point_id({"a": other})


@given(grids())
def test_point_id_survives_the_record(case: tuple[Grid, dict[str, Any]]) -> None:
    for point in points(*case, seed=1):
        assert point_id(json.loads(json.dumps(point))) == point_id(point)


# problems


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
