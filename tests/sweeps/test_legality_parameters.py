"""What is refused in a parameter of a search, and in the conditions on which it is there."""

from __future__ import annotations

import math
from typing import Any

import pytest

from conf.sweep_schema import Parameter
from sweeps.legality import problems
from tests.sweeps.kinds import double, integer, numbers, words
from tests.sweeps.refused import OWN, keys_of, search


def said_of(parameter: Parameter) -> list[tuple[str, str]]:
    """(field, what) of everything wrong with one parameter called p."""
    found = problems(search({"p": parameter}), OWN)
    assert all(key.startswith("sweep.parameters.p.") and do for _, key, do in found)
    return [(key.removeprefix("sweep.parameters.p."), what) for what, key, _ in found]


@pytest.mark.parametrize(
    "parameter",
    [
        double(0, 1),
        double(-1.5, -1),
        double(0.1, 0.1),
        double(1e-9, 1, scale="log"),
        double(0.9, 0.999, scale="reverse_log"),
        double(0, 1, step=0.1),
        double(0.3, 0.9, step=0.2),
        double(1, 1, step=0.3),
        double(1e-3, 1e6 + 1e-3, step=1e-3),
        integer(1, 8),
        integer(0, 0),
        integer(16, 1024, scale="log"),
        integer(-4, 8, step=3),
        integer(-(2**53), 2**53),
        words("sgd"),
        words("sgd", None, True, 1, [1, 2], {"a": 1}),
        words("1.1", "1.10"),
        numbers(1),
        numbers(-1, 0.5, 2, 1e300),
        numbers(*range(1000)),
        words(*range(1000)),
    ],
)
def test_problems_well_said_parameter_has_none(parameter: Parameter) -> None:
    assert said_of(parameter) == []


@pytest.mark.parametrize(
    ("parameter", "field", "what"),
    [
        (double(None, 1), "min", "p is double and has no min"),
        (integer(1, None), "max", "p is integer and has no max"),
        (double(2, 1), "min", "p has min 2 above max 1"),
        (integer(2, 1), "min", "p has min 2 above max 1"),
        (double(0, math.inf), "max", "p has max inf, which is no bound"),
        (double(math.nan, 1), "min", "p has min nan, which is no bound"),
        (integer(0.5, 3), "min", "p is integer and has min 0.5"),
        (integer(1, 3.5), "max", "p is integer and has max 3.5"),
        (integer(0, 2**53 + 2), "max", f"p has max {2**53 + 2}, and whole numbers are exact up to {2**53} only"),
        (double(0, 1, scale="log"), "min", "p has scale log and min 0: a logarithm needs more than 0"),
        (integer(0, 1, scale="log"), "min", "p has scale log and min 0: a logarithm needs more than 0"),
        (
            double(-1, 1, scale="reverse_log"),
            "min",
            "p has scale reverse_log and min -1: a logarithm needs more than 0",
        ),
        (
            double(0.1, 1, scale="log", step=0.1),
            "step",
            "p has step 0.1 and scale log: steps of one length are linear",
        ),
        (integer(1, 9, step=0.5), "step", "p is integer and has step 0.5"),
        (integer(16, 256, step=32), "step", "p has steps of 32 from 16, which pass by max 256"),
        (double(0, 1, step=0.3), "step", "p has steps of 0.3 from 0, which pass by max 1"),
        (double(0, 1, step=2), "step", "p has steps of 2 from 0, which pass by max 1"),
        (double(0, 1, values=(1, 2)), "values", "p is double and has values [1, 2], which only lists have"),
        (words(), "values", "p is categorical and has no values"),
        (numbers(), "values", "p is discrete and has no values"),
        (words("a", min=1.0), "min", "p is categorical and has min 1, which only a range has"),
        (numbers(1, max=1.0), "max", "p is discrete and has max 1, which only a range has"),
        (numbers(1, step=1.0), "step", "p is discrete and has step 1, which only a range has"),
        (numbers(1, scale="log"), "scale", "p is discrete and has scale log: a list is as dense as its values are"),
        (words("a", 1, "1"), "values", "p has the value 1 twice"),
        (words([1, 2], [1.0, 2]), "values", "p has the value [1, 2] twice"),
        (numbers(1, "2"), "values", "p is discrete, and these of its values are no numbers: [2]"),
        (
            numbers(1, True, math.inf, math.nan),
            "values",
            "p is discrete, and these of its values are no numbers: [true, inf, nan]",
        ),
        (numbers(1, 10**400), "values", f"p is discrete, and these of its values are no numbers: [{10**400}]"),
        (numbers(1, 3, 2), "values", "p is discrete, which ascends by at least 1e-10, and has 3 before 2"),
        (
            numbers(1, 1.00000000005),
            "values",
            "p is discrete, which ascends by at least 1e-10, and has 1 before 1.00000000005",
        ),
        (numbers(1, 1.0), "values", "p is discrete, which ascends by at least 1e-10, and has 1 before 1.0"),
        (numbers(*range(1001)), "values", "p has 1001 values, and a list has at most 1000"),
        (words(*range(1001)), "values", "p has 1001 values, and a list has at most 1000"),
    ],
)
def test_problems_parameter_badly_said_names_field_and_values(parameter: Parameter, field: str, what: str) -> None:
    assert said_of(parameter) == [(field, what)]


def test_problems_steps_that_miss_max_are_told_the_max_they_reach() -> None:
    (_, _, do) = problems(search({"p": integer(16, 256, step=32)}), OWN)[0]

    assert do == "use max: 240, or another step"


def test_problems_several_of_one_parameter_are_all_named() -> None:
    assert [field for field, _ in said_of(integer(0.5, math.inf, values=(1,)))] == ["values", "min", "max"]
    assert [field for field, _ in said_of(double(0, 1, scale="log", step=0.1))] == ["min", "step"]
    assert [field for field, _ in said_of(words(min=1.0, scale="log"))] == ["min", "scale", "values"]


def test_problems_conditions_on_all_kinds_of_lists_are_fine() -> None:
    some = search(
        {
            "child": double(0, 1, when={"o": ("sgd", "none"), "n": (4,), "d": (0.5,)}),
            "o": words("sgd", "adamw", "none"),
            "n": integer(0, 8, step=4),
            "d": numbers(0.5, 1, when={"o": ("sgd", "adamw")}),
            "grandchild": words(1, 2, when={"d": (0.5, 1.0)}),
        }
    )

    assert problems(some, OWN) == []


@pytest.mark.parametrize(
    ("parent", "value", "what"),
    [
        (words("sgd", "adamw"), "adam", "c is there when p is adam, and p takes [sgd, adamw]"),
        (words("sgd", True), 1, "c is there when p is 1, and p takes [sgd, true]"),
        (numbers(1, 2), 1.5, "c is there when p is 1.5, and p takes [1, 2]"),
        (integer(0, 8), 9, "c is there when p is 9, and p goes from 0 to 8"),
        (integer(0, 8), 2.5, "c is there when p is 2.5, and p goes from 0 to 8"),
        (integer(0, 8), "2", "c is there when p is 2, and p goes from 0 to 8"),
        (integer(0, 8, step=4), 2, "c is there when p is 2, and p goes from 0 to 8 in steps of 4"),
        (double(0, 8), 2.0, "c depends on p, which is double: it has no values that could be listed"),
    ],
)
def test_problems_condition_on_what_a_parent_never_is(parent: Parameter, value: Any, what: str) -> None:
    (mistake,) = problems(search({"p": parent, "c": double(0, 1, when={"p": (value,)})}), OWN)

    assert mistake[:2] == (what, "sweep.parameters.c.when.p")


def test_problems_condition_on_a_parameter_that_is_not_there_suggests_one() -> None:
    (mistake,) = problems(search({"optimizer": words("sgd"), "m": double(0, 1, when={"optimiser": ("sgd",)})}), OWN)

    assert mistake[0] == "m depends on optimiser, which is no parameter of this search"
    assert mistake[1] == "sweep.parameters.m.when.optimiser"
    assert mistake[2].startswith("did you mean optimizer?")


def test_problems_condition_on_a_parent_with_mistakes_names_those_alone() -> None:
    some = search({"p": words(), "q": integer(None, 4), "c": double(0, 1, when={"p": (2,), "q": (9,)})})

    assert keys_of(some) == ["sweep.parameters.p.values", "sweep.parameters.q.min"]


@pytest.mark.parametrize(
    ("parents", "circle"),
    [
        ({"a": "a"}, "a needs a"),
        ({"a": "b", "b": "a"}, "a needs b needs a"),
        ({"root": "", "below": "a", "a": "b", "b": "c", "c": "a"}, "a needs b needs c needs a"),
        ({"a": "", "b": "c", "c": "b", "d": "b"}, "b needs c needs b"),
    ],
)
def test_problems_conditions_in_a_circle_show_it(parents: dict[str, str], circle: str) -> None:
    some = search({n: words(1, when={parent: (1,)} if parent else {}) for n, parent in parents.items()})

    (mistake,) = problems(some, OWN)

    assert mistake[0] == f"conditions go round in a circle: {circle}"
    assert mistake[1] == f"sweep.parameters.{circle[0]}.when"


def test_problems_parameter_whose_conditions_exclude_each_other_is_named() -> None:
    some = search(
        {
            "o": words("sgd", "adamw"),
            "m": words(1, 2, when={"o": ("sgd",)}),
            "c": double(0, 1, when={"m": (1,), "o": ("adamw",)}),
        }
    )

    (mistake,) = problems(some, OWN)

    assert mistake == (
        "c can never be there: its conditions, and those of its parents, leave o no value",
        "sweep.parameters.c.when",
        "let all of them name one and the same value of o",
    )


def test_problems_conditions_with_many_ways_up_take_no_time() -> None:
    """Two parents in each of forty generations: a million million ways from the last to the first."""
    space = {"a0": words(1, 2), "b0": words(1, 2)}
    for n in range(1, 40):
        above = {f"a{n - 1}": (1,), f"b{n - 1}": (1,)}
        space |= {f"a{n}": words(1, 2, when=above), f"b{n}": words(1, 2, when=above)}

    assert problems(search(space), OWN) == []


def test_problems_condition_that_lists_nothing_never_holds() -> None:
    assert keys_of(search({"o": words(1), "c": words(1, when={"o": ()})})) == ["sweep.parameters.c.when"]
