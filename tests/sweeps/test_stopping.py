"""When a search gives no more points: every rule on both sides of its limit."""

from __future__ import annotations

from typing import Any

import pytest

from conf.sweep_schema import Constraint, Goal, Limits, Parameter, Search
from sweeps.stopping import last_failures, why_over, why_wait
from sweeps.trials import ENDED, Report, State, Trial

LOSS = Goal(metric="loss", goal="minimize")
SCORE = Goal(metric="score", goal="maximize")


def search_of(trials: int = 1000, constraints: tuple[Constraint, ...] = (), **limits: Any) -> Search:
    return Search(
        kind="search",
        algorithm="random",
        parameters={"x": Parameter(type="double", min=0, max=1)},
        trials=trials,
        constraints=constraints,
        limits=Limits(**limits),
    )


def trial(number: int, state: State = "SUCCEEDED", loss: float | None = None, **more: Any) -> Trial:
    """Asked at 100 x number, ended (unless told otherwise) 50 s later."""
    reports = () if loss is None else (Report(step=1, metrics={"loss": loss, "score": -loss}),)
    times = {"asked": 100.0 * number, "ended": None if state == "RUNNING" else 100.0 * number + 50}
    return Trial(number=number, point={"x": 0.5}, state=state, reports=reports, **(times | more))


def over(search: Search, trials: list[Trial], now: float = 1e6, reserve: float = 0.0, goal: Goal = LOSS) -> str | None:
    return why_over(search, (goal,), trials, now, reserve)


def test_why_over_without_trials_or_limits_goes_on() -> None:
    limits = {"wall_min": 1, "gpu_hours": 1.0, "no_progress_trials": 1, "target": 0.0, "max_failed": 0}

    assert over(search_of(**limits), []) is None
    assert over(search_of(), [trial(k, loss=1.0) for k in range(50)]) is None


@pytest.mark.parametrize("state", ["RUNNING", *ENDED])
def test_why_over_trials_count_as_soon_as_asked_whatever_becomes_of_them(state: State) -> None:
    asked = [trial(k, state, error=str(k) * 9) for k in range(4)]

    assert over(search_of(trials=4, same_failures=50), asked[:3]) is None
    assert "trials is 4" in str(over(search_of(trials=4, same_failures=50), asked))


@pytest.mark.parametrize("state", ENDED)
def test_why_over_only_failed_trials_count_to_max_failed(state: State) -> None:
    trials = [trial(k, state, error=f"Error{chr(65 + k)}") for k in range(3)]

    assert over(search_of(max_failed=3), trials) is None
    reason = over(search_of(max_failed=2), trials)
    assert (reason is not None) == (state == "FAILED")
    assert (over(search_of(max_failed=0), trials[:1]) is not None) == (state == "FAILED")


def test_why_over_equal_failures_in_a_row_show_the_error() -> None:
    failed = [trial(k, "FAILED", error="KeyError: 'width'") for k in range(5)]

    assert over(search_of(same_failures=5), failed[:4]) is None
    assert "KeyError: 'width'" in str(over(search_of(same_failures=5), failed))
    assert last_failures(search_of(same_failures=3), failed) == tuple(failed[2:])


@pytest.mark.parametrize("state", ["SUCCEEDED", "PRUNED"])
def test_why_over_a_trial_that_ran_between_failures_breaks_the_row(state: State) -> None:
    failed = [trial(k, "FAILED", error="E: x") for k in (0, 1, 3, 4)]

    assert over(search_of(same_failures=3), [*failed, trial(2, state)]) is None
    assert over(search_of(same_failures=3), [*failed, trial(2, state), trial(5, "FAILED", error="E: x")]) is not None


@pytest.mark.parametrize("state", ["LOST", "CANCELLED", "RUNNING"])
def test_why_over_what_says_nothing_of_the_program_does_not_break_the_row(state: State) -> None:
    failed = [trial(k, "FAILED", error="E: x") for k in (0, 1, 3)]

    assert over(search_of(same_failures=3), [*failed, trial(2, state)]) is not None


def test_why_over_other_errors_break_the_row_and_other_numbers_do_not() -> None:
    def after(*errors: str) -> str | None:
        return over(search_of(same_failures=3), [trial(k, "FAILED", error=e) for k, e in enumerate(errors)])

    assert after("A: x", "B: x", "A: x") is None
    assert after("NoFile: members/1/a", "NoFile: members/22/a", "NoFile: members/7/a") is not None
    assert "without a message" in str(after("", "", ""))


def test_why_over_failures_are_ordered_by_their_end() -> None:
    slow = trial(0, "SUCCEEDED", 1.0, ended=10_000.0)
    failed = [trial(k, "FAILED", error="E") for k in (1, 2, 3)]

    assert over(search_of(same_failures=3), [slow, *failed]) is None
    assert over(search_of(same_failures=3), [trial(0, loss=1.0), *failed]) is not None


@pytest.mark.parametrize(("goal", "target"), [(LOSS, 0.25), (SCORE, -0.25)])
def test_why_over_target_is_reached_when_equal(goal: Goal, target: float) -> None:
    search = search_of(target=target)

    assert over(search, [trial(0, loss=0.26)], goal=goal) is None
    assert "trial 0" in str(over(search, [trial(0, loss=0.25)], goal=goal))


def test_why_over_target_needs_a_feasible_trial_that_succeeded() -> None:
    limit = Constraint(metric="score", max=-0.5)

    for state in ("RUNNING", "PRUNED", "LOST", "FAILED"):
        assert over(search_of(target=1.0), [trial(0, state, 0.0)]) is None  # type: ignore[arg-type]
    assert over(search_of(target=1.0, constraints=(limit,)), [trial(0, loss=0.4)]) is None
    assert over(search_of(target=1.0, constraints=(limit,)), [trial(0, loss=0.6)]) is not None


def test_why_over_wall_time_runs_from_the_first_ask() -> None:
    trials = [trial(7), trial(3, "LOST"), trial(5, "RUNNING")]  # the first asked at 300

    assert over(search_of(wall_min=10), trials, now=300 + 599) is None
    assert over(search_of(wall_min=10), trials, now=300 + 600) is not None


def test_gpu_hours_reserved_and_spent_are_within_the_budget() -> None:
    search = search_of(gpu_hours=10.0)
    spent = [trial(0, gpu_hours=3.0), trial(1, "LOST", gpu_hours=2.0), trial(2, "FAILED", gpu_hours=1.0)]
    running = trial(3, "RUNNING", gpu_hours=2.0)

    assert over(search, [*spent, running], reserve=4.0) is None
    assert over(search, spent, reserve=4.1) is not None  # can never fit, whatever comes back
    assert why_wait(search, [*spent, running], reserve=2.0) is None
    waits = why_wait(search, [*spent, running], reserve=2.1)
    assert waits is not None and "6.00" in waits and "2.00" in waits
    assert over(search, [*spent, running], reserve=2.1) is None
    assert why_wait(search, spent, reserve=2.1) is None  # the running one settled at nothing
    assert why_wait(search_of(), spent, reserve=1e9) is None


def test_gpu_hours_sums_that_round_are_not_overspent() -> None:
    spent = [trial(k, gpu_hours=0.1) for k in range(9)]  # 0.1 ten times is 0.9999999999999999 or more

    assert over(search_of(gpu_hours=1.0), spent, reserve=0.1) is None
    assert why_wait(search_of(gpu_hours=0.3), [trial(0, "RUNNING", gpu_hours=0.2)], reserve=0.1) is None


def test_gpu_hours_are_never_overspent_whatever_trials_cost() -> None:
    """Each trial reserves 1 and costs less: asking stops below the budget, and only then."""
    search, trials, reserve = search_of(gpu_hours=10.0), list[Trial](), 1.0
    for number in range(100):
        if over(search, trials, reserve=reserve) or why_wait(search, trials, reserve):
            break
        trials.append(trial(number, "RUNNING", gpu_hours=reserve))
        if number >= 3:  # four run at once; the oldest ends
            trials[number - 3] = trial(number - 3, gpu_hours=0.35)
    cost = sum(each.gpu_hours for each in trials)

    assert cost <= 10.0
    assert len(trials) > 20


def test_no_progress_counts_ended_trials_since_the_best() -> None:
    search = search_of(no_progress_trials=3)
    trials = [trial(0, loss=5.0), trial(1, loss=3.0), trial(2, loss=3.0), trial(3, loss=4.0)]

    assert over(search, trials) is None
    assert "since trial 1" in str(over(search, [*trials, trial(4, loss=9.0)]))
    assert over(search, [*trials, trial(4, loss=2.9), trial(5, loss=9.0)]) is None


def test_no_progress_goes_by_the_order_of_ends() -> None:
    late_best = trial(0, loss=1.0, ended=9e5)
    others = [trial(k, loss=2.0) for k in range(1, 5)]

    assert over(search_of(no_progress_trials=3), [late_best, *others]) is None
    assert over(search_of(no_progress_trials=3), [trial(0, loss=1.0), *others]) is not None


def test_no_progress_counts_pruned_and_infeasible_but_not_what_says_nothing() -> None:
    def after(state: State, loss: float | None = None) -> str | None:
        trials = [trial(0, loss=5.0), *(trial(k, state, loss, error=str(k)) for k in range(1, 4))]
        return over(search_of(no_progress_trials=3, same_failures=50), trials)

    assert after("PRUNED", 1.0) is not None  # its value is of less training: no progress
    assert after("INFEASIBLE") is not None
    for state in ("LOST", "CANCELLED", "FAILED", "RUNNING"):
        assert after(state, 1.0) is None  # type: ignore[arg-type]


def test_no_progress_infeasible_values_are_none() -> None:
    limit = Constraint(metric="score", max=-2.0)  # a loss of 2 or more
    trials = [trial(0, loss=3.0), trial(1, loss=1.0), trial(2, loss=1.5), trial(3, loss=1.2)]

    assert over(search_of(no_progress_trials=3), trials) is None
    assert over(search_of(no_progress_trials=3, constraints=(limit,)), trials) is not None


def test_no_progress_with_several_goals_is_a_place_in_the_pareto_set() -> None:
    goals = (LOSS, Goal(metric="size", goal="minimize"))
    search = search_of(no_progress_trials=2)

    def trials(*found: tuple[float, float]) -> list[Trial]:
        return [
            trial(k).__class__(
                number=k,
                point={},
                state="SUCCEEDED",
                asked=k,
                ended=k + 0.5,
                reports=(Report(step=1, metrics={"loss": a, "size": b}),),
            )
            for k, (a, b) in enumerate(found)
        ]

    front = trials((3, 1), (1, 3), (2, 2))
    assert why_over(search, goals, front, 9.0) is None
    assert why_over(search, goals, trials((3, 1), (1, 3), (2, 3), (1, 3)), 9.0) is not None
    assert why_over(search, goals, trials((3, 1), (1, 3), (2, 3), (2, 2)), 9.0) is None


def test_why_over_failures_are_named_before_the_number_of_trials() -> None:
    trials = [trial(k, "FAILED", error="E: x") for k in range(5)]

    assert "E: x" in str(over(search_of(trials=5), trials))
