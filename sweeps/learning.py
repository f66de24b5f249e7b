"""The algorithms that learn from earlier trials: TPE, Gaussian process and NSGA-II by Optuna, CMA-ES by cmaes.

What they would remember of a study is not kept anywhere: it is rebuilt at each ask from what told.py says.
Importing this imports none of their packages.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from conf.sweep_schema import Goal, Search
from sweeps.axis import Axis, axes_of, coordinates_of, make_point
from sweeps.evolution import evolved_shares
from sweeps.rebuilt import empty_study, frozen, quiet
from sweeps.told import Lesson, generations, most_useful
from sweeps.unlearned import Propose, seed_of

if TYPE_CHECKING:
    import optuna

NEEDS = {
    "tpe": ("optuna",),
    "gp": ("optuna", "scipy", "torch"),
    "nsga2": ("optuna",),
    "cma_es": ("optuna", "cmaes"),
}
MOST_LEARNT = {"tpe": 2000, "gp": 400, "nsga2": 2000, "cma_es": 2000}
"""Ended trials that an algorithm looks at, half of them the best and half the newest. An ask of gp costs about a
second with 400, and four with 1,000. CMA-ES sees all: this is for the parameters that it does not move."""
RECENT_GENERATIONS = 20
"""Of NSGA-II; all that is older counts as one, whose elite is nearly the same (with one goal the very same)."""


def load(algorithm: str) -> None:
    """Import the packages of an algorithm. Raises ImportError."""
    for name in NEEDS[algorithm]:
        importlib.import_module(name)


class Memory:
    """What an algorithm knows of a study, and points from it."""

    def __init__(self, search: Search, goals: tuple[Goal, ...], told: Sequence[Lesson]) -> None:
        self._search, self._goals, self._told = search, goals, list(told)
        self._axes = axes_of(search)
        self._limited = any(lesson.broken for lesson in told)
        self._study: optuna.Study | None = None
        self._asked: list[optuna.Trial] = []
        """Attempts at the point that was proposed last: running trials, so that the next attempt keeps off."""

    def proposer(self, given: Mapping[str, Any], number: int) -> Propose:
        """Points for one trial, all with the `given` values."""
        if self._search.algorithm == "cma_es":
            return self._evolved(given, number)
        return self._sampled(given, number)

    def add(self, number: int, point: Mapping[str, Any], asked: float) -> None:
        """A trial that got its point now and runs."""
        self._told.append(Lesson(number=number, state="running", point=point, asked=asked))
        if self._search.algorithm == "nsga2":
            self._study = None  # whose generations are read from all of the study
        if self._study is not None:
            from optuna.trial import TrialState

            with quiet():
                for trial in self._asked:
                    self._study.tell(trial, state=TrialState.FAIL)
                self._tell(self._told[-1:])
        self._asked = []

    def _sampled(self, given: Mapping[str, Any], number: int) -> Propose:
        """By Optuna's sampler, on a study of what is told."""
        search = self._search

        def propose(attempt: int) -> dict[str, Any]:
            with quiet():
                if self._study is None:
                    self._study = empty_study(self._goals)
                    self._tell(most_useful(self._goals, self._told, MOST_LEARNT[search.algorithm]))
                self._study.sampler = _sampler(search, self._goals, seed_of(search, number, attempt), self._limited)
                trial = self._study.ask()
                self._asked.append(trial)
                return make_point(
                    search, lambda name: given[name] if name in given else _ask(trial, name, self._axes[name])
                )

        return propose

    def _tell(self, lessons: Sequence[Lesson]) -> None:
        """What is told, as trials, cut to what the algorithm can digest."""
        assert self._study is not None
        distributions = {name: axis.distribution() for name, axis in self._axes.items()}
        marks = _generation_marks(self._search, self._told)
        for lesson in lessons:
            if (coordinates := coordinates_of(self._axes, lesson.point)) is not None:
                own = {name: distributions[name] for name in coordinates}
                state, more = _state(self._search, self._goals, lesson)
                attributes = {**marks.get(lesson.number, {}), "constraints": list(lesson.broken)}
                self._study.add_trial(frozen(state, coordinates, own, system_attrs=attributes, **more))

    def _evolved(self, given: Mapping[str, Any], number: int) -> Propose:
        """CMA-ES for the numbers that are always there and vary, when there are two or more; TPE for all else."""
        search, goal = self._search, self._goals[0]
        axes = {
            name: axis
            for name, axis in self._axes.items()
            if axis.kind != "category" and axis.low < axis.high and not axis.parameter.when and name not in given
        }
        ended = [lesson for lesson in self._told if lesson.state != "running"]
        if len(axes) < 2 or len(ended) < search.startup_trials:
            return self._sampled(given, number)
        with_all = not (search.parameters.keys() - axes.keys() - given.keys())

        def propose(attempt: int) -> dict[str, Any]:
            shares = evolved_shares(goal, axes, self._told, search.startup_trials, seed_of(search, number, attempt))
            known = {**given, **{name: axis.value_below(shares[name]) for name, axis in axes.items()}}
            if with_all:
                return make_point(search, lambda name: known[name])
            return self._sampled(known, number)(attempt)

        return propose


def _ask(trial: optuna.Trial, name: str, axis: Axis) -> Any:
    if axis.kind == "category":
        return axis.value_at(trial.suggest_categorical(name, range(int(axis.high) + 1)))
    if axis.kind == "whole":
        return axis.value_at(trial.suggest_int(name, int(axis.low), int(axis.high), log=axis.log))
    return axis.value_at(trial.suggest_float(name, axis.low, axis.high, log=axis.log))


def _state(search: Search, goals: tuple[Goal, ...], lesson: Lesson) -> tuple[optuna.trial.TrialState, dict[str, Any]]:
    """Only TPE with one goal knows what to do with a pruned trial; to others it ended where it was stopped."""
    from optuna.trial import TrialState

    if lesson.state == "running":
        return TrialState.RUNNING, {}
    if lesson.state == "pruned" and search.algorithm == "tpe" and len(goals) == 1:
        return TrialState.PRUNED, {"intermediate_values": {lesson.reports: lesson.values[0]}}
    return TrialState.COMPLETE, {"values": lesson.values}


def _sampler(search: Search, goals: tuple[Goal, ...], seed: int, limited: bool) -> optuna.samplers.BaseSampler:
    """Optuna's defaults, with joint sampling also where parameters are not always there."""
    import optuna
    from optuna.samplers import GPSampler, NSGAIISampler, TPESampler

    # Optuna 5 reads constraints from the trials and warns of a function; 4 heeds them only with a function.
    by_function = limited and int(optuna.__version__.split(".")[0]) < 5
    limits: Any = {"constraints_func": lambda trial: trial.system_attrs["constraints"]} if by_function else {}
    if search.algorithm == "nsga2":
        return NSGAIISampler(seed=seed, population_size=_population(search), **limits)
    conditions = any(parameter.when for parameter in search.parameters.values())
    tpe = TPESampler(
        seed=seed,
        n_startup_trials=search.startup_trials,
        multivariate=len(goals) == 1 or conditions,
        group=conditions,
        constant_liar=True,
        **limits,
    )
    if search.algorithm == "gp":  # what is not always there is none of the process's
        return GPSampler(seed=seed, n_startup_trials=search.startup_trials, independent_sampler=tpe, **limits)
    return tpe


def _population(search: Search) -> int:
    """NSGA-II's first generation is the random start."""
    return max(4, search.startup_trials)


def _generation_marks(search: Search, told: Sequence[Lesson]) -> dict[int, dict[str, int]]:
    """The attribute in which Optuna's NSGA-II would have kept each trial's generation."""
    if search.algorithm != "nsga2":
        return {}
    from optuna.samplers import NSGAIISampler

    key = NSGAIISampler._get_generation_key()
    place_of, complete = generations(told, _population(search))
    old = max(0, len(complete) - RECENT_GENERATIONS)
    return {number: {key: max(0, place - old)} for number, place in place_of.items()}
