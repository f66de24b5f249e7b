"""What of the trials so far an algorithm is told: lessons, the most useful, and generations."""

from __future__ import annotations

import random

from conf.sweep_schema import Constraint, Parameter
from sweeps.learning import MOST_LEARNT
from sweeps.told import generations, lessons, most_useful
from sweeps.trials import Report, Trial
from tests.sweeps.suggested import LOSS, PLANE, search_of, trial


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
