"""The space of a search: which points belong to it, and which are tried before anything is queued."""

from __future__ import annotations

import itertools
import json
import math
import time
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from conf.sweep_schema import Goal, Parameter, Search
from sweeps.legality import problems
from sweeps.space import (
    MOST_CORNERS,
    choices,
    contains,
    corners,
    count,
    faults,
    grid_points,
    is_active,
    is_value,
    ordered,
)
from sweeps.values import among, canonical

OWN = Goal(metric="val/loss", goal="minimize")


def search(parameters: dict[str, Parameter], **said: Any) -> Search:
    return Search(**{"kind": "search", "algorithm": "random", "parameters": parameters, "trials": 10, **said})


def double(low: float, high: float, **said: Any) -> Parameter:
    return Parameter(type="double", min=low, max=high, **said)


def integer(low: float, high: float, **said: Any) -> Parameter:
    return Parameter(type="integer", min=low, max=high, **said)


def words(*values: Any, **said: Any) -> Parameter:
    return Parameter(type="categorical", values=values, **said)


def numbers(*values: Any, **said: Any) -> Parameter:
    return Parameter(type="discrete", values=values, **said)


NESTED = search(
    {
        "momentum": double(0.0, 0.99, when={"optimizer": ("sgd",)}),
        "optimizer": words("sgd", "adamw"),
        "nesterov": words(True, False, when={"momentum_on": (1,)}),
        "momentum_on": integer(0, 1, when={"optimizer": ("sgd",)}),
        "lr": double(1e-4, 0.1, scale="log"),
    }
)


# Every search that is well said, in small.

NAMES = "abcd"


@st.composite
def parameters(draw: st.DrawFn, listed_only: bool) -> Parameter:
    kind = draw(st.sampled_from(["integer", "categorical", "discrete", "stepped", "double"][: 4 if listed_only else 5]))
    low = draw(st.integers(-3, 3))
    if kind == "integer":
        step = draw(st.sampled_from([None, 1, 2, 3]))
        return integer(low, low + (step or 1) * draw(st.integers(0, 2)), step=step)
    if kind == "categorical":
        options = ["x", "y", "1.5", 7, None, True, [1, 2], {"k": "v"}]
        return words(*draw(st.lists(st.sampled_from(options), min_size=1, max_size=3, unique_by=canonical)))
    if kind == "discrete":
        options = [-1, 0, 0.5, 1, 2.0, 1000]
        return numbers(*sorted(draw(st.sets(st.sampled_from(options), min_size=1, max_size=3))))
    if kind == "stepped":
        step = draw(st.sampled_from([0.1, 0.25, 1.0]))
        return double(low, round(low + step * draw(st.integers(0, 2)), 10), step=step)
    return double(low, low + draw(st.floats(0, 10)))


@st.composite
def spaces(draw: st.DrawFn, listed_only: bool = False) -> Search:
    """Parameters whose conditions name earlier ones, in any order."""
    found: dict[str, Parameter] = {}
    for name in NAMES[: draw(st.integers(1, 4))]:
        parameter = draw(parameters(listed_only))
        parents = [other for other, p in found.items() if p.type != "double"]
        when = {}
        least = draw(st.integers(0, 1))
        for parent in draw(st.sets(st.sampled_from(parents), min_size=least, max_size=2)) if parents else ():
            listed = st.lists(st.sampled_from(list(choices(found[parent]))), min_size=1, max_size=2)
            when[parent] = tuple(draw(listed))
        found[name] = Parameter(**{**vars(parameter), "when": when})
    some = search({name: found[name] for name in draw(st.permutations(list(found)))})
    assume(not problems(some, OWN))
    return some


def there(some: Search, point: dict[str, Any], name: str) -> bool:
    """What «active» means, as a sentence: all parents are there, at values that are listed."""
    when = some.parameters[name].when
    return all(there(some, point, parent) and among(point[parent], values) for parent, values in when.items())


def by_hand(some: Search) -> list[dict[str, Any]]:
    """Every combination of everything, then without what is not there, each once."""
    names = list(some.parameters)
    found = {}
    for values in itertools.product(*(choices(some.parameters[name]) for name in names)):
        whole = dict(zip(names, values, strict=True))
        point = {name: whole[name] for name in names if there(some, whole, name)}
        found[canonical(point)] = point
    return list(found.values())


# ordered, is_active


@given(spaces())
def test_ordered_any_space_has_parents_first_and_everything_once(some: Search) -> None:
    names = [name for name, _ in ordered(some)]

    assert sorted(names) == sorted(some.parameters)
    for name, parameter in ordered(some):
        assert all(names.index(parent) < names.index(name) for parent in parameter.when)


def test_ordered_without_conditions_is_as_given() -> None:
    some = search({name: words(1) for name in "zxay"})

    assert "".join(name for name, _ in ordered(some)) == "zxay"


def test_ordered_nested_conditions_come_generation_by_generation() -> None:
    assert [name for name, _ in ordered(NESTED)] == ["optimizer", "lr", "momentum", "momentum_on", "nesterov"]


def test_ordered_circle_is_an_error() -> None:
    some = search({"a": words(1, when={"b": (1,)}), "b": words(1, when={"a": (1,)}), "c": words(1)})

    with pytest.raises(ValueError, match="a, b"):
        ordered(some)


def test_is_active_all_conditions_must_hold() -> None:
    child = words(1, when={"a": ("x", "y"), "b": (2,)})

    assert is_active(child, {"a": "y", "b": 2.0})
    assert not is_active(child, {"a": "y", "b": 3})
    assert not is_active(child, {"a": "z", "b": 2})
    assert not is_active(child, {"a": "y"})
    assert is_active(words(1), {})


# count, choices


@pytest.mark.parametrize(
    ("parameter", "values"),
    [
        (integer(1, 4), [1, 2, 3, 4]),
        (integer(16, 64, step=16), [16, 32, 48, 64]),
        (integer(5, 5), [5]),
        (integer(-2, 2, step=2), [-2, 0, 2]),
        (double(0.1, 0.7, step=0.1), [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]),
        (double(0, 1, step=0.5), [0.0, 0.5, 1.0]),
        (words("b", "a"), ["b", "a"]),
        (numbers(1, 2.5), [1, 2.5]),
    ],
)
def test_choices_are_listed_and_counted(parameter: Parameter, values: list[Any]) -> None:
    assert list(choices(parameter)) == values
    assert count(parameter) == len(values)
    assert list(map(type, choices(parameter))) == list(map(type, values))


def test_choices_of_a_whole_range_of_integers_are_not_written_out() -> None:
    values = choices(integer(0, 2**53))

    assert (values[0], values[-1]) == (0, 2**53)


def test_choices_of_an_open_double_are_none() -> None:
    assert count(double(0, 1)) is None
    with pytest.raises(ValueError, match="step"):
        choices(double(0, 1))


@given(
    st.decimals(-1000, 1_000_000, places=3),
    st.decimals("0.0001", 10, places=4),
    st.integers(0, 300),
)
def test_choices_of_any_steps_belong_to_the_parameter(low: Any, step: Any, many: int) -> None:
    parameter = double(float(low), float(low + many * step), step=float(step))

    assert len(choices(parameter)) == many + 1
    assert choices(parameter)[-1] == parameter.max
    assert all(is_value(parameter, value) for value in choices(parameter))
    assert not is_value(parameter, float(low + step / 2))


# contains, faults


@given(spaces(listed_only=True))
def test_contains_every_combination_that_makes_sense(some: Search) -> None:
    assert all(contains(some, point) == [] for point in by_hand(some))


@given(spaces(), st.data())
def test_contains_a_point_drawn_from_the_space(some: Search, data: st.DataObject) -> None:
    point: dict[str, Any] = {}
    for name, parameter in ordered(some):
        if is_active(parameter, point):
            if count(parameter) is None:
                point[name] = data.draw(st.floats(parameter.min, parameter.max))
            else:
                point[name] = data.draw(st.sampled_from(list(choices(parameter))))

    assert contains(some, point) == []
    assert contains(some, json.loads(json.dumps(point))) == []


@given(spaces(), st.data())
def test_contains_a_point_with_something_missing_says_so(some: Search, data: st.DataObject) -> None:
    point = dict(data.draw(st.sampled_from(corners(some))))
    gone = data.draw(st.sampled_from(sorted(point)))
    del point[gone]

    assert f"{gone} is missing" in contains(some, point)
    assert not [name for name, _ in faults(some, point, whole=False) if gone not in some.parameters[name].when]


@given(spaces(), st.data())
def test_contains_a_point_with_too_much_says_so(some: Search, data: st.DataObject) -> None:
    cases = [(point, name) for point in corners(some) for name in some.parameters if name not in point]
    if not cases:  # nothing is ever absent from this space
        return
    point, name = data.draw(st.sampled_from(cases))
    value = some.parameters[name].values[0] if some.parameters[name].values else some.parameters[name].min

    assert [what for what in contains(some, {**point, name: value}) if what.startswith(f"{name} is given")]


@pytest.mark.parametrize(
    ("parameter", "value", "must"),
    [
        (double(0.1, 1), 0.0, "between 0.1 and 1"),
        (double(0.1, 1), math.nextafter(1.0, 2.0), "between 0.1 and 1"),
        (double(0.1, 1), math.nan, "a number"),
        (double(0.1, 1), math.inf, "a number"),
        (double(0.1, 1), "0.5", "a number, not a word"),
        (double(0.1, 1), True, "a number"),
        (double(0.1, 1), None, "a number"),
        (double(0.1, 1), [0.5], "a number"),
        (double(0, 1, step=0.25), 0.3, "0 plus steps of 0.25"),
        (integer(1, 4), 2.5, "a whole number"),
        (integer(1, 4), "2", "a whole number, not a word"),
        (integer(1, 4), False, "a whole number"),
        (integer(1, 4), 5, "between 1 and 4"),
        (integer(1, 4), 10**400, "between 1 and 4"),
        (integer(16, 64, step=16), 24, "16 plus steps of 16"),
        (words("a", 1), "b", "one of [a, 1]"),
        (words("a", 1), True, "one of [a, 1]"),
        (numbers(1, 2), 1.5, "one of [1, 2]"),
    ],
)
def test_contains_value_that_does_not_fit_says_what_would(parameter: Parameter, value: Any, must: str) -> None:
    (what,) = contains(search({"a": parameter}), {"a": value})

    assert what.startswith("a is ")
    assert what.endswith(f", and must be {must}")


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        (double(0.1, 1), 1),
        (double(0, 1, step=0.1), 0.1 + 0.2),
        (double(-1, 1, step=0.1), 1e-17),
        (double(1e6, 1e6 + 1, step=1e-4), 1e6 + 3e-4),
        (integer(1, 4), 2.0),
        (integer(1, 4), 4),
        (words("a", 1), "1"),
        (numbers(0.01, 1), "1e-2"),
        (words([0.9, 0.999], None), [0.9, 0.999]),
        (words([0.9, 0.999], None), None),
    ],
)
def test_contains_value_that_fits_is_fine(parameter: Parameter, value: Any) -> None:
    assert contains(search({"a": parameter}), {"a": value}) == []


def test_contains_names_everything_wrong_with_a_point() -> None:
    point = {"optimizer": "adamw", "momentum": 0.5, "nesterov": True, "wd": 1}

    assert contains(NESTED, point) == [
        "wd is no parameter of this search",
        "lr is missing",
        "momentum is given, and is there only when optimizer is sgd (here adamw)",
        "nesterov is given, and is there only when momentum_on is 1 (not given here)",
    ]


def test_faults_part_of_a_point_may_leave_out_what_has_no_children_in_it() -> None:
    assert faults(NESTED, {"lr": 0.01}, whole=False) == []
    assert faults(NESTED, {"optimizer": "sgd", "momentum": 0.5}, whole=False) == []
    assert [name for name, _ in faults(NESTED, {"momentum": 0.5}, whole=False)] == ["momentum"]


# grid_points


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


# corners


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
