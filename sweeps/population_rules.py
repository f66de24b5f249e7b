"""Whether a search by population-based training is well said: its size, its budget, and what may change in a training.

Other rules of a search are legality.py's; what goes together with the rest of a run is launchers/search/expand.py's.
"""

from __future__ import annotations

from collections.abc import Iterator

from conf.sweep_schema import Goal, Population, Search
from sweeps.grid import Mistake
from sweeps.trials import goals_of

CHANGING = ("optimizer.", "params.", "train.clip_norm")
"""Keys, or what they begin with, that may have another value when a training goes on from a checkpoint."""


def problems(search: Search, goal: Goal) -> Iterator[Mistake]:
    """Each as (what with both values, key, what to do)."""
    if search.algorithm == "population" and search.population is None:
        yield "algorithm is population, and nothing says of how many", "sweep.population", "add population: {size: 8}"
    elif search.population is not None and search.algorithm != "population":
        what = f"population says how many members train side by side, and the algorithm is {search.algorithm}"
        yield what, "sweep.population", "use algorithm: population, or remove it"
    elif search.population is not None:
        yield from _budget(search, search.population)
        yield from _beside(search, goal)
        yield from _parameters(search)
        yield from _momentum(search)


def _budget(search: Search, population: Population) -> Iterator[Mistake]:
    size = population.size
    if search.trials % size or search.trials < 2 * size:
        what = f"trials is {search.trials}, which is not two or more generations of {size} members"
        yield (
            what,
            "sweep.trials",
            f"sweep.trials={max(2, round(search.trials / size)) * size}, or change population.size",
        )
    if len(search.start_points) > size:
        what = f"there are {len(search.start_points)} start points, and {size} members begin"
        yield what, "sweep.start_points", "remove some, or raise population.size"


def _beside(search: Search, goal: Goal) -> Iterator[Mistake]:
    if (many := len(goals_of(search, goal))) > 1:
        what = f"a population has one objective that says who is ahead, and there are {many}"
        yield what, "sweep.objectives", "keep one, or use algorithm: nsga2"
    if search.constraints:
        what = f"a population does not heed constraints, and there are {len(search.constraints)}"
        yield what, "sweep.constraints", "remove them, or use algorithm: tpe, gp or nsga2"
    if search.pruning is not None:
        what = f"pruning is {search.pruning.rule}, and in a population the best take the places of the worst anyway"
        yield what, "sweep.pruning", "remove it"


def _momentum(search: Search) -> Iterator[Mistake]:
    momentum = search.parameters.get("optimizer.momentum")
    if momentum is not None and 0 in momentum.values and len(momentum.values) > 1:
        what = "optimizer.momentum is 0 in some trials, whose checkpoints lack what the others go on from"
        yield what, "sweep.parameters.optimizer.momentum", "search values above 0"


def _parameters(search: Search) -> Iterator[Mistake]:
    for name in search.parameters:
        if not name.startswith(CHANGING) or name in ("optimizer.kind", "optimizer._target_"):
            what = f"{name} cannot change within a training, as it does in a population"
            do = "search optimizer.*, params.* or train.clip_norm; or use another algorithm"
            yield what, f"sweep.parameters.{name}", do
