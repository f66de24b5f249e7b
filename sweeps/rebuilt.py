"""A search's record as an Optuna study in memory: every trial as it was, for plots and importances.

What a sampler is told differs (an infeasible point must look bad to it, a long record is cut): that is
sampler.py's. Optuna is imported when a function is called, never at import.
"""

from __future__ import annotations

import contextlib
import copy
import datetime
import functools
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from conf.sweep_schema import Goal, Parameter, Search
from sweeps.trials import Trial, values_of, violations_of
from sweeps.values import shown

if TYPE_CHECKING:
    import optuna

Attributes = Mapping[str, Any]


def study_of(search: Search, goals: tuple[Goal, ...], trials: Sequence[Trial]) -> optuna.study.Study:
    """Every trial under its own number, with original values, all reports of the first goal and its times.

    A number that nobody asked for yet is a WAITING trial; FAILED, LOST, CANCELLED, INFEASIBLE and a trial
    without a value are FAIL. Our own words for it stand in `user_attrs` (state, error, gpu_hours, attempts).
    Times are UTC without a zone, as Optuna's plots want them.
    """
    from optuna.trial import TrialState

    study = empty_study(goals)
    axes = {name: _distribution(parameter) for name, parameter in search.parameters.items()}
    known = {trial.number: trial for trial in trials}
    with quiet():
        for number in range(max(known, default=-1) + 1):
            trial = known.get(number)
            study.add_trial(_frozen(search, goals, axes, trial) if trial else frozen(TrialState.WAITING))
    return study


def empty_study(goals: tuple[Goal, ...]) -> optuna.study.Study:
    """A study in memory with the goals' directions."""
    import optuna

    with quiet():
        return optuna.create_study(directions=[goal.goal for goal in goals])


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Neither Optuna's log nor its warnings (experimental, deprecated) reach the user while this holds."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(before)


def frozen(
    state: optuna.trial.TrialState,
    params: Attributes | None = None,
    distributions: Mapping[str, optuna.distributions.BaseDistribution] | None = None,
    **more: Any,
) -> optuna.trial.FrozenTrial:
    """A trial for `Study.add_trial`, which does not copy this one deeply (1 ms a trial with ten parameters)."""
    finished = state.is_finished()
    times = {
        "datetime_start": _time(0.0) if finished or state.name == "RUNNING" else None,
        "datetime_complete": _time(0.0) if finished else None,
    }
    parts = {"values": None, "user_attrs": {}, "system_attrs": {}, "intermediate_values": {}, **times, **more}
    own = {"params": dict(params or {}), "distributions": dict(distributions or {})}
    trial: optuna.trial.FrozenTrial = _light_trial()(number=-1, trial_id=-1, state=state, value=None, **own, **parts)
    return trial


@functools.cache
def _light_trial() -> Any:
    from optuna.trial import FrozenTrial

    class LightTrial(FrozenTrial):
        """Nobody changes it once it is told, so a storage may have it without copying all below it."""

        def __deepcopy__(self, memo: Any) -> LightTrial:
            return copy.copy(self)

    return LightTrial


def _frozen(search: Search, goals: tuple[Goal, ...], axes: Attributes, trial: Trial) -> optuna.trial.FrozenTrial:
    from optuna.trial import TrialState

    values = values_of(trial, goals, search.measurement)
    states = {"RUNNING": TrialState.RUNNING, "PRUNED": TrialState.PRUNED}
    if trial.state in ("SUCCEEDED", "TIMEOUT") and values is not None:
        states[trial.state] = TrialState.COMPLETE
    state = states.get(trial.state, TrialState.FAIL)
    started = trial.asked if trial.started is None else trial.started
    ended = max(started, started if trial.ended is None else trial.ended)  # clocks of two hosts
    return frozen(
        state,
        {name: _shown(search.parameters[name], value) for name, value in trial.point.items()},
        {name: axes[name] for name in trial.point},
        values=values if state in (TrialState.COMPLETE, TrialState.PRUNED) else None,
        datetime_start=_time(started),
        datetime_complete=_time(ended) if state.is_finished() else None,
        user_attrs={k: getattr(trial, k) for k in ("state", "error", "gpu_hours", "attempts")},
        system_attrs=_constraints(search, trial) if state == TrialState.COMPLETE else {},
        intermediate_values={
            report.step: report.metrics[goals[0].metric]
            for report in trial.reports
            if goals[0].metric in report.metrics
        },
    )


def _constraints(search: Search, trial: Trial) -> Attributes:
    """Optuna's own attribute, in the form that 4 and 5 read. A metric never reported counts as broken."""
    if not search.constraints:
        return {}
    found = violations_of(trial, search.constraints)
    return {"constraints": [1.0] * len(search.constraints) if found is None else list(found)}


def _distribution(parameter: Parameter) -> optuna.distributions.BaseDistribution:
    """The axis of a plot: original values, and steps left out, since a plot needs none."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if parameter.type == "categorical":
        return CategoricalDistribution([_shown(parameter, value) for value in parameter.values])
    ends = parameter.values if parameter.type == "discrete" else (parameter.min, parameter.max)
    numbers = [end for end in ends if end is not None]
    log = parameter.scale == "log" and min(numbers) > 0
    whole = parameter.type == "discrete" and all(isinstance(n, int) for n in numbers)
    if whole or parameter.type == "integer":
        return IntDistribution(math.floor(min(numbers)), math.ceil(max(numbers)), log=log)
    return FloatDistribution(min(numbers), max(numbers), log=log)


def _shown(parameter: Parameter, value: Any) -> Any:
    """A category as Optuna takes it: words and numbers as they are, a mixture of kinds or a list as text."""
    if parameter.type != "categorical":
        return value
    kinds = {type(choice) for choice in parameter.values} - {type(None)}
    plain = kinds <= {int, float} or kinds in ({str}, {bool})
    return value if plain or value is None else shown(value)


def _time(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, tz=datetime.UTC).replace(tzinfo=None)
