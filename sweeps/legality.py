"""Whether a search is well said: its parameters and conditions, and whether its parts go together.

Everything that can be known from the search alone. That swept keys exist and that values fit them is
launchers/config/check.py's, with the points that space.corners gives it.
"""

from __future__ import annotations

from collections.abc import Iterator

from conf.sweep_schema import Goal, Search
from sweeps import dimensions, population_rules
from sweeps.grid import Mistake
from sweeps.learning import NEEDS
from sweeps.names import nearest
from sweeps.space import count, faults, grid_points
from sweeps.trials import goals_of
from sweeps.values import shown

MOST_GRID_POINTS = 100_000
"""Of a search by `grid`, whose points are listed anew at each ask. A grid that is known at launch may have more."""


def problems(search: Search, goal: Goal) -> list[Mistake]:
    """Everything wrong with a search, each as (what with both values, key, what to do).

    `goal` is the run's own objective, which holds where the search names none. Points (to start with, of a grid)
    are only looked at in a space that is well said.
    """
    space = dimensions.problems(search)
    found = [*space, *_goals(search, goal), *_constraints(search), *_pruning(search, goal), *_algorithm(search, goal)]
    found += [*_warm_start(search), *population_rules.problems(search, goal)]
    return found if space else [*found, *_learnt(search), *_grid(search), *_start_points(search)]


def _goals(search: Search, goal: Goal) -> Iterator[Mistake]:
    seen: dict[str, Goal] = {}
    for i, each in enumerate(goals_of(search, goal)):
        if each.metric in seen:
            what = f"{each.metric} is an objective twice: {seen[each.metric].goal} and {each.goal}"
            yield what, f"sweep.objectives.{i}.metric", "name each metric once"
        seen[each.metric] = each


def _constraints(search: Search) -> Iterator[Mistake]:
    for i, each in enumerate(search.constraints):
        key = f"sweep.constraints.{i}"
        if each.min is None and each.max is None:
            yield f"the constraint on {each.metric} has neither min nor max", key, "give it one, or remove it"
        elif each.min is not None and each.max is not None and not each.min <= each.max:
            what = f"the constraint on {each.metric} has min {each.min} above max {each.max}: nothing can keep it"
            yield what, f"{key}.min", "exchange them"


def _pruning(search: Search, goal: Goal) -> Iterator[Mistake]:
    pruning = search.pruning
    if pruning is None:
        return
    if (many := len(goals_of(search, goal))) > 1:
        what = f"pruning is {pruning.rule}, and there are {many} objectives: no trial is behind in all of them for sure"
        yield what, "sweep.pruning", "remove pruning, or keep one objective and make the others constraints"
    if pruning.max_step is None and pruning.rule in ("hyperband", "decay_curve"):
        what = f"{pruning.rule} must know how many reports a whole trial makes, and max_step is not given"
        yield what, "sweep.pruning.max_step", "give the number of reports, or use rule: asha or median"
    if pruning.max_step is not None and pruning.max_step < pruning.min_step:
        what = f"max_step {pruning.max_step} is below min_step {pruning.min_step}"
        yield what, "sweep.pruning.max_step", "let it be the number of reports of a whole trial"
    if pruning.min_step == 0 and pruning.rule in ("asha", "hyperband"):
        what = f"{pruning.rule} has its rungs at min_step times powers of {pruning.reduction}, and min_step is 0"
        yield what, "sweep.pruning.min_step", "let it be 1 or more"


def _algorithm(search: Search, goal: Goal) -> Iterator[Mistake]:
    if search.algorithm != "cma_es":
        return
    if (many := len(goals_of(search, goal))) > 1:
        do = "use algorithm: tpe, gp or nsga2, or keep one objective"
        yield f"cma_es has one objective, and there are {many}", "sweep.algorithm", do
    if search.constraints:
        what = f"cma_es does not heed constraints, and there are {len(search.constraints)}"
        yield what, "sweep.algorithm", "use algorithm: tpe, gp or nsga2, or remove the constraints"


def _warm_start(search: Search) -> Iterator[Mistake]:
    if search.warm_start and search.algorithm not in NEEDS:
        what = f"warm_start names {shown(search.warm_start)}, and algorithm {search.algorithm} learns from no trial"
        do = f"use algorithm: {', '.join(list(NEEDS)[:-1])} or {list(NEEDS)[-1]}; or remove warm_start"
        yield what, "sweep.warm_start", do


def _learnt(search: Search) -> Iterator[Mistake]:
    """Optuna 5: CMA-ES learns from numbers that every trial has, and leaves all else to chance."""
    always = [name for name, each in search.parameters.items() if each.type != "categorical" and not each.when]
    if search.algorithm == "cma_es" and all(count(search.parameters[name]) == 1 for name in always):
        what = (
            f"cma_es needs a number that is always there and varies, and finds none in {', '.join(search.parameters)}"
        )
        yield what, "sweep.algorithm", "use algorithm: tpe"


def _grid(search: Search) -> Iterator[Mistake]:
    if search.algorithm != "grid":
        return
    counts = {name: count(parameter) for name, parameter in search.parameters.items()}
    for name, many in counts.items():
        if many is None:
            what = f"algorithm is grid, and {name} is a double without a step: it has no list of values"
            yield what, f"sweep.parameters.{name}.step", "give it a step, or make it discrete with values"
    if None in counts.values():
        return
    one_alone = any(many is not None and many > MOST_GRID_POINTS for many in counts.values())
    if one_alone or len(grid_points(search, MOST_GRID_POINTS + 1)) > MOST_GRID_POINTS:
        what = f"algorithm is grid, and the space has more than {MOST_GRID_POINTS} points"
        do = "take longer steps or fewer values, or use algorithm: random or quasi_random"
        yield what, "sweep.algorithm", do


def _start_points(search: Search) -> Iterator[Mistake]:
    if (many := len(search.start_points)) > search.trials:
        what = f"there are {many} start points, and {search.trials} trials: not all would be tried"
        yield what, "sweep.trials", f"let it be {many} or more, or remove start points"
    for i, point in enumerate(search.start_points):
        for name, what in faults(search, point, whole=False):
            known = name in search.parameters
            do = "mend the start point, or the parameter" if known else nearest(name, list(search.parameters))
            yield f"start point {i}: {what}", f"sweep.start_points.{i}.{name}", do
