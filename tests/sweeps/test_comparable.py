"""Whether two searches may share their trials, and what is said when they may not."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conf.sweep_schema import Constraint, Goal, Limits, Parameter, Pruning, Search
from sweeps.comparable import difference, digest

OWN = Goal(metric="val/loss", goal="minimize")


def parameter(type: Any, **said: Any) -> Parameter:
    return Parameter(type=type, **said)


def search(**said: Any) -> Search:
    parameters = {
        "optimizer": parameter("categorical", values=("sgd", "adamw")),
        "optimizer.lr": parameter("double", min=1e-4, max=0.1, scale="log"),
        "model.width": parameter("discrete", values=(16, 32, 64)),
        "optimizer.momentum": parameter("double", min=0.5, max=0.99, when={"optimizer": ("sgd",)}),
        "model.depth": parameter("integer", min=1, max=4),
    }
    return Search(**{"kind": "search", "algorithm": "tpe", "parameters": parameters, "trials": 10, **said})


def changed(name: str, **said: Any) -> Search:
    """The search with one parameter said differently."""
    parameters = dict(search().parameters)
    parameters[name] = dataclasses.replace(parameters[name], **said)
    return search(parameters=parameters)


def test_digest_is_this_one_for_ever() -> None:
    """Studies are found again by it: it must not change with a version of ours."""
    assert digest(search(), OWN) == "sha256:6a225de82d455a1f8d28616e3c92c065d0ad37796d7a4590e1906286b1c74950"


@pytest.mark.parametrize(
    "other",
    [
        search(trials=500, algorithm="gp", seed=7, startup_trials=3, measurement="last"),
        search(pruning=Pruning(rule="median"), limits=Limits(gpu_hours=3.0, target=0.1)),
        search(constraints=(Constraint(metric="latency", max=3.0),), warm_start=("earlier",), study="mine"),
        search(start_points=({"optimizer": "sgd"},)),
        search(objectives=(OWN,)),
        search(parameters=dict(reversed(search().parameters.items()))),
        changed("optimizer", values=("adamw", "sgd")),
        changed("model.width", values=(16.0, 32, 64.0)),
        changed("model.depth", min=1.0, max=4.0, step=1.0),
    ],
)
def test_digest_what_makes_no_difference_leaves_it(other: Search) -> None:
    assert difference(search(), other, OWN, OWN) == []
    assert digest(search(), OWN) == digest(other, OWN)


@pytest.mark.parametrize(
    ("other", "lines"),
    [
        (changed("optimizer.lr", max=0.01), ["optimizer.lr: max 0.1 -> 0.01"]),
        (
            changed("optimizer.lr", min=1e-5, scale="linear"),
            ["optimizer.lr: min 0.0001 -> 1e-05", "optimizer.lr: scale log -> linear"],
        ),
        (changed("model.depth", step=3.0), ["model.depth: step 1 -> 3"]),
        (changed("model.width", values=(16, 64)), ["model.width: values without [32]"]),
        (
            changed("model.width", values=(16, 48, 64, 128)),
            ["model.width: values without [32]", "model.width: values with [48, 128]"],
        ),
        (changed("optimizer", values=("sgd", "adamw", None)), ["optimizer: values with [null]"]),
        (
            changed("optimizer", values=("sgd", True)),
            ["optimizer: values without [adamw]", "optimizer: values with [true]"],
        ),
        (changed("optimizer.momentum", when={}), ["optimizer.momentum: when optimizer=[sgd] -> always"]),
        (
            changed("optimizer.momentum", when={"optimizer": ("sgd", "adamw"), "model.depth": (1,)}),
            ["optimizer.momentum: when optimizer=[sgd] -> optimizer=[adamw, sgd] and model.depth=[1]"],
        ),
        (
            changed("model.depth", type="discrete", min=None, max=None, values=(1, 2)),
            [
                "model.depth: type integer -> discrete",
                "model.depth: min 1 -> none",
                "model.depth: max 4 -> none",
                "model.depth: step 1 -> none",
                "model.depth: values none -> [1, 2]",
            ],
        ),
    ],
)
def test_difference_of_a_parameter_shows_both_sides(other: Search, lines: list[str]) -> None:
    assert difference(search(), other, OWN, OWN) == lines
    assert digest(search(), OWN) != digest(other, OWN)


def test_difference_parameters_that_came_and_went_are_named() -> None:
    parameters = dict(search().parameters)
    del parameters["model.depth"]
    parameters["model.heads"] = parameter("integer", min=1, max=4)

    lines = difference(search(), search(parameters=parameters), OWN, OWN)

    assert lines == ["model.depth: gone", "model.heads: new"]


def test_difference_a_long_list_shows_what_moved_not_the_list() -> None:
    long = tuple(range(1000))

    old, new = changed("model.width", values=long), changed("model.width", values=(*long[:500], *long[501:]))

    assert difference(old, new, OWN, OWN) == ["model.width: values without [500]"]


def test_difference_objectives_count_in_their_order_and_by_their_goal() -> None:
    accuracy = Goal(metric="val/accuracy", goal="maximize")

    assert difference(search(), search(), OWN, accuracy) == ["objectives: minimize val/loss -> maximize val/accuracy"]
    assert difference(search(), search(objectives=(OWN, accuracy)), OWN, OWN) == [
        "objectives: minimize val/loss -> minimize val/loss, maximize val/accuracy"
    ]
    assert digest(search(objectives=(accuracy, OWN)), OWN) != digest(search(objectives=(OWN, accuracy)), OWN)


RANGES = st.builds(
    parameter,
    st.sampled_from(["integer", "double"]),
    min=st.sampled_from([1, 1.0, 2.5]),
    max=st.sampled_from([3, 4.0]),
    step=st.sampled_from([None, 1, 1.0, 0.5]),
    scale=st.sampled_from(["linear", "log"]),
    when=st.sampled_from([{}, {"b": (1, 2)}, {"b": (2.0, 1)}, {"b": (1,)}]),
)
LISTS = st.builds(
    parameter,
    st.sampled_from(["categorical", "discrete"]),
    values=st.sampled_from([(1, 2), (1.0, 2), (2, 1), ("1", 2), (True, 2), (1, 2, 3)]),
)
SEARCHES = st.dictionaries(st.sampled_from("ab"), RANGES | LISTS, min_size=1).map(lambda p: search(parameters=p))


@given(SEARCHES, SEARCHES, st.sampled_from([OWN, Goal(metric="val/loss", goal="maximize")]))
def test_digest_is_equal_exactly_when_nothing_differs(one: Search, other: Search, goal: Goal) -> None:
    lines = difference(one, other, OWN, goal)

    assert (digest(one, OWN) == digest(other, goal)) == (lines == [])
    assert len(set(lines)) == len(lines)
    assert all(before != after for before, arrow, after in (x.partition(" -> ") for x in lines) if arrow)
