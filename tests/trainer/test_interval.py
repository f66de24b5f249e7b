"""How long training may go on without a checkpoint: the formulas against a simulation, and the time limit."""

from __future__ import annotations

import random

import pytest

from trainer.checkpoints.costs import Costs
from trainer.checkpoints.interval import (
    FIRST_S,
    Now,
    daly_s,
    interval_s,
    mtbf_s,
    occasions_between,
    steps_ahead,
    until_save_s,
    young_s,
)


def lasted(between_s: float, stall_s: float, mtbf_s: float, work_s: float) -> float:
    """How long a job takes that fails at random and goes on from its last save at once."""
    draw = random.Random(1)
    clock = done = 0.0
    fails = draw.expovariate(1 / mtbf_s)
    while done < work_s:
        piece = between_s + stall_s
        if clock + piece > fails:
            clock, fails = fails, fails + draw.expovariate(1 / mtbf_s)
        else:
            clock, done = clock + piece, done + between_s
    return clock


@pytest.mark.parametrize(("stall_s", "mtbf_s"), [(1.0, 1000.0), (10.0, 600.0), (60.0, 600.0)])
def test_daly_no_other_interval_ends_a_simulated_job_much_earlier(stall_s: float, mtbf_s: float) -> None:
    best = daly_s(stall_s, mtbf_s)
    times = [lasted(best * factor, stall_s, mtbf_s, 2e6) for factor in (0.25, 0.5, 0.8, 1.0, 1.25, 2.0, 4.0)]

    assert times[3] <= min(times) * 1.01
    assert times[0] > times[3] and times[-1] > times[3]


def test_daly_is_young_for_short_saves_and_the_time_between_failures_for_long_ones() -> None:
    assert daly_s(0.01, 1e6) == pytest.approx(young_s(0.01, 1e6), rel=1e-3)
    assert young_s(2.0, 100.0) == 20.0
    assert daly_s(500.0, 100.0) == 100.0


def test_mtbf_is_what_the_site_says_until_a_run_has_seen_worse() -> None:
    assert mtbf_s(1000.0, 1e9, 0) == 1000.0
    assert mtbf_s(1000.0, 600.0, 3) == 200.0
    assert mtbf_s(1000.0, 1e9, 1) == 1000.0


def test_interval_the_first_save_is_early_and_the_thread_that_writes_rests_half_of_the_time() -> None:
    assert interval_s(Costs(), 3.6e6) == FIRST_S
    assert interval_s(Costs(), 40.0) == 20.0  # a run that breaks sooner saves sooner
    assert interval_s(Costs([0.5], [4.0]), 3.6e6) == daly_s(0.5, 3.6e6)
    assert interval_s(Costs([0.001], [40.0]), 1000.0) == 80.0


def test_costs_remember_the_last_few() -> None:
    costs = Costs()
    for second in (9.0, 1.0, 2.0, 3.0, 4.0, 5.0):
        costs.note(second / 10, second)

    assert (costs.stall_s, costs.durable_s) == (0.3, 5.0)


@pytest.mark.parametrize(
    ("now", "seconds"),
    [
        (Now(since_s=10, interval_s=100, save_s=20), 90),
        (Now(since_s=120, interval_s=100, save_s=20), -20),
        # at the notice a save of 40 s (50 at most) fits: nothing more is needed
        (Now(since_s=10, interval_s=100, save_s=40, left_s=100, notice_s=60), 90),
        # it does not fit: the last one begins so that it is there at the notice, and not after another interval
        (Now(since_s=60, interval_s=120, save_s=40, left_s=150, notice_s=45), 55),
        (Now(since_s=60, interval_s=100, save_s=40, left_s=94, notice_s=45), -1),
        (Now(since_s=60, interval_s=100, save_s=40, left_s=1000, notice_s=45), 40),
        # it does after a step of so long, and not after one that is longer
        (Now(since_s=60, interval_s=100, save_s=40, left_s=100, notice_s=60, step_s=10), 40),
        (Now(since_s=60, interval_s=200, save_s=40, left_s=150, notice_s=60, step_s=12), 34),
        # what it takes is not known: half of the time is left when it is
        (Now(since_s=5, interval_s=60, save_s=None, left_s=65, notice_s=45), 7.5),
        (Now(since_s=5, interval_s=60, save_s=None, left_s=300, notice_s=45), 55),
        (Now(since_s=5, interval_s=60, save_s=None, left_s=65, notice_s=45, begun=True), 55),
        # one that has just begun is the last
        (Now(since_s=10, interval_s=100, save_s=40, left_s=94, notice_s=45), 90),
        # it ends after the notice, and before the end; or it is too late for any: as usual
        (Now(since_s=60, interval_s=100, save_s=40, left_s=60, notice_s=45), -35),
        (Now(since_s=60, interval_s=100, save_s=40, left_s=49, notice_s=45), 40),
    ],
)
def test_until_save_counts_with_the_time_limit(now: Now, seconds: float) -> None:
    assert until_save_s(now) == pytest.approx(seconds)


def test_steps_ahead_looks_come_closer_and_the_save_is_not_late() -> None:
    left_s, looks = 1000.0, 0
    while ahead := steps_ahead(left_s, 1.0):
        left_s, looks = left_s - ahead, looks + 1

    assert looks < 24
    assert -0.5 <= left_s < 0.5
    assert steps_ahead(-5.0, 1.0) == 0


def test_occasions_between_grow_and_end() -> None:
    assert [occasions_between(failures) for failures in range(7)] == [0, 0, 1, 3, 7, 7, 7]
