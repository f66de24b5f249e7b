"""Points of a space that are listed: those of a grid, and the corners that are tried before anything is queued."""

from __future__ import annotations

import time

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from conf.sweep_schema import Search
from sweeps.space import MOST_CORNERS, contains, corners, grid_points
from sweeps.values import among, canonical
from tests.sweeps.kinds import double, integer, numbers, words
from tests.sweeps.spaces import NESTED, by_hand, search, spaces


@given(spaces(listed_only=True))
def test_grid_points_any_space_are_exactly_the_combinations_that_make_sense(some: Search) -> None:
    found = grid_points(some)

    assert len(found) == len({canonical(point) for point in found})
    assert {canonical(point) for point in found} == {canonical(point) for point in by_hand(some)}


@given(spaces(listed_only=True), st.integers(0, 20))
def test_grid_points_the_first_few_are_the_first_few_of_all(some: Search, most: int) -> None:
    assert grid_points(some, most) == grid_points(some)[:most]


def test_grid_points_branches_have_their_own_parameters_only() -> None:
    some = search({"o": words("s", "a", "n"), "m": integer(0, 1, when={"o": ("s",)}), "b": numbers(7, 8)})

    assert grid_points(some) == [
        {"o": "s", "b": 7, "m": 0},
        {"o": "s", "b": 7, "m": 1},
        {"o": "s", "b": 8, "m": 0},
        {"o": "s", "b": 8, "m": 1},
        {"o": "a", "b": 7},
        {"o": "a", "b": 8},
        {"o": "n", "b": 7},
        {"o": "n", "b": 8},
    ]


def test_grid_points_first_of_a_huge_space_take_no_time() -> None:
    some = search({str(n): integer(0, 2**53) for n in range(20)})

    assert grid_points(some, 3)[2] == {**{str(n): 0 for n in range(19)}, "19": 2}


@given(spaces())
def test_corners_any_space_are_points_of_it_and_cover_it(some: Search) -> None:
    found = corners(some)

    assert [contains(some, point) for point in found] == [[]] * len(found)
    for name, parameter in some.parameters.items():
        taken = [point[name] for point in found if name in point]
        wanted = parameter.values if parameter.values else (parameter.min, parameter.max)
        assert all(among(value, taken) for value in wanted), name


@given(spaces())
def test_corners_are_never_more_than_values_and_never_repeated(some: Search) -> None:
    found = corners(some)

    assert len({canonical(point) for point in found}) == len(found)
    assert len(found) <= sum(len(p.values) or 3 + len(some.parameters) for p in some.parameters.values())


@given(spaces())
def test_corners_without_conditions_are_as_many_as_the_longest_list(some: Search) -> None:
    assume(not any(p.when for p in some.parameters.values()))

    assert len(corners(some)) <= max(len(p.values) or 3 for p in some.parameters.values())


@given(spaces())
def test_corners_have_the_types_that_trials_will_have(some: Search) -> None:
    for point in corners(some):
        for name, value in point.items():
            kind = {"integer": int, "double": float}.get(some.parameters[name].type)
            assert kind is None or type(value) is kind


def test_corners_of_a_double_between_whole_bounds_have_a_value_that_is_not_whole() -> None:
    """A key that takes whole numbers only would let 1.0 and 8.0 pass, and fail in the first trial."""
    for parameter in (double(1, 8), double(0, 1000), double(1, 8, scale="log"), double(1, 8, step=0.5)):
        assert any(not point["a"].is_integer() for point in corners(search({"a": parameter})))


def test_corners_of_branches_reach_the_deepest() -> None:
    found = corners(NESTED)

    assert len(found) <= 5
    assert {point["nesterov"] for point in found if "nesterov" in point} == {True, False}


def test_corners_integer_parent_takes_values_that_only_children_name() -> None:
    found = corners(search({"depth": integer(1, 9), "skip": double(0, 1, when={"depth": (4, 5)})}))

    assert {point["depth"] for point in found} == {1, 4, 5, 9}
    assert [point["depth"] in (4, 5) for point in found] == ["skip" in point for point in found]


def test_corners_conditions_that_share_parents_are_met_together() -> None:
    some = search(
        {
            "a": words("x", "y", "z"),
            "b": words("x", "y", when={"a": ("x", "y")}),
            "c": words(1, 2, when={"a": ("y", "z"), "b": ("y",)}),
        }
    )

    assert [point for point in corners(some) if "c" in point] == [
        {"a": "y", "b": "y", "c": 1},
        {"a": "y", "b": "y", "c": 2},
    ]


def test_corners_branches_are_no_more_than_they_need_beside_a_longer_list() -> None:
    some = search(
        {
            "long": words(*range(6)),
            "o": words("x", "y"),
            "of_x": words(1, 2, 3, when={"o": ("x",)}),
            "of_y": words(1, 2, 3, when={"o": ("y",)}),
        }
    )

    assert len(corners(some)) == 6


def test_corners_longest_lists_side_by_side_are_no_more_than_one_list() -> None:
    lists = {str(n): numbers(*range(1000)) for n in range(20)}
    began = time.perf_counter()

    found = corners(search({**lists, "a": words(*(f"w{n}" for n in range(1000))), "b": double(0, 1)}))

    assert len(found) == 1000
    assert time.perf_counter() - began < 5


def test_corners_too_many_branches_keep_to_the_limit_and_to_the_ends() -> None:
    options = [f"o{n}" for n in range(40)]
    lists = {f"c{n}": numbers(*range(100), when={"o": (option,)}) for n, option in enumerate(options)}

    found = corners(search({"o": words(*options), **lists}))

    assert len(found) == MOST_CORNERS
    for name in lists:
        assert {0, 99} <= {point[name] for point in found if name in point}


@settings(deadline=None)
@given(spaces())
def test_corners_same_space_same_points(some: Search) -> None:
    assert corners(some) == corners(some)
