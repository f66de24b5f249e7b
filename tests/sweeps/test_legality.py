"""What is refused in a search before anything is queued; each with both values, its key, and what to do."""

from __future__ import annotations

import pytest

from conf.sweep_schema import Constraint, Goal, Limits, Parameter, Pruning
from sweeps.legality import MOST_GRID_POINTS, problems
from tests.sweeps.kinds import double, integer, numbers, words
from tests.sweeps.refused import OTHER, OWN, keys_of, search


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
