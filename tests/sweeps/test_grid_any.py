"""What any grid means, by plain loops; and its points' ids, all different and for ever."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conf.sweep_schema import Block, Grid, Subset
from sweeps.grid import point_id, points, problems
from sweeps.values import same
from tests.sweeps.grids import grid

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
