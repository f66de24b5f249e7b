"""Attempts on slots: who ran where, and what was idle, lost and tail."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps.facts import Attempt
from sweeps.timeline import bars, merged, usage
from sweeps.trials import State, Trial
from tests.sweeps.reported import BEGAN, facts_of

STARTS = st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 300)), min_size=1, max_size=40)


def ran(number: int, started: float, ended: float | None, state: State = "SUCCEEDED", gpu_hours: float = 0.0) -> Trial:
    end = None if ended is None else BEGAN + ended
    return Trial(
        number=number, point={}, state=state, asked=BEGAN, started=BEGAN + started, ended=end, gpu_hours=gpu_hours
    )


def test_bars_two_slots_next_trial_takes_the_one_that_is_free() -> None:
    laid = bars([ran(0, 0, 100), ran(1, 0, 50), ran(2, 55, 90), ran(3, 100, 120)], facts_of())

    assert [(bar.trial, bar.slot) for bar in laid] == [(0, 0), (1, 1), (2, 1), (3, 0)]


def test_bars_running_trial_reaches_up_to_now() -> None:
    (bar,) = bars([ran(0, 0, None, "RUNNING")], facts_of(now=BEGAN + 77))

    assert bar.ended - bar.started == 77


def test_bars_trial_never_started_has_none() -> None:
    waiting = Trial(number=0, point={}, state="RUNNING", asked=BEGAN)

    assert bars([waiting], facts_of()) == ()
    assert usage([waiting], facts_of(), over=False) is None


def test_bars_requeued_trial_has_one_for_each_attempt() -> None:
    attempts = (
        Attempt(started=BEGAN, ended=BEGAN + 10, state="LOST"),
        Attempt(started=BEGAN + 20, ended=BEGAN + 50, state="SUCCEEDED"),
    )

    laid = bars([ran(0, 0, 50)], facts_of(attempts={0: attempts}))

    assert [(bar.state, bar.ended - bar.started) for bar in laid] == [("LOST", 10), ("SUCCEEDED", 30)]


@given(STARTS)
def test_bars_any_trials_never_two_at_once_on_one_slot(spans: list[tuple[int, int]]) -> None:
    trials = [ran(i, start, start + length) for i, (start, length) in enumerate(spans)]

    laid = bars(trials, facts_of())

    assert sorted(bar.trial for bar in laid) == list(range(len(trials)))
    by_slot: dict[int, float] = {}
    for bar in laid:
        assert bar.started >= by_slot.get(bar.slot, 0.0)
        by_slot[bar.slot] = bar.ended


def test_usage_full_slots_nothing_idle() -> None:
    account = usage([ran(0, 0, 100), ran(1, 0, 100)], facts_of(parallel=2), over=True)

    assert account is not None
    assert (account.slots, account.idle, account.lost) == (2, 0.0, 0)


def test_usage_last_trial_alone_is_tail() -> None:
    account = usage([ran(0, 0, 100), ran(1, 0, 120), ran(2, 100, 200)], facts_of(), over=True)

    assert account is not None
    assert (account.tail_s, account.idle_before_tail) == (100, 0.0)
    assert account.idle == pytest.approx(80 / 400)


def test_usage_pause_between_two_attempts_is_idle() -> None:
    attempts = (
        Attempt(started=BEGAN, ended=BEGAN + 20, state="LOST"),
        Attempt(started=BEGAN + 60, ended=BEGAN + 100, state="SUCCEEDED"),
    )

    account = usage([ran(0, 0, 100)], facts_of(attempts={0: attempts}), over=False)

    assert account is not None
    assert account.idle == pytest.approx(0.4)


def test_usage_search_going_on_has_no_tail() -> None:
    account = usage([ran(0, 0, 100), ran(1, 0, None, "RUNNING")], facts_of(now=BEGAN + 300), over=False)

    assert account is not None
    assert account.tail_s == 0
    assert account.idle == pytest.approx(200 / 600)


def test_usage_slots_never_used_count_as_idle() -> None:
    account = usage([ran(0, 0, 100)], facts_of(parallel=4), over=False)

    assert account is not None
    assert (account.slots, account.idle) == (4, 0.75)


def test_usage_lost_hours_are_those_of_attempts_without_value_or_knowledge() -> None:
    trials = [
        ran(0, 0, 100, gpu_hours=3.0),
        ran(1, 0, 100, "FAILED", gpu_hours=1.0),
        ran(2, 0, 100, "PRUNED", gpu_hours=1.0),
        ran(3, 0, 100, "INFEASIBLE", gpu_hours=1.0),
    ]
    attempts = {
        0: (
            Attempt(started=BEGAN, ended=BEGAN + 25, state="LOST"),
            Attempt(started=BEGAN + 25, ended=BEGAN + 100, state="SUCCEEDED"),
        )
    }

    account = usage(trials, facts_of(attempts=attempts), over=True)

    assert account is not None
    assert (account.lost, account.lost_gpu_hours) == (2, pytest.approx(0.75 + 1.0))


def test_usage_clocks_that_disagree_give_no_negative_shares() -> None:
    account = usage([ran(0, 100, 40), ran(1, 0, 10)], facts_of(now=BEGAN + 50), over=True)

    assert account is not None
    assert 0 <= account.idle <= 1


def test_merged_many_bars_become_few_and_lose_no_attempt() -> None:
    trials = [ran(i, i * 10, i * 10 + 9.9) for i in range(5000)]
    laid = bars(trials, facts_of(now=BEGAN + 60_000))

    few = merged(laid, 1000)

    assert len(few) <= 1000
    assert sum(bar.count for bar in few) == 5000
    assert (few[0].started, few[-1].ended) == (laid[0].started, laid[-1].ended)


def test_merged_few_bars_stay_as_they_are() -> None:
    laid = bars([ran(0, 0, 10), ran(1, 10, 20)], facts_of())

    assert merged(laid, 1000) == laid
