"""Which trials of an earlier job a search can learn from, as what points, and what is said of the others."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conf.sweep_schema import Constraint, Goal, Parameter, Search
from sweeps.axis import axes_of, coordinates_of
from sweeps.earlier import Taken, other_goals, taken
from sweeps.sampler import suggest
from sweeps.space import contains
from sweeps.trials import Report, State, Trial

LOSS = Goal(metric="loss", goal="minimize")
LR = Parameter(type="double", min=1e-4, max=1e-1, scale="log")
SGD_OR_ADAM = Parameter(type="categorical", values=("sgd", "adam"))
MOMENTUM = Parameter(type="double", min=0.5, max=0.99, when={"optimizer": ("sgd",)})


def search_of(parameters: Mapping[str, Parameter], **said: Any) -> Search:
    return Search(**{"kind": "search", "algorithm": "tpe", "parameters": parameters, "trials": 20, **said})


def trial(
    number: int, point: Mapping[str, Any], value: float | None = 1.0, state: State = "SUCCEEDED", **more: Any
) -> Trial:
    metrics = {**({"loss": value} if value is not None else {}), **more}
    reports = (Report(step=1, metrics=metrics),) if metrics else ()
    return Trial(number=number, point=point, state=state, reports=reports, asked=number, ended=number + 1)


def taken_from(parameters: Mapping[str, Parameter], *trials: Trial, **said: Any) -> Taken:
    """With nothing fixed by the earlier job."""
    return taken(search_of(parameters, **said), (LOSS,), trials, {})


def points(found: Taken) -> list[Mapping[str, Any]]:
    return [each.point for each in found.trials]


# --- values -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parameter, inside, outside",
    [
        (Parameter(type="double", min=0.0, max=1.0), [(0.25, 0.25), (1, 1.0), ("5e-1", 0.5)], [1.01, -1, "word", True]),
        (LR, [(1e-4, 1e-4), (0.03, 0.03)], [9e-5, 0.2, math.nan, math.inf]),
        (Parameter(type="double", min=0.1, max=0.9, scale="reverse_log"), [(0.1, 0.1), (0.9, 0.9)], [0.95]),
        (Parameter(type="double", min=0.0, max=0.5, step=0.1), [(0.3, 0.3), (0.1 + 0.2, 0.3)], [0.25]),
        (Parameter(type="integer", min=1, max=8), [(3, 3), (3.0, 3), ("4", 4)], [2.5, 9, None]),
        (Parameter(type="integer", min=8, max=512, scale="log"), [(64, 64), (64.0, 64)], [7]),
        (Parameter(type="integer", min=0, max=30, step=10), [(20, 20)], [15]),
        (Parameter(type="discrete", values=(16, 32, 64)), [(32, 32), (32.0, 32), ("16", 16)], [48, "wide"]),
        (
            Parameter(type="categorical", values=("sgd", True, None, 2)),
            [("sgd", "sgd"), (True, True), (None, None)],
            [1],
        ),
        (Parameter(type="categorical", values=("1.1", "2")), [("1.1", "1.1"), (2, "2")], ["1.10", 3]),
    ],
)
def test_value_inside_is_kept_as_the_new_space_writes_it_and_one_outside_is_left_out(
    parameter: Parameter, inside: list[tuple[Any, Any]], outside: list[Any]
) -> None:
    said = [*(value for value, _ in inside), *outside]

    found = taken_from({"x": parameter}, *(trial(i, {"x": value}) for i, value in enumerate(said)))

    kept = [point["x"] for point in points(found)]
    assert kept == [pytest.approx(wanted) if isinstance(wanted, float) else wanted for _, wanted in inside]
    assert [type(value) for value in kept] == [type(wanted) for _, wanted in inside]
    why = "not among the new values of x" if parameter.values else "out of the new range of x"
    assert found.left_out == {why: len(outside)}


def test_narrower_range_keeps_what_lies_in_it_under_its_own_number() -> None:
    trials = [trial(i, {"lr": 10.0**-i}, value=i) for i in range(1, 6)]

    found = taken_from({"lr": Parameter(type="double", min=1e-3, max=1e-2, scale="log")}, *trials)

    assert [(t.number, t.point, t.reports) for t in found.trials] == [
        (t.number, t.point, t.reports) for t in trials[1:3]
    ]
    assert found.left_out == {"out of the new range of lr": 3}


def test_parameter_that_the_new_space_lacks_is_forgotten() -> None:
    assert points(taken_from({"lr": LR}, trial(0, {"lr": 0.01, "gone": 7}))) == [{"lr": 0.01}]


# --- what the points lack -----------------------------------------------------------------------------


def test_missing_parameter_is_taken_from_what_was_fixed_if_that_fits() -> None:
    search = search_of({"width": Parameter(type="integer", min=4, max=64), "lr": LR})
    trials = [trial(i, {"lr": 0.01}) for i in range(3)]

    found = taken(search, (LOSS,), trials, {0: {"width": 32}, 1: {"width": 100, "other": 1}})

    assert points(found) == [{"width": 32, "lr": 0.01}]
    assert list(points(found)[0]) == ["width", "lr"], "in the order of the search"
    assert found.left_out == {"out of the new range of width": 1, "without a value of width": 1}


def test_own_value_counts_and_not_the_fixed_one() -> None:
    found = taken(search_of({"lr": LR}), (LOSS,), [trial(0, {"lr": 0.01})], {0: {"lr": 0.05}})

    assert points(found) == [{"lr": 0.01}]


@pytest.mark.parametrize(
    "point, wanted",
    [
        ({"optimizer": "sgd", "momentum": 0.9}, {"optimizer": "sgd", "momentum": 0.9}),
        ({"optimizer": "adam"}, {"optimizer": "adam"}),
        ({"optimizer": "adam", "momentum": 7}, {"optimizer": "adam"}),
        ({"optimizer": "sgd"}, "without a value of momentum"),
        ({"optimizer": "sgd", "momentum": 7}, "out of the new range of momentum"),
        ({"optimizer": "lion"}, "not among the new values of optimizer"),
        ({"momentum": 0.9}, "without a value of optimizer"),
    ],
)
def test_conditional_parameter_is_wanted_only_where_it_is_there(point: Mapping[str, Any], wanted: Any) -> None:
    found = taken_from({"momentum": MOMENTUM, "optimizer": SGD_OR_ADAM}, trial(0, point))

    assert (points(found) or list(found.left_out)) == [wanted]


def test_conditional_parameter_that_is_always_there_now_is_taken_from_what_was_fixed() -> None:
    always = {"optimizer": SGD_OR_ADAM, "momentum": Parameter(type="double", min=0.0, max=0.99)}
    trials = [trial(0, {"optimizer": "sgd", "momentum": 0.9}), trial(1, {"optimizer": "adam"})]

    found = taken(search_of(always), (LOSS,), trials, {1: {"momentum": 0.0}})

    assert [point["momentum"] for point in points(found)] == [0.9, 0.0]


# --- which trials -------------------------------------------------------------------------------------


def test_only_trials_that_ended_with_a_value_count() -> None:
    states: list[State] = ["FAILED", "FAILED", "LOST", "RUNNING", "TIMEOUT", "CANCELLED", "INFEASIBLE"]
    good = [trial(0, {"lr": 0.01}), trial(1, {"lr": 0.02}, state="PRUNED")]
    bad = [trial(2, {"lr": 0.01}, value=None, state="PRUNED"), trial(3, {"lr": 0.01}, value=math.nan)]
    others = [trial(i, {"lr": 0.01}, state=state) for i, state in enumerate(states, 4)]

    found = taken_from({"lr": LR}, *good, *bad, *others)

    assert found.trials == tuple(good)
    assert found.left_out == {
        "failed": 2, "without a value of loss": 2, "lost": 1, "not ended": 1, "cut off by the time limit": 1,
        "cancelled": 1, "infeasible": 1,
    }  # fmt: skip
    assert list(found.left_out.values()) == sorted(found.left_out.values(), reverse=True)


def test_trial_has_one_reason_and_how_it_ended_comes_first() -> None:
    assert taken_from({"lr": LR}, trial(0, {}, state="FAILED")).left_out == {"failed": 1}


def test_succeeded_trial_must_have_said_the_metric_of_a_new_constraint() -> None:
    """Without it, it would count as one that breaks the constraint, and scare the search away from a good point."""
    limit = {"constraints": (Constraint(metric="latency", max=3.0),)}
    trials = [
        trial(0, {"lr": 0.01}, latency=1.0),
        trial(1, {"lr": 0.02}, latency=9.0),
        trial(2, {"lr": 0.03}),
        trial(3, {"lr": 0.04}, state="PRUNED"),
    ]

    found = taken_from({"lr": LR}, *trials, **limit)

    assert [t.number for t in found.trials] == [0, 1, 3]
    assert found.left_out == {"without a value of latency": 1}


def test_each_of_several_goals_must_have_a_value() -> None:
    goals = (LOSS, Goal(metric="size", goal="minimize"))
    trials = [trial(0, {"lr": 0.01}, size=3.0), trial(1, {"lr": 0.01})]

    found = taken(search_of({"lr": LR}, objectives=goals), goals, trials, {})

    assert ([t.number for t in found.trials], found.left_out) == ([0], {"without a value of loss, size": 1})


@pytest.mark.parametrize(
    "wanted, other",
    [
        ((LOSS,), []),
        ((Goal(metric="loss", goal="maximize"),), ["loss"]),
        ((Goal(metric="accuracy", goal="maximize"), LOSS), ["accuracy"]),
    ],
)
def test_goal_is_another_by_its_metric_or_its_direction(wanted: tuple[Goal, ...], other: list[str]) -> None:
    earlier = (LOSS, Goal(metric="size", goal="minimize"))

    assert [goal.metric for goal in other_goals(earlier, wanted)] == other


# --- for all spaces -----------------------------------------------------------------------------------

NUMBERS = st.one_of(st.integers(-3, 40), st.floats(-3, 40), st.sampled_from(["7", "1e-1", "x", None, True, math.nan]))


@st.composite
def parameters(draw: st.DrawFn) -> Parameter:
    kind = draw(st.sampled_from(["double", "stepped", "log", "reverse_log", "integer", "discrete", "categorical"]))
    low = draw(st.integers(1, 5))
    if kind == "discrete":
        return Parameter(type="discrete", values=tuple(sorted(draw(st.sets(st.integers(0, 9), min_size=1)))))
    if kind == "categorical":
        options = [1, 2.5, "7", "x", None, True]
        return Parameter(type="categorical", values=tuple(draw(st.permutations(options)))[: draw(st.integers(1, 6))])
    if kind in ("integer", "stepped"):
        step = draw(st.integers(1, 3))
        types: Any = {"integer": "integer", "stepped": "double"}
        return Parameter(type=types[kind], min=low, max=low + step * draw(st.integers(0, 9)), step=step)
    scale: Any = kind if kind != "double" else "linear"
    return Parameter(type="double", min=low, max=low + draw(st.floats(0.01, 30)), scale=scale)


@st.composite
def spaces(draw: st.DrawFn) -> Search:
    """Up to four parameters, of which some are there only at some values of an earlier one."""
    found: dict[str, Parameter] = {}
    for name in "abcd"[: draw(st.integers(1, 4))]:
        parents = [other for other, p in found.items() if p.values]
        when = {}
        if parents and draw(st.booleans()):
            parent = draw(st.sampled_from(parents))
            when = {parent: (draw(st.sampled_from(found[parent].values)),)}
        found[name] = Parameter(**{**vars(draw(parameters())), "when": when})
    return search_of({name: found[name] for name in draw(st.permutations(list(found)))})


@settings(max_examples=300, deadline=None)
@given(spaces(), st.lists(st.dictionaries(st.sampled_from("abcdz"), NUMBERS), min_size=1, max_size=8), st.data())
def test_every_point_is_one_of_the_new_space_and_no_trial_is_lost(
    search: Search, said: list[dict[str, Any]], data: st.DataObject
) -> None:
    fixed = {0: data.draw(st.dictionaries(st.sampled_from("abcd"), NUMBERS))}

    found = taken(search, (LOSS,), [trial(i, point) for i, point in enumerate(said)], fixed)

    assert len(found.trials) + sum(found.left_out.values()) == len(said)
    axes = axes_of(search)
    for each in found.trials:
        assert contains(search, each.point) == []
        assert coordinates_of(axes, each.point) is not None, "or the sampler would pass it over"


@settings(max_examples=100, deadline=None)
@given(spaces(), st.integers(0, 50))
def test_trials_of_the_same_space_are_all_taken_as_they_are(search: Search, number: int) -> None:
    point = suggest(Search(**{**vars(search), "algorithm": "random"}), (LOSS,), [], number)

    assert points(taken(search, (LOSS,), [trial(number, point)], {})) == [point]


# --- what it is for -----------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm, asks", [("tpe", 30), ("cma_es", 30), ("gp", 3)])
def test_search_begins_near_the_best_of_a_wider_one(algorithm: str, asks: int) -> None:
    """Without a trial of its own, where it would else take points by chance."""
    space = {"x": Parameter(type="double", min=0, max=1), "y": Parameter(type="double", min=0, max=1)}
    wider = [{"x": i / 10 - 0.5, "y": j / 10 - 0.5} for i in range(21) for j in range(21)]
    trials = [trial(i, p, value=math.dist((p["x"], p["y"]), (0.8, 0.2)) ** 2) for i, p in enumerate(wider)]
    search = search_of(space, algorithm=algorithm, startup_trials=10)
    kept = taken(search, (LOSS,), trials, {})

    warm = [suggest(search, (LOSS,), [], number, kept.trials) for number in range(asks)]
    cold = [suggest(search, (LOSS,), [], number) for number in range(30)]

    assert 100 <= len(kept.trials) <= 121
    near, far = (statistics.median(math.dist((p["x"], p["y"]), (0.8, 0.2)) for p in each) for each in (warm, cold))
    assert near < 0.18 < far
