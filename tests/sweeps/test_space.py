"""The space of a search: which points belong to it, and what is wrong with others."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conf.sweep_schema import Parameter, Search
from sweeps.space import choices, contains, corners, count, faults, is_active, is_value, ordered
from tests.sweeps.kinds import double, integer, numbers, words
from tests.sweeps.spaces import NESTED, by_hand, search, spaces


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
