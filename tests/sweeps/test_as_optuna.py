"""Points are those of Optuna used directly, bit for bit, its sampler made anew with our seed before each trial.

So nothing is lost by rebuilding a study at each ask: what is left is chance, which has the same distribution whether
one generator serves all trials or each has its own. (Not so of NSGA-II, whose parents Optuna lists in another order
once it has cached them; its generations have a test in test_told.py.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pytest

from conf.sweep_schema import Goal, Parameter, Search
from sweeps.rebuilt import quiet
from sweeps.sampler import suggest
from sweeps.trials import Report, State, Trial
from sweeps.unlearned import seed_of

if TYPE_CHECKING:
    import optuna

LOSS = Goal(metric="loss", goal="minimize")
WORDS, SIZES = ("sgd", "adam", "lion"), (16, 32, 64.5, 128)
SPACE = {
    "word": Parameter(type="categorical", values=WORDS),
    "lr": Parameter(type="double", min=1e-5, max=1, scale="log"),
    "size": Parameter(type="discrete", values=SIZES),
    "momentum": Parameter(type="double", min=-1, max=1),
    "layers": Parameter(type="integer", min=1, max=12),
    "width": Parameter(type="integer", min=8, max=1024, scale="log"),
}


def asked(trial: optuna.Trial) -> dict[str, Any]:
    """SPACE as Optuna's documentation would have it."""
    return {
        "word": trial.suggest_categorical("word", WORDS),
        "lr": trial.suggest_float("lr", 1e-5, 1, log=True),
        "size": SIZES[trial.suggest_int("size", 0, 3)],
        "momentum": trial.suggest_float("momentum", -1, 1),
        "layers": trial.suggest_int("layers", 1, 12),
        "width": trial.suggest_int("width", 8, 1024, log=True),
    }


def loss(point: Mapping[str, Any]) -> float:
    word, size = WORDS.index(point["word"]), SIZES.index(point["size"])
    deep = abs(point["layers"] - 6) / 4 + abs(math.log2(point["width"]) - 7)
    return abs(word - 1) + abs(size - 2) + deep + abs(math.log10(point["lr"]) + 3) + (point["momentum"] - 0.3) ** 2


def ends_as(search: Search, number: int) -> State:
    """Every seventh fails; with TPE, which alone learns of it what Optuna's does, every fifth is pruned."""
    if number % 7 == 6:
        return "FAILED"
    return "PRUNED" if number % 5 == 4 and search.algorithm == "tpe" else "SUCCEEDED"


def found_here(search: Search, running: int) -> list[dict[str, Any]]:
    """The points of trials in a row, of which `running` others always run when one is asked for."""
    trials: dict[int, Trial] = {}
    for number in range(search.trials):
        point = suggest(search, (LOSS,), list(trials.values()), number)
        trials[number] = Trial(number=number, point=point, state="RUNNING", asked=number)
        if (done := number - running) >= 0:
            reports = (Report(step=1, metrics={"loss": loss(trials[done].point)}),)
            own = {"number": done, "point": trials[done].point, "asked": done, "ended": number + 0.5}
            trials[done] = Trial(state=ends_as(search, done), reports=reports, **own)
    return [dict(trial.point) for trial in trials.values()]


def found_by_optuna(search: Search, running: int) -> list[dict[str, Any]]:
    import optuna

    states = {"FAILED": optuna.trial.TrialState.FAIL, "PRUNED": optuna.trial.TrialState.PRUNED}
    found: list[dict[str, Any]] = []
    going: list[optuna.Trial] = []
    with quiet():
        study = optuna.create_study()
        for number in range(search.trials):
            study.sampler = sampler_of(search, seed_of(search, number, 0))
            going.append(study.ask())
            found.append(asked(going[-1]))
            if (done := number - running) >= 0:
                going[done].report(loss(found[done]), 1)
                state = states.get(ends_as(search, done))
                study.tell(going[done], None if state else loss(found[done]), state=state)
    return found


def sampler_of(search: Search, seed: int) -> optuna.samplers.BaseSampler:
    """Optuna's own, with its own defaults but for the start, which these searches have shorter."""
    from optuna.samplers import GPSampler, TPESampler

    sampler = {"tpe": TPESampler, "gp": GPSampler}[search.algorithm]
    return sampler(seed=seed, n_startup_trials=search.startup_trials)


@pytest.mark.parametrize("running", [0, 3])
@pytest.mark.parametrize(("algorithm", "trials"), [("tpe", 50), ("gp", 12)])
def test_suggest_on_the_same_record_gives_the_points_of_optuna(algorithm: str, trials: int, running: int) -> None:
    own = {"algorithm": algorithm, "parameters": SPACE, "trials": trials, "startup_trials": 6, "seed": 3}
    search = Search(kind="search", **own)

    assert found_here(search, running) == found_by_optuna(search, running)
