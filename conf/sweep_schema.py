"""What the group `sweep` may say: a grid of points known at launch, or a search that asks for each point late.

One frozen dataclass per kind. How a grid becomes points and a search suggests them is sweeps/'s; that
swept keys exist and fit their types is launchers/config/check.py's. Standard library only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from conf.bounds import Bound, Count, Fraction, ModelName, NotNegative, Positive, group

Values = Annotated[tuple[Any, ...], Bound(min_length=1)]
"""What a key takes, one after the other: numbers, words, or options of a group."""
Axes = Mapping[str, Values]
"""Key (`optimizer.lr`) or group (`model`) to its values."""


@group
class Block:
    """One part of a grid: a product of axes, times axes that step together."""

    product: Axes = dataclasses.field(default_factory=dict)
    zip: Axes = dataclasses.field(default_factory=dict)


@group
class Subset:
    """A random part of a grid, the same for the same seed."""

    count: Count
    seed: NotNegative = 1


@group
class Grid:
    """Points known at launch: (product x zip x blocks x axes of the command line) minus exclude, times repeats."""

    kind: Literal["grid"]
    product: Axes = dataclasses.field(default_factory=dict)
    """Every combination, the last key fastest."""
    zip: Axes = dataclasses.field(default_factory=dict)
    """Lists of one length whose values step together."""
    blocks: tuple[Block, ...] = ()
    """Alternatives, one after the other: each a grid of its own, times what stands beside."""
    exclude: tuple[Mapping[str, Any], ...] = ()
    """Combinations left out: a point goes when it has every value that an entry names."""
    repeats: Count = 1
    """How often each point is run, with `seed`, `seed` + 1, ..."""
    subset: Subset | None = None
    """Taken last."""


@group
class Parameter:
    """One dimension of a search."""

    type: Literal["double", "integer", "categorical", "discrete"]
    """discrete: a list of numbers that have an order. categorical: values without one, or options of a group."""
    min: float | None = None
    max: float | None = None
    step: Positive | None = None
    scale: Literal["linear", "log", "reverse_log"] = "linear"
    """reverse_log is fine near max, as for a momentum of 0.9 to 0.999."""
    values: tuple[Any, ...] = ()
    """Of a categorical or discrete parameter."""
    when: Axes = dataclasses.field(default_factory=dict)
    """Parents and the values of theirs at which this parameter is there; all must hold. May be nested."""


@group
class Goal:
    """A metric to optimise; several make a Pareto set."""

    metric: str
    goal: Literal["maximize", "minimize"]


@group
class Constraint:
    """A metric that must stay within limits for a trial to count as feasible."""

    metric: str
    min: float | None = None
    max: float | None = None


@group
class Pruning:
    """When a running trial is stopped because it will not win."""

    rule: Literal["median", "decay_curve", "asha", "hyperband"]
    min_trials: Count = 5
    """Trials that must have reported before anyone is stopped (median, decay_curve)."""
    min_step: NotNegative = 1
    """Reports before a trial may be stopped; the lowest rung of asha and hyperband."""
    max_step: Count | None = None
    """Reports of a whole trial: what decay_curve forecasts to, the top rung of hyperband."""
    reduction: Annotated[int, Bound(ge=2)] = 3
    """asha, hyperband: one of so many goes on from each rung."""
    percentile: Annotated[float, Bound(gt=0, lt=100)] = 50.0
    """median: trials worse than this share of the others at the same step are stopped."""
    confidence: Fraction = 0.95
    """decay_curve: how sure it must be that a trial ends below the best."""


@group
class Population:
    """Population-based training: members train side by side in generations, each of which is a trial that goes on from
    a checkpoint of the one before; the worst go on from one of the best, with other values. sweep.trials is `size`
    times the generations. Our trainer ends each generation by itself; another's program trains for one generation
    whenever it is started, from what stands in its checkpoint folder."""

    size: Annotated[int, Bound(ge=2)]
    """Members, which may all run at once."""
    quantile: Annotated[float, Bound(gt=0, le=0.5)] = 0.25
    """Of the trials that have ended the same generation by then, so many count as the worst and as the best: one at
    least, where there are two or more. A member among the worst goes on from one of the best."""
    factor: Annotated[float, Bound(gt=1)] = 1.2
    """What a number that is taken over is multiplied with or divided by."""
    resample: Fraction = 0.25
    """How likely a value that is taken over is drawn anew instead."""


@group
class Limits:
    """What a search may spend and when it has found enough; None is no limit."""

    wall_min: Count | None = None
    """Since the first trial began."""
    gpu_hours: Positive | None = None
    """Cards x time. A trial reserves its time limit when it asks and settles when it ends."""
    no_progress_trials: Count | None = None
    """Ended trials in a row that did not improve the best."""
    target: float | None = None
    """The first objective's value that is good enough."""
    max_failed: NotNegative | None = None
    """Trials that may fail by their own fault; more end the search."""
    same_failures: Count = 5
    """Failures in a row with one and the same error, none succeeding between: the search stops and shows it."""


@group
class Search:
    """Points asked for when a member starts, from what the ended and running ones have shown."""

    kind: Literal["search"]
    algorithm: Literal["tpe", "gp", "cma_es", "nsga2", "quasi_random", "random", "grid", "population"]
    """gp is Bayesian optimisation by a Gaussian process."""
    parameters: Annotated[Mapping[str, Parameter], Bound(min_length=1)]
    """Key (`optimizer.lr`) or group (`optimizer`) to its dimension."""
    trials: Count
    """In all, whatever becomes of them."""
    seed: NotNegative = 1
    startup_trials: Count = 10
    """Random ones before the algorithm has something to learn from."""
    objectives: tuple[Goal, ...] = ()
    """None takes the run's own objective."""
    constraints: tuple[Constraint, ...] = ()
    measurement: Literal["last", "best"] = "best"
    """Which report of a trial is its value."""
    pruning: Pruning | None = None
    population: Population | None = None
    """Of algorithm population."""
    limits: Limits = Limits()
    start_points: tuple[Mapping[str, Any], ...] = ()
    """Points to try first; what a point leaves out is suggested."""
    warm_start: tuple[str, ...] = ()
    """Earlier searches and grids with the same objective (jobs or run folders) whose trials are learnt from where they
    fit into this space. They are read once, at the launch, and are no trials of this search."""
    study: ModelName | None = None
    """Name under which the same command goes on; None is the run's name."""
    new_version: bool = False
    """Begin anew under the same name, as for a changed space."""
