"""A population on the record: whose place is taken, from whom it goes on, and that nothing depends on order or time."""

from __future__ import annotations

import contextlib
import dataclasses
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest

from conf.sweep_schema import Constraint, Goal, Parameter, Population, Pruning, Search
from sweeps import sampler
from sweeps.legality import problems
from sweeps.population import NotYet, Start, generation_of, generations, lineage, start
from sweeps.space import faults
from sweeps.trials import Report, State, Trial

LOSS = Goal(metric="loss", goal="minimize")
WIDTH = Parameter(type="integer", min=4, max=64)
KIND = Parameter(type="categorical", values=("a", "b"))
SOME = Parameter(type="discrete", values=(0, 0.5, 0.9))
PARAMETERS = {
    "optimizer.lr": Parameter(type="double", min=1e-4, max=1e-1, scale="log"),
    "optimizer.momentum": Parameter(type="double", min=0.8, max=0.999, scale="reverse_log"),
    "params.width": WIDTH,
    "params.size": Parameter(type="discrete", values=(1, 2, 4, 8)),
    "params.kind": KIND,
}


def search_of(size: int = 4, trials: int = 20, **more: Any) -> Search:
    population = Population(size=size, **more)
    return Search(
        kind="search", algorithm="population", parameters=PARAMETERS, trials=trials, population=population, seed=3
    )


def trial(number: int, loss: float | None, state: State = "SUCCEEDED", **more: Any) -> Trial:
    reports = () if loss is None else (Report(step=1, metrics={"loss": loss}),)
    point = sampler.suggest(search_of(), (LOSS,), (), number)
    ended = None if state == "RUNNING" else 100.0 + number
    said = {"number": number, "point": point, "state": state, "reports": reports, "asked": 0.0, "ended": ended}
    return Trial(**{**said, **more})


def grown(search: Search, loss_of: Callable[[Trial, Sequence[Trial]], float | None], at_once: int) -> list[Trial]:
    """A whole search: so many run at once, and end in an order by chance. No loss is a failure."""
    chance, trials, running = random.Random(7), list[Trial](), list[Trial]()
    number, now = 0, 0.0
    while number < search.trials or running:
        if number < search.trials and len(running) < at_once:
            with contextlib.suppress(NotYet):
                found = start(search, LOSS, [*trials, *running], number)
                point = found.point or sampler.suggest(search, (LOSS,), trials, number)
                family = {"parent": found.parent, "follows": found.follows}
                running.append(trial(number, None, "RUNNING", point=point, asked=now, **family))
                number += 1
                continue
        now += 1
        ended = running.pop(chance.randrange(len(running)))
        loss = loss_of(ended, trials)
        state: State = "SUCCEEDED" if loss is not None else "FAILED"
        family = {"parent": ended.parent, "follows": ended.follows}
        trials.append(trial(ended.number, loss, state, point=ended.point, asked=ended.asked, ended=now, **family))
    return sorted(trials, key=lambda t: t.number)


def family(trials: Iterable[Trial]) -> dict[int, Trial]:
    return {each.number: each for each in trials}


def test_start_first_members_begin_from_nothing() -> None:
    trials = [trial(n, None, "RUNNING") for n in range(3)]

    for many in range(4):
        assert start(search_of(), LOSS, trials[:many], many) == Start()


def test_start_while_all_run_has_to_wait() -> None:
    with pytest.raises(NotYet, match="4 members"):
        start(search_of(), LOSS, [trial(n, None, "RUNNING") for n in range(4)], 4)


def test_start_of_a_good_trial_goes_on_with_its_own_weights_and_values() -> None:
    trials = [trial(0, 0.3), *(trial(n, None, "RUNNING") for n in (1, 2, 3))]

    found = start(search_of(), LOSS, trials, 4)

    assert found == Start(point=trials[0].point, parent=0, follows=0)


def test_start_of_the_worst_takes_over_from_the_best_with_other_values() -> None:
    ended = {n: n + 100.0 for n in (1, 2, 3)} | {0: 99.0}
    trials = [trial(n, loss, ended=ended[n]) for n, loss in enumerate((0.9, 0.3, 0.2, 0.5))]

    found = start(search_of(), LOSS, trials, 4)

    assert (found.parent, found.follows) == (2, 0)
    assert found.point and found.point != trials[2].point and not faults(search_of(), found.point)


def test_start_of_a_failed_one_takes_over_and_of_a_failed_founder_alone_begins_anew() -> None:
    running = [trial(n, None, "RUNNING") for n in (1, 2, 3)]

    assert start(search_of(), LOSS, [trial(0, None, "FAILED"), *running], 4) == Start(follows=0)
    found = start(search_of(), LOSS, [trial(0, None, "FAILED"), trial(1, 0.5, ended=500.0), *running[1:]], 4)

    assert (found.parent, found.follows) == (1, 0)


def test_start_whose_parent_failed_alone_begins_where_that_began() -> None:
    first = [trial(n, 0.1 * n) for n in range(4)]
    running = [trial(n, None, "RUNNING", parent=n - 4, follows=n - 4) for n in (5, 6, 7)]
    second = [trial(4, None, "FAILED", parent=0, follows=0), *running]

    found = start(search_of(), LOSS, [*first, *second], 8)

    assert (found.parent, found.follows) == (0, 4)


def test_start_in_place_of_one_that_failed_in_the_last_generation_does_not_go_beyond_it() -> None:
    """Of eight trials the second and last generation is 4 to 7."""
    search = search_of(trials=8)
    first = [trial(n, 0.1 * (n + 1)) for n in range(4)]
    running = [trial(6, None, "RUNNING", parent=2, follows=2)]
    second = [trial(4, 0.01, parent=0, follows=0), trial(5, None, "FAILED", parent=1, follows=1), *running]

    found = [start(dataclasses.replace(search, seed=seed), LOSS, [*first, *second], 7) for seed in range(5)]
    after = {each.follows for each in found}
    parents = {each.parent for each in found}

    assert after == {3} and parents == {0}, "the worst of the first generation goes on from its best"
    third = [*first, *second, trial(7, None, "RUNNING", parent=0, follows=3)]
    last = start(search, LOSS, third, 8)
    assert (last.follows, last.parent) == (5, 0)


def test_start_is_the_same_whatever_the_order_of_trials() -> None:
    trials = grown(search_of(), lambda t, _: (t.number * 7) % 5, 4)
    for number in range(4, 20):
        asked = [t for t in trials if t.number < number]
        with_ends = [t for t in asked if (t.ended or 0) <= trials[number].asked]
        rest = [t for t in asked if t not in with_ends]
        still = [dataclasses.replace(t, state="RUNNING", reports=(), ended=None) for t in rest]
        known = [*with_ends, *still]

        found = start(search_of(), LOSS, known, number)

        assert found == start(search_of(), LOSS, known[::-1], number)
        assert (found.parent, found.follows) == (trials[number].parent, trials[number].follows)


@pytest.mark.parametrize("at_once", [1, 3, 4])
def test_population_trains_every_place_to_its_last_generation(at_once: int) -> None:
    search = search_of()

    trials = grown(search, lambda t, _: t.point["optimizer.lr"], at_once)

    known = family(trials)
    depths = [generation_of(t, known) for t in trials]
    assert sorted(depths) == sorted(list(range(generations(search))) * 4)
    assert len({t.follows for t in trials if t.follows is not None}) == 16, "a place is taken once"
    assert all(t.parent is None or generation_of(known[t.parent], known) == generation_of(t, known) - 1 for t in trials)
    assert all(not faults(search, t.point) for t in trials)


def test_population_with_failures_still_ends_and_loses_no_place() -> None:
    failing = {1, 6, 9, 10, 15}

    trials = grown(search_of(), lambda t, _: None if t.number in failing else t.point["optimizer.lr"], 4)

    known = family(trials)
    assert len(trials) == 20
    depths = [generation_of(t, known) for t in trials]
    assert 3 <= max(depths) <= generations(search_of()) - 1, "nobody trains beyond the last generation"
    assert all(known[t.parent].state == "SUCCEEDED" for t in trials if t.parent is not None)


def test_population_finds_a_schedule_that_no_fixed_value_has() -> None:
    """The toy of Jaderberg et al. (section 4.1), in one dimension: what is right changes while one trains."""
    search = Search(
        kind="search",
        algorithm="population",
        parameters={"params.rate": Parameter(type="double", min=0.01, max=1, scale="log")},
        trials=120,
        population=Population(size=10, factor=1.5),
    )

    def left(own: Trial, before: Sequence[Trial]) -> float:
        """A generation takes most away where its rate is the one of its time, which falls by half each time."""
        known = family(before)
        rate, right = own.point["params.rate"], 0.5 ** generation_of(own, known)
        begun = 100.0 if own.parent is None else known[own.parent].reports[0].metrics["loss"]
        return begun * (1 - 0.5 * min(rate, right) / max(rate, right))

    trials = grown(search, left, 10)

    best = min(trials, key=lambda t: t.reports[0].metrics["loss"])
    fixed = 100.0
    for generation in range(generations(search)):
        fixed *= 1 - 0.5 * min(0.1, 0.5**generation) / max(0.1, 0.5**generation)
    assert best.reports[0].metrics["loss"] < 0.6 * fixed
    rates = [t.point["params.rate"] for t in lineage(best, trials)]
    assert len(rates) == 12 and rates[-1] < 0.2 * rates[0]


def test_points_that_are_taken_over_move_by_the_factor_or_to_a_neighbour() -> None:
    search = search_of(resample=0.0, factor=2.0)
    trials = [trial(n, loss, ended=200.0 - n) for n, loss in enumerate((0.1, 0.2, 0.3, 0.9))]
    before = trials[0].point

    for seed in range(20):
        chosen = Search(**{**vars(search), "seed": seed})
        point = start(chosen, LOSS, trials, 4).point
        assert point is not None

        ratio = point["optimizer.lr"] / before["optimizer.lr"]
        assert ratio == pytest.approx(2) or ratio == pytest.approx(0.5) or point["optimizer.lr"] in (1e-4, 1e-1)
        assert 0.8 <= point["optimizer.momentum"] <= 0.999
        assert point["params.width"] in (
            *(max(4, min(64, round(before["params.width"] * k))) for k in (0.5, 2.0)),
            before["params.width"] + 1,
            before["params.width"] - 1,
        )
        values = (1, 2, 4, 8)
        assert abs(values.index(point["params.size"]) - values.index(before["params.size"])) <= 1
        assert point["params.kind"] == before["params.kind"]
        assert not faults(chosen, point)


# --- what is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "key", "words"),
    [
        ({"population": None}, "sweep.population", "of how many"),
        ({"algorithm": "tpe"}, "sweep.population", "tpe"),
        ({"trials": 18}, "sweep.trials", "18"),
        ({"trials": 4}, "sweep.trials", "two or more"),
        ({"start_points": ({"params.kind": "a"},) * 5}, "sweep.start_points", "5"),
        ({"objectives": (LOSS, Goal(metric="s", goal="minimize"))}, "sweep.objectives", "2"),
        ({"constraints": (Constraint(metric="loss", max=1),)}, "sweep.constraints", "1"),
        ({"pruning": Pruning(rule="median")}, "sweep.pruning", "median"),
        ({"parameters": {"model.width": WIDTH}}, "sweep.parameters.model.width", "training"),
        ({"parameters": {"optimizer": KIND}}, "sweep.parameters.optimizer", "training"),
        ({"parameters": {"optimizer.kind": KIND}}, "sweep.parameters.optimizer.kind", "training"),
        ({"parameters": {"optimizer.momentum": SOME}}, "sweep.parameters.optimizer.momentum", "lack"),
    ],
)
def test_population_that_is_not_well_said_is_refused(changes: Any, key: str, words: str) -> None:
    found = problems(dataclasses.replace(search_of(), **changes), LOSS)

    assert [(k, words in what, bool(do)) for what, k, do in found] == [(key, True, True)]


def test_population_that_is_well_said_is_taken() -> None:
    assert not problems(search_of(), LOSS)


def test_start_of_a_population_that_is_complete_is_none() -> None:
    trials = grown(search_of(trials=8), lambda t, _: 1.0, 4)

    with pytest.raises(sampler.Exhausted, match="2 generations"):
        start(search_of(trials=8), LOSS, trials, 8)
