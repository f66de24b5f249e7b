"""Which point a trial gets: a pure function of the search, of what its trials have shown, and of the trial's number.

Start points come first, then what the algorithm proposes, drawn with a seed of (search.seed, number). Here is
what holds for all algorithms; they themselves are unlearned.py's and learning.py's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from conf.sweep_schema import Goal, Search
from sweeps.axis import axes_of
from sweeps.space import count, grid_points
from sweeps.trials import Trial
from sweeps.unlearned import Propose, drawn, spread
from sweeps.values import canonical

if TYPE_CHECKING:
    from sweeps.learning import Memory

ATTEMPTS = 5
"""How often an algorithm is asked for a point that no trial had yet."""


class CannotSuggest(Exception):
    """There is no point for this trial; the message says why."""


class Exhausted(CannotSuggest):
    """A grid has no further point."""


class NotInstalled(CannotSuggest):
    """The algorithm needs a package that is not there."""


def suggest(
    search: Search, goals: tuple[Goal, ...], trials: Sequence[Trial], number: int, extra: Sequence[Trial] = ()
) -> dict[str, Any]:
    """The point of trial `number`: the same for the same arguments, whatever the order of `trials`.

    `trials` are the search's own, `extra` those of earlier searches, their points already of this space; what is
    learnt from which state stands in told.py. As long as a finite space has untried points none comes twice, but
    for start points that say the same. Values are plain ints and floats, and what the search lists.

    Raises Exhausted beyond the end of a grid, NotInstalled when a package of the algorithm is missing.
    """
    return Suggester(search, goals, [trial for trial in trials if trial.number != number], extra).next(number)


class Suggester:
    """Points for several trials, one after the other: to each the ones before are trials that run.

    As `suggest` for each in turn, but what is learnt from the others is put together once.
    """

    def __init__(
        self, search: Search, goals: tuple[Goal, ...], trials: Sequence[Trial], extra: Sequence[Trial] = ()
    ) -> None:
        self._search, self._goals, self._trials, self._extra = search, goals, trials, extra
        self._tried = {canonical(trial.point) for trial in trials}
        self._memory: Memory | None = None

    def next(self, number: int, asked: float = 0.0) -> dict[str, Any]:
        """The point of a trial that has none yet, asked for at this time."""
        point = self._untried(number)
        self._tried.add(canonical(point))
        if self._memory is not None:
            self._memory.add(number, point, asked)
        return point

    def _untried(self, number: int) -> dict[str, Any]:
        search = self._search
        if number < len(search.start_points):
            return self._proposer(number)(0)
        if search.algorithm == "grid":
            return _grid_point(search, number)
        propose = self._proposer(number)
        for attempt in range(ATTEMPTS):
            point = propose(attempt)
            if canonical(point) not in self._tried:
                return point
        elsewhere = _elsewhere(search, number, len(self._tried))
        return next((p for p in elsewhere if canonical(p) not in self._tried), point)

    def _proposer(self, number: int) -> Propose:
        search, given = self._search, _start_point(self._search, number)
        if search.algorithm in ("random", "grid"):
            return lambda attempt: drawn(search, given, number, attempt)
        if search.algorithm in ("quasi_random", "population"):  # of which here are the founders
            return lambda attempt: drawn(search, given, number, attempt) if attempt else spread(search, given, number)
        if self._memory is None:
            self._memory = _memory(search, self._goals, self._trials, self._extra)
        return self._memory.proposer(given, number)


def _memory(search: Search, goals: tuple[Goal, ...], trials: Sequence[Trial], extra: Sequence[Trial]) -> Memory:
    from sweeps import learning
    from sweeps.told import lessons

    try:
        learning.load(search.algorithm)
    except ImportError as error:
        needs = ", ".join(learning.NEEDS[search.algorithm])
        raise NotInstalled(f"algorithm {search.algorithm} needs {needs} on the host: {error}") from error
    return learning.Memory(search, goals, lessons(search, goals, trials, extra))


def _start_point(search: Search, number: int) -> dict[str, Any]:
    """What the user said of this trial's point, each value as its parameter has it (1.0 of an integer is 1)."""
    said = search.start_points[number] if number < len(search.start_points) else {}
    axes = axes_of(search)
    places = {name: axes[name].coordinate_of(value) for name, value in said.items()}
    return {name: axes[name].value_at(place) for name, place in places.items() if place is not None}


def _grid_point(search: Search, number: int) -> dict[str, Any]:
    """Start points are trials of their own before the grid; a point of it that is one of them is not run again."""
    started = {canonical(_start_point(search, i)) for i in range(len(search.start_points))}
    place = number - len(search.start_points)
    points = [p for p in grid_points(search, place + 1 + len(started)) if canonical(p) not in started]
    if place >= len(points):
        raise Exhausted(f"the grid has {len(points)} points beside the start points, and this would be {place + 1}")
    return dict(points[place])


def _elsewhere(search: Search, number: int, many: int) -> Iterator[dict[str, Any]]:
    """Points of a finite space: some drawn, then one more than `many` in order. None of one without end."""
    if any(count(parameter) is None for parameter in search.parameters.values()):
        return
    for attempt in range(ATTEMPTS, 20 * ATTEMPTS):
        yield drawn(search, {}, number, attempt)
    for point in grid_points(search, many + 1):
        yield dict(point)
