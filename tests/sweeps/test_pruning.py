"""When a running trial is stopped: each rule against its definition written another way."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conf.sweep_schema import Constraint, Goal, Parameter, Pruning, Search
from sweeps.forecast import chance_below
from sweeps.pruning import bracket_of, verdict
from sweeps.trials import Report, State, Trial

LOSS = Goal(metric="loss", goal="minimize")
SCORE = Goal(metric="score", goal="maximize")


def search_of(rule: str, measurement: str = "best", **more: Any) -> Search:
    """With `constraints` if given, all else is the pruning's."""
    constraints = more.pop("constraints", ())
    return Search(
        kind="search",
        algorithm="random",
        parameters={"x": Parameter(type="double", min=0, max=1)},
        trials=100,
        measurement=measurement,  # type: ignore[arg-type]
        constraints=constraints,
        pruning=Pruning(rule=rule, **more),  # type: ignore[arg-type]
    )


def trial(
    number: int,
    curve: Sequence[float],
    state: State = "RUNNING",
    times: Sequence[float] | None = None,
    goal: Goal = LOSS,
) -> Trial:
    """Reports at training steps 7, 14, ..., each with another metric beside; two reports of that one alone first."""
    own = [
        Report(step=7 * i, metrics={goal.metric: v, "other": -1.0}, t=None if times is None else times[i - 1])
        for i, v in enumerate(curve, 1)
    ]
    beside = [Report(step=s, metrics={"other": 0.0}) for s in (1, 2)]
    return Trial(number=number, point={"x": 0.5}, state=state, reports=(*beside, *own), asked=number)


CURVES = st.lists(st.integers(0, 6).map(float), min_size=1, max_size=12)
POPULATIONS = st.lists(CURVES, min_size=0, max_size=14)


def test_verdict_without_pruning_or_reports_goes_on() -> None:
    search = search_of("asha")
    without = Search(kind="search", algorithm="random", parameters=search.parameters, trials=9)

    assert verdict(without, LOSS, trial(0, [math.nan]), []) is None
    assert verdict(search, LOSS, trial(0, []), [trial(1, [1.0], "SUCCEEDED")]) is None


@pytest.mark.parametrize("rule", ["median", "decay_curve", "asha", "hyperband"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_verdict_not_finite_is_diverged_under_every_rule(rule: str, value: float) -> None:
    search = search_of(rule, max_step=10)

    stopped = verdict(search, LOSS, trial(0, [1.0, value]), [])
    recovered = verdict(search, LOSS, trial(0, [1.0, value, 1.0]), [])

    assert stopped is not None and stopped.startswith("diverged")
    assert recovered is None


@given(CURVES, POPULATIONS, st.integers(2, 4), st.integers(1, 3), st.sampled_from([LOSS, SCORE]))
@settings(deadline=None)
def test_asha_stops_exactly_those_outside_the_best_share_of_a_rung(
    own: list[float], others: list[list[float]], reduction: int, min_step: int, goal: Goal
) -> None:
    search = search_of("asha", reduction=reduction, min_step=min_step)
    rivals = [trial(i, curve, "RUNNING", goal=goal) for i, curve in enumerate(others, 1)]

    stopped = verdict(search, goal, trial(0, own, goal=goal), rivals)

    expected = False
    for rung in (min_step * reduction**k for k in range(6)):
        if len(own) >= rung:
            came = [curve[rung - 1] for curve in others if len(curve) >= rung]
            ahead = sum(v < own[rung - 1] if goal is LOSS else v > own[rung - 1] for v in came)
            expected |= ahead >= max(1, (len(came) + 1) // reduction)
    assert (stopped is not None) == expected


def test_asha_judges_a_rung_by_the_report_made_there() -> None:
    search = search_of("asha", min_step=3, reduction=3)
    good, bad_then_good = trial(1, [9.0, 9.0, 1.0]), trial(0, [9.0, 9.0, 5.0, 0.1])

    assert verdict(search, LOSS, bad_then_good, [good]) is not None
    assert verdict(search, LOSS, trial(0, [0.1, 0.1, 0.9]), [good]) is None


def test_asha_later_arrivals_do_not_change_a_rungs_judgement() -> None:
    search = search_of("asha", min_step=1, reduction=2)
    own = trial(0, [2.0, 2.0], times=[10.0, 20.0])
    better = [trial(i, [1.0], times=[10.0 + i]) for i in range(1, 6)]

    assert verdict(search, LOSS, own, better) is None
    assert verdict(search, LOSS, trial(0, [2.0, 2.0], times=[15.0, 20.0]), better) is not None
    # Clocks may be missing: then the report counts as one that was there.
    assert verdict(search, LOSS, own, [trial(i, [1.0]) for i in range(1, 6)]) is not None


def test_asha_has_no_rung_at_the_end_of_a_trial() -> None:
    better = [trial(i, [1.0] * 9) for i in range(1, 6)]
    own = trial(0, [0.0] * 8 + [5.0])

    assert verdict(search_of("asha", min_step=1, reduction=3, max_step=9), LOSS, own, better) is None
    assert verdict(search_of("asha", min_step=1, reduction=3), LOSS, own, better) is not None


def test_asha_diverged_rivals_came_to_the_rung_and_are_worst() -> None:
    search = search_of("asha", min_step=1, reduction=2)
    rivals = [trial(1, [math.nan], "PRUNED"), trial(2, [math.inf], "PRUNED"), trial(3, [1.0])]

    assert verdict(search, LOSS, trial(0, [2.0]), rivals) is None  # second of four
    assert verdict(search, LOSS, trial(0, [2.0]), rivals[1:]) is not None  # second of three


def test_asha_saves_most_epochs_and_keeps_the_best() -> None:
    """27 trials side by side, each report to all: only those that the rungs let through go on."""
    search = search_of("asha", min_step=1, reduction=3, max_step=27)
    chance = random.Random(1)
    quality = [chance.random() for _ in range(27)]
    curves: list[list[float]] = [[] for _ in quality]
    going = set(range(27))
    for step in range(1, 28):
        for i in sorted(going):
            curves[i].append(quality[i] + 1 / step)
        now = [trial(i, curve) for i, curve in enumerate(curves)]
        going -= {i for i in going if verdict(search, LOSS, now[i], now) is not None}

    assert going == {min(range(27), key=lambda i: quality[i])}
    assert sum(map(len, curves)) == 18 * 1 + 6 * 3 + 2 * 9 + 27


def test_hyperband_brackets_have_their_shares_everywhere() -> None:
    pruning = Pruning(rule="hyperband", min_step=1, max_step=27, reduction=3)
    # Hyperband's own table for R = 27: 27, 12, 6 and 4 configurations.
    expected = [27 / 49, 12 / 49, 6 / 49, 4 / 49]

    for first in (0, 1000):
        brackets = [bracket_of(pruning, number) for number in range(first, first + 98)]
        assert [brackets.count(s) / 98 for s in range(4)] == pytest.approx(expected, abs=0.03)
    assert set(map(bracket_of, [pruning] * 20, range(20))) == {0, 1, 2, 3}


def test_hyperband_compares_within_a_bracket_and_from_its_own_rung() -> None:
    search = search_of("hyperband", min_step=1, max_step=27, reduction=3)
    assert search.pruning is not None
    members = {s: [n for n in range(200) if bracket_of(search.pruning, n) == s] for s in range(4)}

    def stopped(number: int, rivals: Sequence[int], steps: int) -> bool:
        others = [trial(n, [0.0] * steps) for n in rivals]
        return verdict(search, LOSS, trial(number, [1.0] * steps), others) is not None

    for bracket, lowest in enumerate((1, 3, 9)):
        number, *rivals = members[bracket][:6]
        assert not stopped(number, rivals, lowest - 1) and stopped(number, rivals, lowest)
        elsewhere = [n for s in range(4) if s != bracket for n in members[s][:6]]
        assert not stopped(number, elsewhere, lowest)
    assert not stopped(members[3][0], members[3][1:6], 27)  # the last bracket is plain random search


@given(CURVES, st.lists(st.tuples(CURVES, st.sampled_from(["SUCCEEDED", "PRUNED", "RUNNING", "LOST"])), max_size=12))
@settings(deadline=None)
def test_median_stops_exactly_when_the_best_is_worse_than_the_median_average(
    own: list[float], others: list[tuple[list[float], State]]
) -> None:
    search = search_of("median", min_trials=2, min_step=2)
    rivals = [trial(i, curve, state) for i, (curve, state) in enumerate(others, 1)]

    stopped = verdict(search, LOSS, trial(0, own), rivals)

    step = len(own)
    ended = [curve for curve, state in others if state in ("SUCCEEDED", "PRUNED") and len(curve) >= step]
    averages = [statistics.fmean(curve[:step]) for curve in ended]
    enough = step >= 2 and len(averages) >= 2
    assert (stopped is not None) == (enough and min(own) > statistics.median(averages))


def test_median_maximised_is_the_mirror_image() -> None:
    search = search_of("median", min_trials=3)
    rivals = [trial(i, [0.25 * i, 0.75 * i], "SUCCEEDED", goal=SCORE) for i in range(1, 4)]  # averages 0.5, 1, 1.5

    assert verdict(search, SCORE, trial(0, [0.1, 0.99], goal=SCORE), rivals) is not None
    assert verdict(search, SCORE, trial(0, [1.0, 0.1], goal=SCORE), rivals) is None  # equal is not worse
    assert verdict(search, SCORE, trial(0, [0.1, 0.99], goal=SCORE), rivals[:2]) is None  # too few


def test_median_percentile_stops_only_those_worse_than_that_share() -> None:
    rivals = [trial(i, [float(i)], "SUCCEEDED") for i in range(1, 12)]  # 1 to 11

    def stopped(percentile: float, loss: float) -> bool:
        return verdict(search_of("median", percentile=percentile), LOSS, trial(0, [loss]), rivals) is not None

    assert [stopped(50, 6.0), stopped(50, 6.1)] == [False, True]
    assert [stopped(90, 10.0), stopped(90, 10.1)] == [False, True]
    assert [stopped(25, 3.5), stopped(25, 3.6)] == [False, True]


def test_median_running_average_with_nan_is_worst() -> None:
    search = search_of("median", min_trials=3)
    rivals = [trial(1, [math.nan, 1.0], "PRUNED"), *(trial(i, [1.0, 1.0], "SUCCEEDED") for i in (2, 3))]

    assert verdict(search, LOSS, trial(0, [1.0, 1.0]), rivals) is None
    assert verdict(search, LOSS, trial(0, [1.1, 1.1]), rivals) is not None
    diverged = [trial(i, [math.nan, 1.0], "PRUNED") for i in range(3, 6)]
    assert verdict(search, LOSS, trial(0, [1.1, 1.1]), [rivals[1], *diverged]) is None


ENDED = [trial(100 + i, [0.9, 0.5, 0.3 + 0.01 * i], "SUCCEEDED") for i in range(5)]
"""The best of them ends at 0.3."""


def falling(level: float, height: float, span: float, steps: int, noise: float = 0.0, seed: int = 0) -> list[float]:
    chance = random.Random(seed)
    return [level + height * math.exp(-step / span) + chance.gauss(0, noise) for step in range(1, steps + 1)]


def first_stop(search: Search, curve: Sequence[float], ended: Sequence[Trial] = ENDED) -> int | None:
    """The number of reports after which a trial is stopped that makes them one after the other."""
    steps = range(1, len(curve) + 1)
    return next((n for n in steps if verdict(search, LOSS, trial(0, curve[:n]), ended) is not None), None)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("noise", [0.0, 0.01, 0.05])
def test_decay_curve_stops_the_hopeless_before_half_of_the_way(noise: float, seed: int) -> None:
    search = search_of("decay_curve", max_step=100)

    stopped = first_stop(search, falling(0.8, 0.5, 5, 100, noise, seed))

    assert stopped is not None and stopped < 50


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("span", "noise"), [(10, 0.0), (30, 0.0), (30, 0.01), (30, 0.03), (45, 0.0)])
def test_decay_curve_spares_slow_curves_that_cross_the_best(span: float, noise: float, seed: int) -> None:
    search = search_of("decay_curve", max_step=100)

    assert first_stop(search, falling(0.15, 1.5, span, 100, noise, seed)) is None


def test_decay_curve_spares_one_that_is_already_best() -> None:
    flat = [0.25] * 60

    assert first_stop(search_of("decay_curve", max_step=100), flat) is None
    # Measured by the last report, a good one in the middle is forgotten.
    spoilt = [0.25] * 5 + [0.8] * 80
    assert first_stop(search_of("decay_curve", max_step=100), spoilt) is None
    assert first_stop(search_of("decay_curve", measurement="last", max_step=100), spoilt) is not None


def test_decay_curve_waits_for_trials_reports_and_the_end() -> None:
    search = search_of("decay_curve", max_step=30, min_step=12)
    hopeless = [0.9] * 30

    stopped = first_stop(search, hopeless)

    assert stopped is not None and stopped >= 12
    assert first_stop(search, hopeless, ENDED[:4]) is None
    assert verdict(search, LOSS, trial(0, hopeless), ENDED) is None  # it has made all its reports
    assert first_stop(search_of("decay_curve", max_step=100), [5.0, 5.0, 5.0]) is None


def test_decay_curve_compares_with_feasible_trials_only() -> None:
    hopeless = [0.9] * 60
    limit = Constraint(metric="other", max=-2.0)  # all report -1

    assert first_stop(search_of("decay_curve", max_step=100, constraints=(limit,)), hopeless) is None
    assert first_stop(search_of("decay_curve", max_step=100), hopeless) is not None


def test_decay_curve_confidence_one_never_stops_and_less_stops_earlier() -> None:
    hopeless = falling(0.8, 0.5, 5, 100)
    stops = [first_stop(search_of("decay_curve", max_step=100, confidence=c), hopeless) for c in (0.8, 0.95, 0.999)]

    assert first_stop(search_of("decay_curve", max_step=100, confidence=1.0), hopeless) is None
    assert None not in stops and stops == sorted(stops)  # type: ignore[type-var]


@given(
    st.lists(st.floats(-1e9, 1e9) | st.sampled_from([math.inf, 0.0, 1e-12]), max_size=40),
    st.floats(-1e9, 1e9),
    st.booleans(),
)
@settings(deadline=None)
def test_chance_below_any_reports_is_a_probability_or_unknown(losses: list[float], bar: float, of_best: bool) -> None:
    chance = chance_below(bar, losses, len(losses) + 10, of_best)

    assert chance is None or 0 <= chance <= 1
    assert (chance is None) <= (sum(map(math.isfinite, losses)) < 6)


@given(st.floats(-5, 5), st.floats(0.1, 100))
@settings(deadline=None, max_examples=30)
def test_chance_below_does_not_depend_on_units(shift: float, stretch: float) -> None:
    curve = falling(0.5, 1.0, 8, 20, noise=0.02)

    plain = chance_below(0.45, curve, 60, of_best=False)
    moved = chance_below(shift + stretch * 0.45, [shift + stretch * v for v in curve], 60, of_best=False)

    assert plain is not None and moved == pytest.approx(plain, abs=1e-6)


def test_chance_below_gaps_and_a_spike_hardly_matter() -> None:
    curve = falling(0.8, 0.5, 5, 40, noise=0.01)
    holes = [math.inf if i in (3, 11, 30) else v for i, v in enumerate(curve)]
    spiked = [5.0 if i == 25 else v for i, v in enumerate(curve)]

    for changed in (curve, holes):
        chance = chance_below(0.3, changed, 100, of_best=True)
        assert chance is not None and chance < 0.02
    doubtful = chance_below(0.3, spiked, 100, of_best=True)
    assert doubtful is not None and doubtful < 0.5


def test_decay_curve_rarely_stops_a_trial_that_would_have_won() -> None:
    """Power laws, exponentials and their sums with noise: what is stopped wrongly, and what is saved."""
    chance = random.Random(7)
    search = search_of("decay_curve", max_step=60)
    wrong = winners = saved = losers = 0
    for seed in range(60):
        level, height = chance.uniform(0.1, 0.8), chance.uniform(0.2, 2)
        curve = falling(level, height, chance.uniform(2, 30), 60, chance.choice([0.0, 0.003, 0.02]), seed)
        if seed % 2:
            curve = [(v + level + height * step**-0.7) / 2 for step, v in enumerate(curve, 1)]
        stopped = first_stop(search, curve[:59])
        if min(curve) < 0.3:
            winners, wrong = winners + 1, wrong + (stopped is not None)
        else:
            losers, saved = losers + 1, saved + 60 - (stopped or 60)

    assert winners >= 10 and wrong <= winners * 0.1
    assert saved > 0.45 * 60 * losers
