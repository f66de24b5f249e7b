"""Points for trials: which, how spread, how good, and that they depend on nothing but the arguments."""

from __future__ import annotations

import json
import math
import os
import random
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conf.sweep_schema import Constraint, Goal, Parameter, Search
from sweeps.axis import axes_of
from sweeps.learning import MOST_LEARNT
from sweeps.sampler import Exhausted, NotInstalled, Suggester, suggest
from sweeps.space import contains
from sweeps.told import generations, lessons, most_useful
from sweeps.trials import Report, State, Trial
from sweeps.values import canonical

LOSS = Goal(metric="loss", goal="minimize")
ALGORITHMS = ("tpe", "gp", "cma_es", "nsga2", "quasi_random", "random")
CATS = Parameter(type="categorical", values=("sgd", "adam", "lion"))
EVERY_KIND = {
    "linear": Parameter(type="double", min=-1, max=1),
    "log": Parameter(type="double", min=1e-5, max=1e-1, scale="log"),
    "reverse": Parameter(type="double", min=0.001, max=0.999, scale="reverse_log"),
    "stepped": Parameter(type="double", min=0, max=0.5, step=0.1),
    "whole": Parameter(type="integer", min=1, max=12),
    "whole_log": Parameter(type="integer", min=8, max=1024, scale="log"),
    "whole_reverse": Parameter(type="integer", min=1, max=100, scale="reverse_log"),
    "whole_stepped": Parameter(type="integer", min=0, max=30, step=10),
    "listed": Parameter(type="discrete", values=(16, 32, 64.5, 128)),
    "word": CATS,
    "mixed": Parameter(type="categorical", values=(1, True, "one", None, 1.5)),
    "constant": Parameter(type="double", min=0.3, max=0.3),
}
NESTED = {
    "optimizer": CATS,
    "beta": Parameter(type="double", min=0.5, max=0.99, when={"optimizer": ("adam", "lion")}),
    "amsgrad": Parameter(type="categorical", values=(True, False), when={"optimizer": ("adam",)}),
    "eps": Parameter(type="double", min=1e-9, max=1e-3, scale="log", when={"amsgrad": (True,)}),
    "lr": Parameter(type="double", min=1e-4, max=1, scale="log"),
}
PLANE = {"x": Parameter(type="double", min=-5, max=10), "y": Parameter(type="double", min=0, max=15)}


def search_of(algorithm: str, parameters: Mapping[str, Parameter], **more: Any) -> Search:
    return Search(kind="search", algorithm=algorithm, parameters=parameters, trials=1000, **more)  # type: ignore[arg-type]


def trial(number: int, point: Mapping[str, Any], state: State = "SUCCEEDED", *values: float, **more: Any) -> Trial:
    reports = tuple(Report(step=10 * i, metrics={"loss": v}) for i, v in enumerate(values))
    times = {"asked": number, "ended": None if state == "RUNNING" else number + 0.5} | more
    return Trial(number=number, point=point, state=state, reports=reports, **times)


def run(
    search: Search, measure: Callable[[Mapping[str, Any]], Mapping[str, float] | None], many: int, running: int = 0
) -> list[Trial]:
    """Trials in a row, of which `running` are always still on their way; None is an infeasible point."""
    trials: dict[int, Trial] = {}
    goals = search.objectives or (LOSS,)
    for number in range(many):
        point = suggest(search, goals, list(trials.values()), number)
        trials[number] = Trial(number=number, point=point, state="RUNNING", asked=number)
        if (done := number - running) >= 0:
            metrics = measure(trials[done].point)
            reports = (Report(step=1, metrics=metrics),) if metrics is not None else ()
            state: State = "INFEASIBLE" if metrics is None else "SUCCEEDED"
            own = {"number": done, "point": trials[done].point, "asked": done, "ended": number + 0.5}
            trials[done] = Trial(state=state, reports=reports, **own)
    return list(trials.values())


def bowl(point: Mapping[str, Any]) -> dict[str, float]:
    """Something to learn on any space: its parameters' shares of their axes, and their kinds, count."""
    numbers = [v for v in point.values() if isinstance(v, (int, float)) and not isinstance(v, bool)]
    return {"loss": sum(math.tanh(v / 10) ** 2 for v in numbers) + 0.1 * len(point)}


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


BRANIN_BEST = 0.397887
HARTMANN = {f"x{i}": Parameter(type="double", min=0, max=1) for i in range(6)}
HARTMANN_BEST = -3.32237
A = ((10, 3, 17, 3.5, 1.7, 8), (0.05, 10, 17, 0.1, 8, 14), (3, 3.5, 1.7, 10, 17, 8), (17, 8, 0.05, 10, 0.1, 14))
P = (
    (0.1312, 0.1696, 0.5569, 0.0124, 0.8283, 0.5886),
    (0.2329, 0.4135, 0.8307, 0.3736, 0.1004, 0.9991),
    (0.2348, 0.1451, 0.3522, 0.2883, 0.3047, 0.6650),
    (0.4047, 0.8828, 0.8732, 0.5743, 0.1091, 0.0381),
)


def branin(point: Mapping[str, Any]) -> dict[str, float]:
    x, y = point["x"], point["y"]
    valley = (y - 5.1 / (4 * math.pi**2) * x**2 + 5 / math.pi * x - 6) ** 2
    return {"loss": valley + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x) + 10}


def hartmann(point: Mapping[str, Any]) -> dict[str, float]:
    x = [point[f"x{i}"] for i in range(6)]
    wells = (math.exp(-sum(a * (v - p) ** 2 for a, v, p in zip(A[i], x, P[i], strict=True))) for i in range(4))
    return {"loss": -sum(c * well for c, well in zip((1, 1.2, 3, 3.2), wells, strict=True))}


SEEDS = range(8)


def found_here(
    algorithm: str, space: Mapping[str, Parameter], measure: Callable[[Mapping[str, Any]], dict[str, float]], many: int
) -> list[float]:
    searches = [search_of(algorithm, space, seed=seed) for seed in SEEDS]
    return [min(measure(each.point)["loss"] for each in run(search, measure, many)) for search in searches]


def found_by_optuna(
    space: Mapping[str, Parameter], measure: Callable[[Mapping[str, Any]], dict[str, float]], many: int
) -> list[float]:
    import optuna

    from sweeps.rebuilt import quiet

    def objective(asked: optuna.Trial) -> float:
        point = {name: asked.suggest_float(name, axis.min or 0, axis.max or 0) for name, axis in space.items()}
        return measure(point)["loss"]

    found = []
    with quiet():
        for seed in SEEDS:
            sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)
            study = optuna.create_study(sampler=sampler)
            study.optimize(objective, n_trials=many)
            found.append(study.best_value)
    return found


@pytest.mark.parametrize(
    ("space", "measure", "best", "many"),
    [(PLANE, branin, BRANIN_BEST, 45), (HARTMANN, hartmann, HARTMANN_BEST, 60)],
    ids=["branin", "hartmann6"],
)
def test_tpe_is_as_good_as_optuna_used_directly(
    space: Mapping[str, Parameter], measure: Callable[[Mapping[str, Any]], dict[str, float]], best: float, many: int
) -> None:
    here, direct = found_here("tpe", space, measure, many), found_by_optuna(space, measure, many)
    chance = found_here("random", space, measure, many)

    # Of 8 against 8 alike, the upper half of one side lies above all of the other once in 26.
    # (With 160 seeds, medians here and direct: Branin 0.16 and 0.23, Hartmann-6 0.31 and 0.29.)
    assert statistics.median(here) <= max(direct)
    assert statistics.median(here) - best < 0.6 * (statistics.median(chance) - best)


@pytest.mark.parametrize("algorithm", ["cma_es", "nsga2", "gp"])
def test_learning_algorithms_beat_chance(algorithm: str) -> None:
    search = search_of(algorithm, HARTMANN, startup_trials=8)
    many = 26 if algorithm == "gp" else 90
    late = [hartmann(each.point)["loss"] for each in run(search, hartmann, many)][-15:]
    chance = [hartmann(suggest(search_of("random", HARTMANN), (LOSS,), [], k))["loss"] for k in range(200)]

    assert statistics.median(late) < statistics.quantiles(chance, n=20)[0]


@pytest.mark.parametrize("algorithm", ["tpe", "gp"])
def test_learning_algorithms_stay_away_from_infeasible_points(algorithm: str) -> None:
    search = search_of(algorithm, {"x": Parameter(type="double", min=0, max=1)}, startup_trials=8)

    def proposed_below_half(state: State) -> int:
        """Losses fall towards 0.5, where the trials below begin that ended in `state`."""
        places = [(k + 0.5) / 20 for k in range(20)]
        trials = [
            trial(k, {"x": x}, state) if x < 0.5 else trial(k, {"x": x}, "SUCCEEDED", x) for k, x in enumerate(places)
        ]
        return sum(suggest(search, (LOSS,), trials, number)["x"] < 0.5 for number in range(20, 40))

    assert proposed_below_half("INFEASIBLE") <= 6
    assert proposed_below_half("LOST") >= 14  # says nothing of the point: there the search goes on


def test_tpe_stays_away_from_where_trials_diverged() -> None:
    search = search_of("tpe", {"x": Parameter(type="double", min=0, max=1)}, startup_trials=8)
    places = [(k + 0.5) / 20 for k in range(20)]
    trials = [
        trial(k, {"x": x}, "PRUNED", 0.1, math.nan) if x < 0.5 else trial(k, {"x": x}, "SUCCEEDED", x)
        for k, x in enumerate(places)
    ]

    proposed = [suggest(search, (LOSS,), trials, number)["x"] for number in range(20, 40)]

    assert sum(x < 0.5 for x in proposed) <= 3


@pytest.mark.parametrize("algorithm", ["tpe", "gp", "nsga2"])
def test_learning_algorithms_keep_a_constraint_in_the_end(algorithm: str) -> None:
    unit = {name: Parameter(type="double", min=0, max=1) for name in ("x", "y")}
    many, start = (23, 8) if algorithm == "gp" else (90, 10)
    search = search_of(algorithm, unit, startup_trials=start, constraints=(Constraint(metric="memory", max=1.0),))

    def measure(point: Mapping[str, Any]) -> dict[str, float]:
        return {"loss": -point["x"] - point["y"], "memory": 2 * point["x"] + point["y"]}  # best at (0, 1)

    late = run(search, measure, many)[-15:]

    # Three quarters of the plane break it, among them all with the lower losses; the best point lies on the edge.
    assert sum(measure(each.point)["memory"] <= 1.05 for each in late) >= 9
    assert statistics.median(measure(each.point)["loss"] for each in late) < -0.6


@pytest.mark.parametrize("algorithm", ["tpe", "nsga2", "gp"])
def test_several_goals_are_all_pursued(algorithm: str) -> None:
    goals = (LOSS, Goal(metric="score", goal="maximize"))
    unit = {name: Parameter(type="double", min=0, max=1) for name in "xyz"}
    search = search_of(algorithm, unit, objectives=goals, startup_trials=8)

    def measure(point: Mapping[str, Any]) -> dict[str, float]:  # the Pareto set is z = 0
        return {"loss": point["x"] ** 2 + point["z"], "score": -((point["x"] - 1) ** 2) - point["z"]}

    many = 20 if algorithm == "gp" else 70
    late = run(search, measure, many)[-12:]

    assert statistics.median(each.point["z"] for each in late) < 0.3


def test_tpe_learns_from_earlier_searches() -> None:
    search = search_of("tpe", {"x": Parameter(type="double", min=0, max=1)}, startup_trials=10)
    earlier = [trial(k, {"x": k / 40}, "SUCCEEDED", abs(k / 40 - 0.7)) for k in range(40)]
    foreign = trial(99, {"x": 5.0, "unknown": 1}, "SUCCEEDED", -100.0)

    warm = [suggest(search, (LOSS,), [], number, [*earlier, foreign])["x"] for number in range(10)]

    assert statistics.median(abs(x - 0.7) for x in warm) < 0.1


def test_cma_es_with_words_and_conditions_lets_tpe_choose_them() -> None:
    parameters = {**PLANE, "o": CATS, "b": Parameter(type="double", min=0, max=1, when={"o": ("adam",)})}
    search = search_of("cma_es", parameters, startup_trials=10)

    late = run(search, lambda p: {"loss": branin(p)["loss"] + 50 * (p["o"] != "adam")}, 60)[-12:]

    assert sum(each.point["o"] == "adam" for each in late) >= 8


def test_lessons_of_each_state() -> None:
    search = search_of("tpe", {"x": Parameter(type="double", min=0, max=1)})
    at = [{"x": k / 10} for k in range(10)]
    trials = [
        trial(0, at[0], "RUNNING", 0.1),
        trial(1, at[1], "SUCCEEDED", 3.0, 2.0, 2.5),
        trial(2, at[2], "TIMEOUT", 4.0),
        trial(3, at[3], "TIMEOUT"),
        trial(4, at[4], "PRUNED", 7.0, 8.0),
        trial(5, at[5], "FAILED", 1.0),
        trial(6, at[6], "LOST", 1.0),
        trial(7, at[7], "CANCELLED", 1.0),
        trial(8, at[8], "INFEASIBLE"),
        trial(9, at[9], "SUCCEEDED"),
    ]

    told = {lesson.number: lesson for lesson in lessons(search, (LOSS,), trials, [])}

    assert sorted(told) == [0, 1, 2, 4, 8]
    assert told[0].state == "running" and told[0].values == ()
    assert told[1].values == (2.0,) and told[1].fault == 0
    assert told[2].values == (4.0,) and told[2].state == "complete"
    assert told[4].state == "pruned" and told[4].reports == 2
    assert told[8].values == (7.0,) and told[8].fault > 0  # the worst value that any trial has


def test_lessons_missing_constraint_metric_counts_as_broken_once_a_trial_ended() -> None:
    search = search_of("tpe", PLANE, constraints=(Constraint(metric="memory", max=1.0),))
    kept = Trial(
        number=0,
        point={"x": 1.0, "y": 1.0},
        state="SUCCEEDED",
        asked=0,
        ended=1,
        reports=(Report(step=1, metrics={"loss": 1.0, "memory": 0.5}),),
    )
    silent = trial(1, {"x": 2.0, "y": 1.0}, "SUCCEEDED", 0.5)
    stopped = trial(2, {"x": 3.0, "y": 1.0}, "PRUNED", 0.5)

    told = lessons(search, (LOSS,), [kept, silent, stopped], [])

    assert [lesson.fault > 0 for lesson in told] == [False, True, False]
    assert len({len(lesson.broken) for lesson in told}) == 1  # gp wants as many of each


def test_most_useful_keeps_best_newest_and_running() -> None:
    search = search_of("tpe", {"x": Parameter(type="double", min=0, max=1)})
    trials = [trial(k, {"x": 0.5}, "SUCCEEDED", abs(k - 20.0)) for k in range(100)]
    told = lessons(search, (LOSS,), [*trials, trial(100, {"x": 0.1}, "RUNNING")], [])

    kept = [lesson.number for lesson in most_useful((LOSS,), told, 10)]

    assert kept == [18, 19, 20, 21, 22, 95, 96, 97, 98, 99, 100]
    assert min(MOST_LEARNT.values()) > 100  # so none of the tests above is cut


def test_generations_are_those_that_optuna_would_have_kept() -> None:
    import optuna

    from sweeps.rebuilt import quiet

    search = search_of("nsga2", {"x": Parameter(type="double", min=0, max=1)})
    chance = random.Random(5)
    with quiet():
        study = optuna.create_study(sampler=optuna.samplers.NSGAIISampler(population_size=4, seed=1))
        running: dict[int, tuple[optuna.Trial, float]] = {}
        record: dict[int, Trial] = {}
        for now in range(60):
            if len(running) == 3:
                number = chance.choice(list(running))
                asked, x = running.pop(number)
                study.tell(asked, x)
                at = record[number].asked
                record[number] = trial(number, {"x": x}, "SUCCEEDED", x, asked=at, ended=now + 0.5)
            fresh = study.ask()
            running[fresh.number] = (fresh, fresh.suggest_float("x", 0, 1))
            record[fresh.number] = trial(fresh.number, {"x": 0.5}, "RUNNING", asked=now + 0.75)

    key = "NSGAIISampler:generation"
    expected = {t.number: t.system_attrs[key] for t in study.trials}
    assert generations(lessons(search, (LOSS,), list(record.values()), []), 4)[0] == expected
    assert max(expected.values()) >= 10


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
