"""How good the points are that are learnt: as Optuna's own, and where goals, constraints and failures say."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from conf.sweep_schema import Constraint, Goal, Parameter
from sweeps.sampler import suggest
from sweeps.trials import State
from tests.sweeps.suggested import CATS, LOSS, PLANE, run, search_of, trial

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
