"""Winners, Pareto sets, importances and idle slots."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conf.sweep_schema import Constraint, Goal, Parameter, Search
from sweeps.best import best, importances, pareto, slots
from sweeps.rebuilt import study_of
from sweeps.trials import Report, State, Trial

LOSS = Goal(metric="loss", goal="minimize")
SCORE = Goal(metric="score", goal="maximize")
SPACE = {
    "lr": Parameter(type="double", min=1e-5, max=1e-1, scale="log"),
    "optimizer": Parameter(type="categorical", values=("sgd", "adam")),
    "beta": Parameter(type="double", min=0, max=1, when={"optimizer": ("adam",)}),
    "layers": Parameter(type="integer", min=1, max=8),
}


def search_of(**more: Any) -> Search:
    return Search(kind="search", algorithm="random", trials=100, **({"parameters": SPACE} | more))


def trial(number: int, state: State = "SUCCEEDED", *losses: float, **more: Any) -> Trial:
    reports = tuple(Report(step=s, metrics={"loss": v, "score": -v}) for s, v in enumerate(losses, 1))
    return Trial(**({"number": number, "point": {}, "state": state, "reports": reports, "asked": number} | more))


def number_of(found: Trial | None) -> int | None:
    return None if found is None else found.number


def test_best_is_measured_as_the_search_says() -> None:
    trials = [trial(0, "SUCCEEDED", 0.1, 0.9), trial(1, "SUCCEEDED", 0.5, 0.4)]

    assert number_of(best(search_of(measurement="best"), (LOSS,), trials)) == 0
    assert number_of(best(search_of(measurement="last"), (LOSS,), trials)) == 1
    assert number_of(best(search_of(), (SCORE,), trials)) == 0


def test_best_of_equals_is_the_first_asked_for() -> None:
    trials = [trial(3, "SUCCEEDED", 1.0), trial(1, "SUCCEEDED", 1.0), trial(2, "SUCCEEDED", 2.0)]

    assert number_of(best(search_of(), (LOSS,), trials)) == 1


def test_best_prefers_what_succeeded_over_better_values_of_what_was_cut_short() -> None:
    cut = [trial(0, "PRUNED", 0.1), trial(1, "TIMEOUT", 0.2)]

    assert number_of(best(search_of(), (LOSS,), [*cut, trial(2, "SUCCEEDED", 0.9)])) == 2
    assert number_of(best(search_of(), (LOSS,), cut)) == 0
    assert number_of(best(search_of(), (LOSS,), [*cut, trial(2, "SUCCEEDED")])) == 0  # it never said a value


@pytest.mark.parametrize("state", ["RUNNING", "FAILED", "LOST", "CANCELLED", "INFEASIBLE"])
def test_best_is_none_of_what_did_not_end_well(state: State) -> None:
    assert best(search_of(), (LOSS,), [trial(0, state, 0.1)]) is None


def test_best_keeps_constraints_and_wants_their_metric() -> None:
    search = search_of(constraints=(Constraint(metric="score", min=-0.5),))
    silent = Trial(number=2, point={}, state="SUCCEEDED", asked=0, reports=(Report(step=1, metrics={"loss": -9.0}),))

    # The score is minus the loss: only a loss of at most 0.5 keeps the limit.
    assert best(search, (LOSS,), [trial(0, "SUCCEEDED", 0.6), silent]) is None
    assert number_of(best(search, (LOSS,), [trial(0, "SUCCEEDED", 0.6), silent, trial(1, "SUCCEEDED", 0.5)])) == 1


def test_best_of_several_goals_is_the_first_goals_then_the_next() -> None:
    goals = (Goal(metric="a", goal="minimize"), Goal(metric="b", goal="maximize"))
    pairs = [(1.0, 1.0), (0.0, 1.0), (0.0, 2.0)]
    trials = [
        Trial(number=k, point={}, state="SUCCEEDED", asked=k, reports=(Report(step=1, metrics={"a": a, "b": b}),))
        for k, (a, b) in enumerate(pairs)
    ]

    assert number_of(best(search_of(), goals, trials)) == 2


@given(st.lists(st.tuples(*[st.integers(0, 4)] * 3), max_size=15))
@settings(deadline=None)
def test_pareto_is_exactly_what_no_other_beats(found: list[tuple[int, int, int]]) -> None:
    goals = (Goal(metric="0", goal="minimize"), Goal(metric="1", goal="maximize"), Goal(metric="2", goal="minimize"))
    trials = [
        Trial(
            number=k,
            point={},
            state="SUCCEEDED",
            asked=k,
            reports=(Report(step=1, metrics={str(i): float(v) for i, v in enumerate(values)}),),
        )
        for k, values in enumerate(found)
    ]

    def beats(one: tuple[int, int, int], other: tuple[int, int, int]) -> bool:
        return one[0] <= other[0] and one[1] >= other[1] and one[2] <= other[2] and one != other

    expected = [k for k, values in enumerate(found) if not any(beats(other, values) for other in found)]
    assert [each.number for each in pareto(search_of(), goals, list(reversed(trials)))] == expected


def test_pareto_of_one_goal_is_all_the_best() -> None:
    trials = [trial(k, "SUCCEEDED", loss) for k, loss in enumerate((2.0, 1.0, 1.0))]

    assert [each.number for each in pareto(search_of(), (LOSS,), trials)] == [1, 2]


def explored(many: int, goal: Goal) -> list[Trial]:
    """What matters is the learning rate, a little the number of layers, and nothing else."""
    chance = random.Random(4)
    found = []
    for k in range(many):
        point: dict[str, Any] = {"lr": 10 ** chance.uniform(-5, -1), "optimizer": chance.choice(("sgd", "adam"))}
        if point["optimizer"] == "adam":
            point["beta"] = chance.random()
        point["layers"] = chance.randint(1, 8)
        loss = (math.log10(point["lr"]) + 3) ** 2 + 0.1 * point["layers"]
        value = loss if goal.goal == "minimize" else -loss
        reports = (Report(step=1, metrics={goal.metric: value}),)
        found.append(Trial(number=2 * k, point=point, state="SUCCEEDED", asked=k, ended=k + 1.0, reports=reports))
    return found


@pytest.mark.parametrize("goal", [LOSS, SCORE], ids=["minimize", "maximize"])
def test_importances_find_what_matters(goal: Goal) -> None:
    shares = importances(search_of(), (goal,), explored(200, goal))

    assert sum(shares.values()) == pytest.approx(1)
    assert next(iter(shares)) == "lr" and shares["lr"] > 0.6
    assert shares["layers"] > shares["optimizer"]
    assert list(shares.values()) == sorted(shares.values(), reverse=True)


def test_importances_of_several_goals_are_of_the_first() -> None:
    goals = (SCORE, Goal(metric="loss", goal="minimize"))
    trials = [
        Trial(
            number=each.number,
            point=each.point,
            state="SUCCEEDED",
            asked=0,
            reports=(Report(step=1, metrics={**each.reports[0].metrics, "loss": each.point["layers"]}),),
        )
        for each in explored(200, SCORE)
    ]

    assert next(iter(importances(search_of(), goals, trials))) == "lr"


def test_importances_need_trials_and_two_parameters_that_varied() -> None:
    trials = explored(30, LOSS)
    alone = search_of(parameters={"lr": SPACE["lr"]})
    only_lr = [
        Trial(number=t.number, point={"lr": t.point["lr"]}, state=t.state, asked=0, reports=t.reports) for t in trials
    ]

    assert importances(search_of(), (LOSS,), trials[:9]) == {}
    assert importances(search_of(), (LOSS,), trials[:10]) != {}
    assert importances(alone, (LOSS,), only_lr) == {}


def ran(number: int, started: float, ended: float | None) -> Trial:
    state: State = "RUNNING" if ended is None else "SUCCEEDED"
    return Trial(number=number, point={}, state=state, asked=started - 1, started=started, ended=ended)


def test_slots_idle_share_is_what_is_left_of_slots_times_makespan() -> None:
    trials = [ran(0, 10, 40), ran(1, 10, 20), ran(2, 20, 30), ran(3, 30, 70)]

    used = slots(trials, parallel=2, now=1e9)

    assert (used.busy_s, used.makespan_s) == (30 + 10 + 10 + 40, 60)
    assert used.idle_share == pytest.approx(1 - 90 / 120)
    assert used.idle_share_without_tail == pytest.approx(0)  # until the last start, at 30, both were busy


def test_slots_running_trials_count_until_now_and_waiting_ones_not() -> None:
    waiting = Trial(number=9, point={}, state="RUNNING", asked=0)

    used = slots([ran(0, 0, 10), ran(1, 5, None), waiting], parallel=2, now=20)

    assert (used.busy_s, used.makespan_s) == (25, 20)
    assert used.idle_share == pytest.approx(1 - 25 / 40)
    assert used.idle_share_without_tail == pytest.approx(0.5)  # 0 to 5: one of two


def test_slots_before_anything_ran_or_with_clocks_that_differ_are_sane() -> None:
    assert slots([], 4, 100.0).idle_share == 0
    assert slots([ran(0, 50, 49.5)], 4, 100.0).busy_s == 0


def test_study_of_has_every_trial_as_it_was() -> None:
    from optuna.trial import TrialState

    search = search_of(constraints=(Constraint(metric="loss", max=5.0),))
    point = {"lr": 1e-3, "optimizer": "adam", "beta": 0.5, "layers": 3}
    common: dict[str, Any] = {"point": point, "asked": 100.0, "started": 110.0, "ended": 170.0}
    trials = [
        trial(0, "SUCCEEDED", 3.0, 2.0, 2.5, **common),
        trial(1, "PRUNED", 9.0, math.nan, **common),
        trial(2, "RUNNING", 4.0, **(common | {"ended": None})),
        trial(3, "FAILED", 1.0, error="E: x", **common),
        trial(5, "SUCCEEDED", 7.0, **(common | {"ended": 90.0})),
    ]

    study = study_of(search, (LOSS,), list(reversed(trials)))

    found = study.trials
    names = ["COMPLETE", "PRUNED", "RUNNING", "FAIL", "WAITING", "COMPLETE"]
    assert [each.state for each in found] == [TrialState[name] for name in names]
    assert [each.number for each in found] == list(range(6))
    assert found[0].params == point and found[0].value == 2.0
    assert found[0].intermediate_values == {1: 3.0, 2: 2.0, 3: 2.5}
    assert found[0].duration is not None and found[0].duration.total_seconds() == 60
    assert found[0].datetime_start is not None and found[0].datetime_start.isoformat() == "1970-01-01T00:01:50"
    assert found[3].user_attrs["error"] == "E: x" and found[3].user_attrs["state"] == "FAILED"
    assert found[5].duration is not None and found[5].duration.total_seconds() == 0  # two clocks
    assert study.best_trial.number == 0
    assert [each.system_attrs["constraints"] for each in (found[0], found[5])] == [[2.5 - 5], [7 - 5]]
    assert found[0].distributions["lr"].log  # type: ignore[attr-defined]


def test_study_of_any_categories_and_lists_can_be_plotted() -> None:
    parameters = {
        "mixed": Parameter(type="categorical", values=("a", 1, None)),
        "shape": Parameter(type="categorical", values=((1, 2), (3, 4))),
        "rates": Parameter(type="categorical", values=(0, 0.5)),
        "batch": Parameter(type="discrete", values=(16, 32)),
        "reverse": Parameter(type="double", min=0.1, max=1, scale="reverse_log"),
    }
    point = {"mixed": None, "shape": (3, 4), "rates": 0, "batch": 32, "reverse": 0.9}
    other = {"mixed": 1, "shape": [1, 2], "rates": 0.5, "batch": 16, "reverse": 0.1}

    study = study_of(search_of(parameters=parameters), (LOSS,), [trial(0, point=point), trial(1, point=other)])

    assert study.trials[0].params == point | {"shape": "[3, 4]"}
    assert study.trials[1].params == other | {"mixed": "1", "shape": "[1, 2]"}
