"""Population-based training on the record of a search: which trial takes whose place, and from whose checkpoint?

Members train in generations, and each generation of a member is a trial of its own, so that nothing has to stay alive
between them and a member may wait, be preempted or be tried again as any trial. Whoever asks takes the place of the
trial that ended first and that nobody follows yet. It goes on from that trial's weights with that trial's values; where
that one failed, or is among the worst of those that have ended the same generation by then, it goes on from one of the
best of these, with values near to that one's.

Sources: Jaderberg et al. 2017, https://arxiv.org/abs/1711.09846 (truncation selection, perturb or resample);
Li et al. 2019, https://arxiv.org/abs/1902.01894 (a generation is a trial that begins with its parent's checkpoint).
Pure. How a checkpoint gets to the next trial is launchers/host/heir.py's.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from conf.sweep_schema import Goal, Population, Search
from sweeps.axis import Axis, axes_of
from sweeps.sampler import Exhausted
from sweeps.space import choices
from sweeps.trials import Trial, value_of
from sweeps.unlearned import drawn, seed_of
from sweeps.values import is_number

DRAW = 1_000_003
"""Keeps what is drawn here apart from what the same trial draws elsewhere."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a trial begins with."""

    point: Mapping[str, Any] | None = None
    """None: a point like any other search's."""
    parent: int | None = None
    """The trial whose checkpoint it goes on from; None begins from nothing."""
    follows: int | None = None
    """The trial whose place it takes; None of the first members."""


class NotYet(Exception):
    """Nobody's place is free; the message says for what it waits."""


def of(search: Search) -> Population | None:
    """The population of a search; None of any other algorithm."""
    return search.population if search.algorithm == "population" else None


def generations(search: Search) -> int:
    """How many there are."""
    population = of(search)
    assert population is not None
    return max(1, search.trials // population.size)


def generation_of(trial: Trial, trials: Mapping[int, Trial]) -> int:
    """How many parents a trial has, one after the other."""
    count = 0
    while trial.parent is not None and trial.parent in trials:
        trial, count = trials[trial.parent], count + 1
    return count


def lineage(trial: Trial, trials: Sequence[Trial]) -> list[Trial]:
    """A trial after its parent, and so on from the first."""
    known, found = {each.number: each for each in trials}, [trial]
    while found[0].parent is not None and found[0].parent in known:
        found.insert(0, known[found[0].parent])
    return found


def start(search: Search, goal: Goal, trials: Sequence[Trial], number: int) -> Start:
    """What trial `number` begins with: the same for the same arguments, whatever the order of `trials`.

    Raises NotYet while all places are taken by trials that run, and Exhausted when all have trained to the end.
    """
    population = of(search)
    assert population is not None
    known = {trial.number: trial for trial in trials if trial.number != number}
    if len([trial for trial in known.values() if trial.follows is None]) < population.size:
        return Start()
    replaced = _free_place(search, known)
    reached = min(generation_of(replaced, known), generations(search) - 1)
    peers = _ranked(search, goal, known, reached)
    if replaced in peers and not _is_among_the_worst(population, peers, replaced):
        return Start(point=replaced.point, parent=replaced.number, follows=replaced.number)
    if reached == generations(search) - 1:  # one that failed in the last generation, after which there is none
        peers = _ranked(search, goal, known, reached - 1)
    chance = random.Random(seed_of(search, number, DRAW))
    if peers:
        parent = chance.choice(peers[: _share(population, len(peers))])
    elif replaced.parent is not None and replaced.parent in known:
        parent = known[replaced.parent]  # nobody else has come so far: once more from where it began
    else:
        return Start(follows=replaced.number)
    point = _explored(search, population, parent, number, chance)
    return Start(point=point, parent=parent.number, follows=replaced.number)


def _free_place(search: Search, known: Mapping[int, Trial]) -> Trial:
    """The trial that ended first of those that nobody follows and that have not trained to the end."""
    followed, last = {trial.follows for trial in known.values()}, generations(search) - 1
    free = [
        trial
        for trial in known.values()
        if trial.state != "RUNNING"
        and trial.number not in followed
        and not (trial.state == "SUCCEEDED" and generation_of(trial, known) >= last)
    ]
    if not free:
        running = sum(trial.state == "RUNNING" for trial in known.values())
        if not running:
            raise Exhausted(f"every place of the population has trained to the end of its {last + 1} generations")
        raise NotYet(f"the {running} members of the population that run have not ended their generation")
    return min(free, key=lambda trial: (trial.asked if trial.ended is None else trial.ended, trial.number))


def _ranked(search: Search, goal: Goal, known: Mapping[int, Trial], generation: int) -> list[Trial]:
    """Trials that trained to the end of a generation and have a value, the best first."""
    sign = -1 if goal.goal == "maximize" else 1
    ended = [t for t in known.values() if t.state == "SUCCEEDED" and generation_of(t, known) == generation]
    valued = [(value_of(t, goal, search.measurement), t) for t in ended]
    found = [(sign * value, t.number, t) for value, t in valued if value is not None]
    return [trial for *_, trial in sorted(found, key=lambda each: each[:2])]


def _share(population: Population, many: int) -> int:
    """How many of so many are the best, or the worst."""
    return max(1, int(many * population.quantile))


def _is_among_the_worst(population: Population, peers: Sequence[Trial], trial: Trial) -> bool:
    """Alone nobody is; of two or more, one at least."""
    return len(peers) > 1 and trial in peers[-_share(population, len(peers)) :]


def _explored(
    search: Search, population: Population, parent: Trial, number: int, chance: random.Random
) -> dict[str, Any]:
    """A point near the parent's; what is there no more, or new there, is drawn as anywhere."""
    axes, kept = axes_of(search), dict[str, Any]()
    for name in sorted(parent.point):
        anew, up = chance.random() < population.resample, chance.random() < 0.5
        if not anew and name in axes:
            kept[name] = _moved(axes[name], parent.point[name], population.factor, up)
    return drawn(search, kept, number, DRAW)


def _moved(axis: Axis, value: Any, factor: float, up: bool) -> Any:
    """A number that has become larger or smaller, within its bounds; one of a list its neighbour; a word as it is."""
    if axis.kind == "category" or not is_number(value):
        return value
    if axis.is_index:
        place = axis.coordinate_of(value)
        values = choices(axis.parameter)
        return value if place is None else values[min(max(int(place) + (1 if up else -1), 0), len(values) - 1)]
    low, high = axis.parameter.min, axis.parameter.max
    assert low is not None and high is not None
    if axis.parameter.scale == "reverse_log":  # its fine end is the upper one: what is left to it changes
        moved = low + high - (low + high - value) * (factor if not up else 1 / factor)
    else:
        moved = value * (factor if up else 1 / factor)
    if axis.kind == "whole":
        moved = max(value + 1, round(moved)) if up else min(value - 1, round(moved))
    moved = min(max(moved, low), high)
    return int(moved) if axis.kind == "whole" else float(moved)
