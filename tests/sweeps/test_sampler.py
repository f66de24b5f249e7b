"""Points for trials: which, how spread, and that they depend on nothing but the arguments."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conf.sweep_schema import Parameter
from sweeps.axis import axes_of
from sweeps.sampler import Exhausted, NotInstalled, Suggester, suggest
from sweeps.space import contains
from sweeps.trials import Trial
from sweeps.values import canonical
from tests.sweeps.suggested import ALGORITHMS, CATS, EVERY_KIND, LOSS, NESTED, PLANE, bowl, run, search_of, trial


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("parameters", [EVERY_KIND, NESTED], ids=["kinds", "nested"])
def test_suggest_each_algorithm_on_each_kind_gives_points_of_the_space(
    algorithm: str, parameters: Mapping[str, Parameter]
) -> None:
    search = search_of(algorithm, parameters, startup_trials=6)

    trials = run(search, bowl, 12 if algorithm == "gp" else 16, running=2)

    for each in trials:
        assert contains(search, each.point) == []
        assert all(type(v) in (int, float, str, bool, type(None)) for v in each.point.values())
        assert list(each.point) == [name for name in parameters if name in each.point]
        assert json.loads(json.dumps(each.point)) == each.point


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_suggest_same_arguments_in_any_order_give_the_same_point(algorithm: str) -> None:
    search = search_of(algorithm, NESTED, startup_trials=5)
    trials = run(search, bowl, 11, running=2)
    shuffled = list(trials)
    random.Random(3).shuffle(shuffled)

    points = [suggest(search, (LOSS,), each, 11) for each in (trials, shuffled, trials)]

    assert points[0] == points[1] == points[2]


def test_suggest_own_earlier_record_does_not_matter() -> None:
    search = search_of("tpe", PLANE, startup_trials=3)
    trials = run(search, bowl, 8)
    asked_before = Trial(number=8, point={"x": 1.0, "y": 1.0}, state="RUNNING", asked=8)

    assert suggest(search, (LOSS,), [*trials, asked_before], 8) == suggest(search, (LOSS,), trials, 8)


@pytest.mark.parametrize("algorithm", ["tpe", "nsga2"])
def test_suggest_does_not_depend_on_the_process(algorithm: str) -> None:
    program = (
        "import runpy, json; from sweeps.sampler import suggest\n"
        f"t = runpy.run_path({__file__!r})\n"
        f"s = t['search_of']({algorithm!r}, t['NESTED'], startup_trials=4)\n"
        "r = t['run'](s, t['bowl'], 9); print(json.dumps([x.point for x in r]))"
    )

    said = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]

    assert said[0] == said[1] != ""


def test_suggest_other_seed_or_number_gives_another_point() -> None:
    for algorithm in ("tpe", "random", "quasi_random"):
        points = {
            canonical(suggest(search_of(algorithm, PLANE, seed=seed), (LOSS,), [], number))
            for seed in (1, 2)
            for number in range(3)
        }
        assert len(points) == 6


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_suggest_with_eight_running_keeps_apart(algorithm: str) -> None:
    search = search_of(algorithm, {"width": Parameter(type="integer", min=1, max=30), "o": CATS}, startup_trials=4)
    trials = run(search, bowl, 6)
    for number in range(6, 14):
        trials.append(trial(number, suggest(search, (LOSS,), trials, number), "RUNNING"))

    assert len({canonical(each.point) for each in trials}) == 14


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_suggest_finite_space_comes_to_every_point_before_any_twice(algorithm: str) -> None:
    search = search_of(algorithm, {"o": CATS, "d": Parameter(type="discrete", values=(1, 2))}, startup_trials=2)

    trials = run(search, lambda point: {"loss": point["d"] + (point["o"] == "lion")}, 7, running=1)

    assert len({canonical(each.point) for each in trials[:6]}) == 6
    assert contains(search, trials[6].point) == []  # all are tried: one comes again


def test_suggest_start_points_come_first_and_are_completed() -> None:
    starts = ({"lr": 0.5, "optimizer": "sgd"}, {"optimizer": "adam", "amsgrad": False})
    search = search_of("tpe", NESTED, start_points=starts)

    first, second, third = (suggest(search, (LOSS,), [], number) for number in range(3))

    assert first == {"optimizer": "sgd", "lr": 0.5}
    assert second["optimizer"] == "adam" and second["amsgrad"] is False
    assert second.keys() == {"optimizer", "amsgrad", "beta", "lr"}
    assert contains(search, third) == []


def test_suggest_start_point_of_an_integer_is_an_int() -> None:
    search = search_of("random", {"n": Parameter(type="integer", min=1, max=9)}, start_points=({"n": 4.0},))

    assert type(suggest(search, (LOSS,), [], 0)["n"]) is int


def test_suggest_grid_gives_each_point_once_and_then_is_exhausted() -> None:
    parameters = {"o": CATS, "beta": Parameter(type="discrete", values=(0.1, 0.2), when={"o": ("adam",)})}
    search = search_of("grid", parameters, start_points=({"o": "lion"},))

    points = [suggest(search, (LOSS,), [], number) for number in range(4)]

    assert points[0] == {"o": "lion"}
    assert points[1:] == [{"o": "sgd"}, {"o": "adam", "beta": 0.1}, {"o": "adam", "beta": 0.2}]
    with pytest.raises(Exhausted):
        suggest(search, (LOSS,), [], 4)


@pytest.mark.parametrize(("algorithm", "package"), [("gp", "torch"), ("cma_es", "cmaes"), ("tpe", "optuna")])
def test_suggest_without_its_package_names_it(algorithm: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)

    with pytest.raises(NotInstalled, match=package):
        suggest(search_of(algorithm, PLANE), (LOSS,), [], 0)


def test_importing_what_a_node_uses_loads_neither_optuna_nor_numpy() -> None:
    program = (
        "import sys, sweeps.sampler, sweeps.pruning, sweeps.stopping, sweeps.best, sweeps.rebuilt, sweeps.learning\n"
        "print([m for m in ('optuna', 'numpy', 'torch', 'cmaes') if m in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


@given(st.floats(0, 1, exclude_max=True))
@settings(deadline=None, max_examples=60)
def test_axis_share_and_back_finds_the_same_value(share: float) -> None:
    for name, axis in axes_of(search_of("random", EVERY_KIND)).items():
        value = axis.value_below(share)
        coordinate = axis.coordinate_of(value)
        assert coordinate is not None
        again = axis.value_below(axis.share_of(coordinate))
        assert again == pytest.approx(value) if isinstance(value, float) else again == value, name


@pytest.mark.parametrize("algorithm", ["random", "quasi_random", "tpe"])
def test_suggest_reverse_log_is_dense_near_its_max(algorithm: str) -> None:
    search = search_of(algorithm, {"m": Parameter(type="double", min=1, max=1000, scale="reverse_log")})

    values = sorted(suggest(search, (LOSS,), [], number)["m"] for number in range(400))

    # 1001 - m is log-uniform from 1 to 1000: its quantiles are powers of ten.
    for share, expected in ((1 / 3, 1001 - 100), (1 / 2, 1001 - 10**1.5), (2 / 3, 1001 - 10)):
        below = sum(value < expected for value in values) / len(values)
        assert below == pytest.approx(share, abs=0.07)


def test_suggest_whole_numbers_and_categories_are_even_at_the_ends() -> None:
    parameters = {"n": Parameter(type="integer", min=1, max=4), "o": CATS}
    points = [suggest(search_of("random", parameters), (LOSS,), [], number) for number in range(1200)]

    for values, each in (([1, 2, 3, 4], "n"), (["sgd", "adam", "lion"], "o")):
        shares = [sum(point[each] == value for point in points) / len(points) for value in values]
        assert shares == pytest.approx([1 / len(values)] * len(values), abs=0.05)


def test_suggest_quasi_random_fills_the_plane_more_evenly_than_chance() -> None:
    unit = {name: Parameter(type="double", min=0, max=1) for name in "abc"}

    def empty_cells(algorithm: str) -> int:
        points = [suggest(search_of(algorithm, unit), (LOSS,), [], number) for number in range(64)]
        return 64 - len({tuple(int(v * 4) for v in point.values()) for point in points})

    assert empty_cells("quasi_random") < 20 < 23 < empty_cells("random")  # chance leaves 64/e empty


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_points_for_several_trials_at_once_are_those_of_asking_for_each_in_turn(algorithm: str) -> None:
    search = search_of(algorithm, {**PLANE, "word": CATS}, startup_trials=5)
    ended = run(search, lambda point: {"loss": (point["x"] - 1) ** 2 + point["y"]}, 12)
    turns = list(ended)
    for number in range(12, 17):
        point = suggest(search, (LOSS,), turns, number)
        turns.append(Trial(number=number, point=point, state="RUNNING", asked=number))

    at_once = Suggester(search, (LOSS,), ended)

    assert [at_once.next(number, asked=number) for number in range(12, 17)] == [t.point for t in turns[12:]]
