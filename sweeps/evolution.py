"""CMA-ES replayed: the whole evolution from the record at each ask, since its state is kept nowhere.

Works on shares of axes (0 to 1). Which trials it may see is told.py's, which parameters it moves learning.py's.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from conf.sweep_schema import Goal
from sweeps.axis import Axis, coordinates_of
from sweeps.told import Lesson, generations

FIRST_SPREAD = 1 / 6
"""Of each axis, as Optuna has it."""


def evolved_shares(
    goal: Goal, axes: Mapping[str, Axis], told: Sequence[Lesson], startup: int, seed: int
) -> dict[str, float]:
    """Where the next trial lies on each axis. Needs two axes or more, and `startup` ended trials to begin at.

    Source: Hansen 2016 (The CMA Evolution Strategy: A Tutorial), as the package cmaes has it. It heeds order
    alone, so infeasible trials are simply the last. Trials of earlier searches give the first spread
    (warm-started CMA-ES, Nomura et al. 2021).
    """
    import numpy as np

    cmaes = _package()
    ended = sorted((x for x in told if x.state != "running"), key=lambda x: (x.number >= 0, x.ended or 0.0, x.number))
    first = {lesson.number for lesson in ended[:startup]}
    earlier = [lesson for lesson in told if lesson.number < 0]
    mean, spread, shape = _beginning(goal, axes, ended[:startup], earlier)
    bounds = np.tile([0.0, 1.0], (len(axes), 1))
    evolution = cmaes.CMA(mean=mean, sigma=spread, cov=shape, bounds=bounds, seed=seed)
    after_start = _asked_after(told, first)
    for generation in generations(after_start, evolution.population_size)[1]:
        ranked = sorted(generation, key=lambda lesson: _loss(goal, lesson))
        evolution.tell([(_place(axes, lesson), float(rank)) for rank, lesson in enumerate(ranked)])
    return dict(zip(axes, (float(share) for share in evolution.ask()), strict=True))


def _beginning(
    goal: Goal, axes: Mapping[str, Axis], start: Sequence[Lesson], earlier: Sequence[Lesson]
) -> tuple[Any, float, Any]:
    """Mean, spread and shape: of the best that earlier searches found, else around the best of the random start."""
    import numpy as np

    ranked = sorted(earlier, key=lambda lesson: _loss(goal, lesson))
    if len(ranked) >= 10 * len(axes):
        places = [(_place(axes, lesson), float(rank)) for rank, lesson in enumerate(ranked)]
        mean, spread, shape = _package().get_warm_start_mgd(places)
        return np.clip(mean, 0.0, 1.0), float(spread), shape
    best = min(start, key=lambda lesson: _loss(goal, lesson), default=None)
    middle = np.full(len(axes), 0.5)
    return (middle if best is None else _place(axes, best)), FIRST_SPREAD, None


def _package() -> Any:
    """cmaes, which has no types."""
    return importlib.import_module("cmaes")


def _asked_after(told: Sequence[Lesson], first: set[int]) -> list[Lesson]:
    """Trials that were asked for when the random start was over: the others are none of the evolution's."""
    over = max((x.ended or 0.0 for x in told if x.number in first), default=0.0)
    return [x for x in told if x.number >= 0 and x.number not in first and x.asked >= over]


def _loss(goal: Goal, lesson: Lesson) -> tuple[float, float, int]:
    sign = -1.0 if goal.goal == "maximize" else 1.0
    return lesson.fault, sign * lesson.values[0], lesson.number


def _place(axes: Mapping[str, Axis], lesson: Lesson) -> Any:
    import numpy as np

    coordinates = coordinates_of(axes, {name: lesson.point[name] for name in axes})
    assert coordinates is not None
    return np.array([axis.share_of(coordinates[name]) for name, axis in axes.items()])
