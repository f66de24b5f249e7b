"""What is refused in a search before anything is queued; each with both values, its key, and what to do."""

from __future__ import annotations

import math
from typing import Any

import pytest

from conf.sweep_schema import Constraint, Goal, Limits, Parameter, Pruning, Search
from sweeps.legality import MOST_GRID_POINTS, problems

OWN = Goal(metric="val/loss", goal="minimize")
OTHER = Goal(metric="latency", goal="minimize")


def search(parameters: dict[str, Parameter] | None = None, **said: Any) -> Search:
    parameters = parameters or {"lr": double(0.1, 1), "width": double(1, 2)}
    return Search(**{"kind": "search", "algorithm": "tpe", "parameters": parameters, "trials": 10, **said})


def double(low: float | None, high: float | None, **said: Any) -> Parameter:
    return Parameter(type="double", min=low, max=high, **said)


def integer(low: float | None, high: float | None, **said: Any) -> Parameter:
    return Parameter(type="integer", min=low, max=high, **said)


def words(*values: Any, **said: Any) -> Parameter:
    return Parameter(type="categorical", values=values, **said)


def numbers(*values: Any, **said: Any) -> Parameter:
    return Parameter(type="discrete", values=values, **said)


def keys_of(some: Search) -> list[str]:
    return [key for _, key, _ in problems(some, OWN)]


def said_of(parameter: Parameter) -> list[tuple[str, str]]:
    """(field, what) of everything wrong with one parameter called p."""
    found = problems(search({"p": parameter}), OWN)
    assert all(key.startswith("sweep.parameters.p.") and do for _, key, do in found)
    return [(key.removeprefix("sweep.parameters.p."), what) for what, key, _ in found]


# one parameter


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


# conditions


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


# objectives, constraints, pruning


def test_problems_one_metric_as_two_objectives_is_refused() -> None:
    twice = (OWN, OTHER, Goal(metric="val/loss", goal="maximize"))

    (mistake,) = problems(search(objectives=twice), OTHER)

    assert mistake[0] == "val/loss is an objective twice: minimize and maximize"
    assert mistake[1] == "sweep.objectives.2.metric"


@pytest.mark.parametrize(
    ("constraint", "key"),
    [
        (Constraint(metric="latency"), "sweep.constraints.1"),
        (Constraint(metric="latency", min=2.0, max=1.0), "sweep.constraints.1.min"),
    ],
)
def test_problems_constraint_that_is_none_is_refused(constraint: Constraint, key: str) -> None:
    fine = Constraint(metric="memory", min=1.0, max=1.0)

    assert keys_of(search(constraints=(fine, constraint))) == [key]


@pytest.mark.parametrize(
    ("pruning", "key"),
    [
        (Pruning(rule="hyperband"), "sweep.pruning.max_step"),
        (Pruning(rule="decay_curve"), "sweep.pruning.max_step"),
        (Pruning(rule="median", min_step=5, max_step=4), "sweep.pruning.max_step"),
        (Pruning(rule="asha", min_step=0), "sweep.pruning.min_step"),
        (Pruning(rule="hyperband", min_step=0, max_step=9), "sweep.pruning.min_step"),
    ],
)
def test_problems_pruning_without_what_its_rule_needs_is_refused(pruning: Pruning, key: str) -> None:
    assert keys_of(search(pruning=pruning)) == [key]


@pytest.mark.parametrize(
    "pruning",
    [
        Pruning(rule="median", min_step=0),
        Pruning(rule="asha"),
        Pruning(rule="hyperband", max_step=27),
        Pruning(rule="decay_curve", max_step=1),
    ],
)
def test_problems_pruning_with_what_its_rule_needs_is_fine(pruning: Pruning) -> None:
    assert problems(search(pruning=pruning, objectives=(OTHER,)), OWN) == []


def test_problems_pruning_with_two_objectives_is_refused() -> None:
    some = search(pruning=Pruning(rule="median"), objectives=(OWN, OTHER))

    (mistake,) = problems(some, OWN)

    assert mistake[1] == "sweep.pruning"
    assert "median" in mistake[0] and "2 objectives" in mistake[0]


# algorithms


@pytest.mark.parametrize("algorithm", ["tpe", "gp", "nsga2", "quasi_random", "random", "grid"])
def test_problems_several_objectives_with_any_algorithm_but_one(algorithm: str) -> None:
    stepped = {"lr": double(0, 1, step=0.5)}

    assert problems(search(stepped, algorithm=algorithm, objectives=(OWN, OTHER)), OWN) == []


def test_problems_cma_es_has_one_objective_and_no_constraints() -> None:
    some = search(algorithm="cma_es", objectives=(OWN, OTHER), constraints=(Constraint(metric="x", max=1.0),))

    assert [what for what, _, _ in problems(some, OWN)] == [
        "cma_es has one objective, and there are 2",
        "cma_es does not heed constraints, and there are 1",
    ]


@pytest.mark.parametrize(
    ("parameters", "fine"),
    [
        ({"a": words(1, 2), "b": double(0, 1)}, True),
        ({"a": integer(0, 1)}, True),
        ({"a": numbers(1, 2)}, True),
        ({"a": words(1, 2)}, False),
        ({"a": words(1, 2), "b": double(0, 1, when={"a": (1,)})}, False),
        ({"a": words(1, 2), "b": integer(3, 3)}, False),
    ],
)
def test_problems_cma_es_needs_a_number_that_is_always_there(parameters: dict[str, Parameter], fine: bool) -> None:
    assert keys_of(search(parameters, algorithm="cma_es")) == ([] if fine else ["sweep.algorithm"])


def test_problems_grid_with_an_open_double_is_refused() -> None:
    some = search({"a": double(0, 1), "b": double(0, 1, step=0.1), "c": double(1, 1)}, algorithm="grid")

    assert keys_of(some) == ["sweep.parameters.a.step", "sweep.parameters.c.step"]


def test_problems_grid_with_conditions_counts_what_is_there() -> None:
    """Branches add up, and do not multiply: this one has 10 x 1,000 points, not 1,000 to the power of ten."""
    options = [f"o{n}" for n in range(10)]
    branches = {f"c{n}": integer(0, 999, when={"o": (o,)}) for n, o in enumerate(options)}

    assert problems(search({"o": words(*options), **branches}, algorithm="grid"), OWN) == []


@pytest.mark.parametrize(
    "parameters",
    [
        {"a": integer(1, 2**53)},
        {"a": double(0, 1, step=1e-18)},
        {str(n): integer(0, 9) for n in range(6)},
    ],
)
def test_problems_grid_beyond_all_measure_is_refused_at_once(parameters: dict[str, Parameter]) -> None:
    (mistake,) = problems(search(parameters, algorithm="grid"), OWN)

    assert mistake[:2] == (
        f"algorithm is grid, and the space has more than {MOST_GRID_POINTS} points",
        "sweep.algorithm",
    )


def test_problems_grid_as_large_as_it_may_be_is_fine() -> None:
    assert problems(search({str(n): integer(0, 9) for n in range(5)}, algorithm="grid"), OWN) == []


# start points


def test_problems_start_points_may_be_parts_of_points() -> None:
    space = {"o": words("sgd", "adamw"), "m": double(0, 1, when={"o": ("sgd",)}), "lr": double(0, 1)}
    points = ({}, {"lr": 1}, {"o": "adamw"}, {"o": "sgd", "m": 0.5}, {"o": "sgd", "lr": 0.0})

    assert problems(search(space, start_points=points), OWN) == []


def test_problems_start_points_that_are_none_name_point_and_parameter() -> None:
    space = {"optimizer": words("sgd", "adamw"), "m": double(0, 1, when={"optimizer": ("sgd",)}), "lr": double(0, 1)}
    points = ({"lr": 2}, {"m": 0.5}, {"optimizer": "adamw", "m": 0.5}, {"optimiser": "sgd"})

    found = problems(search(space, start_points=points), OWN)

    assert [(what, key) for what, key, _ in found] == [
        ("start point 0: lr is 2, and must be between 0 and 1", "sweep.start_points.0.lr"),
        (
            "start point 1: m is given, and is there only when optimizer is sgd (not given here)",
            "sweep.start_points.1.m",
        ),
        (
            "start point 2: m is given, and is there only when optimizer is sgd (here adamw)",
            "sweep.start_points.2.m",
        ),
        ("start point 3: optimiser is no parameter of this search", "sweep.start_points.3.optimiser"),
    ]
    assert found[3][2].startswith("did you mean optimizer?")


def test_problems_more_start_points_than_trials_are_refused() -> None:
    some = search(start_points=({"lr": 0.5}, {"lr": 0.6}), trials=1)

    assert keys_of(some) == ["sweep.trials"]
    assert keys_of(search(start_points=({"lr": 0.5}, {"lr": 0.6}), trials=2)) == []


def test_problems_start_points_wait_until_the_space_is_well_said() -> None:
    some = search({"a": words(1, when={"a": (1,)})}, start_points=({"b": 1},), algorithm="grid")

    assert keys_of(some) == ["sweep.parameters.a.when"]


# as a whole


def test_problems_limits_beyond_the_trials_are_fine_for_a_quick_try() -> None:
    """A sweep from a file must run with `sweep.trials=2` on the command line."""
    limits = Limits(max_failed=50, no_progress_trials=40, same_failures=30)

    assert problems(search(trials=2, limits=limits, startup_trials=10), OWN) == []


def test_problems_of_every_part_come_together() -> None:
    some = search(
        {"a": double(2, 1), "b": words("x", "x", when={"z": (1,)})},
        algorithm="cma_es",
        objectives=(OWN, OWN),
        constraints=(Constraint(metric="x"),),
        pruning=Pruning(rule="hyperband"),
    )

    assert keys_of(some) == [
        "sweep.parameters.a.min",
        "sweep.parameters.b.values",
        "sweep.parameters.b.when.z",
        "sweep.objectives.1.metric",
        "sweep.constraints.0",
        "sweep.pruning",
        "sweep.pruning.max_step",
        "sweep.algorithm",
        "sweep.algorithm",
    ]
