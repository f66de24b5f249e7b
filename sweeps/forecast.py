"""How likely a falling curve is to end below a bar: saturating shapes, each weighed by how well it explains it.

Bayesian linear regression of a level and a height on a dozen fixed shapes and four sizes of noise, so all is in closed
form, deterministic, and standard library. With few or noisy reports many shapes fit, and the answer is «perhaps».
Source of the idea: Domhan et al. 2015 (a weighted ensemble of parametric learning curves).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

FEWEST = 4
"""Finite reports below which nothing is said."""
POWERS = (0.25, 0.5, 1.0, 2.0)
HALVINGS = range(6)
NOISES = (1.0, 2.0, 4.0, 8.0)
LEAST_NOISE = 0.005
"""In units of the gap to the bar or of the range so far, whichever is larger."""
WIDTH = 2.0
"""Spread of level and height before anything is seen, in the same units."""
DOUBT = 0.25
"""What no shape knows of, in the same units, for each e-fold of steps still to come: flat at a tenth of the way is
just enough to be given up at a confidence of 0.95."""
Shape = Callable[[int], float]


@dataclass(frozen=True)
class Fit:
    """One shape with one noise: how well it explains the reports, and what it says of the end."""

    evidence: float
    mean: float
    deviation: float
    noise: float


def chance_below(bar: float, losses: Sequence[float], end: int, of_best: bool) -> float | None:
    """The probability that the trial's value at step `end` is below `bar`; None when there are too few reports.

    `losses` are those of steps 1, 2, ...; infinite ones are passed over. `of_best`: the trial's value will be its
    best report, so it counts what is there already, and that the best of many noisy reports lies below the curve.
    """
    known = [(step, loss) for step, loss in enumerate(losses, 1) if math.isfinite(loss)]
    if of_best and any(loss < bar for _, loss in known):
        return 1.0
    seen = known[len(known) // 5 :]  # the fall from an arbitrary start says little of the end
    if len(seen) < FEWEST:
        return None
    values, last = [loss for _, loss in seen], seen[-1][1]
    scale = max(abs(statistics.median(values) - bar), max(values) - min(values)) or 1.0
    fits = list(_fits([(step, (loss - last) / scale) for step, loss in seen], end))
    goal, doubt = (bar - last) / scale, DOUBT * math.log(end / len(losses))
    to_come = math.sqrt(2 * math.log1p(end - len(losses))) if of_best else 0.0
    most = max(fit.evidence for fit in fits)
    weights = [math.exp(fit.evidence - most) for fit in fits]
    chances = [_normal((goal + to_come * fit.noise - fit.mean) / math.hypot(fit.deviation, doubt)) for fit in fits]
    return sum(w * c for w, c in zip(weights, chances, strict=True)) / sum(weights)


def _fits(seen: Sequence[tuple[int, float]], end: int) -> Iterator[Fit]:
    """Every shape with every noise, for steps and losses in units of the gap or range."""
    values = [loss for _, loss in seen]
    least = max(_roughness(values), LEAST_NOISE)
    for shape in _shapes(end):
        last = shape(end)
        heights = [shape(step) - last for step, _ in seen]  # so the level is the value at the end
        for noise in NOISES:
            yield _fit(heights, values, noise * least)


def _shapes(end: int) -> Iterator[Shape]:
    """Powers, exponentials of which the slowest hardly bends, and a logarithm, which never saturates."""
    for power in POWERS:
        yield lambda step, power=power: step**-power  # type: ignore[misc]
    for halving in HALVINGS:
        yield lambda step, span=end / 2**halving: math.exp(-step / span)  # type: ignore[misc]
    yield lambda step: -math.log(step)


def _fit(heights: Sequence[float], values: Sequence[float], noise: float) -> Fit:
    """Level and height with normal priors, exactly: two unknowns, so a two by two matrix.

    Heights are scaled to 1 at the first report, so that the prior means the same for every shape.
    """
    unit = heights[0] or 1.0
    g = [h / unit for h in heights]
    precision, prior = 1 / noise**2, 1 / WIDTH**2
    many, sum_g, sum_gg = len(g), sum(g), sum(x * x for x in g)
    sum_y, sum_gy = sum(values), sum(x * y for x, y in zip(g, values, strict=True))
    a, b, d = precision * many + prior, precision * sum_g, precision * sum_gg + prior
    determinant = a * d - b * b
    level = precision * (d * sum_y - b * sum_gy) / determinant
    height = precision * (a * sum_gy - b * sum_y) / determinant
    misfit = sum((y - level - height * x) ** 2 for x, y in zip(g, values, strict=True)) * precision
    misfit += (level**2 + height**2) * prior
    evidence = -0.5 * (misfit + many * math.log(noise**2) + math.log(determinant) - 2 * math.log(prior))
    return Fit(evidence, level, math.sqrt(d / determinant + noise**2), noise)


def _roughness(values: Sequence[float]) -> float:
    """The noise, from what three neighbours differ from a line; the median heeds no spikes."""
    bends = [abs(a - 2 * b + c) for a, b, c in zip(values, values[1:], values[2:], strict=False)]
    return statistics.median(bends) / (0.6745 * math.sqrt(6))


def _normal(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2))
