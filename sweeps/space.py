"""The space of a search: which values each parameter has, when it is there, and which points that makes.

Whether a search is well said at all is legality.py's, which comes first: here it is taken for granted.
Whether two spaces are the same one is comparable.py's.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from conf.sweep_schema import Parameter, Search
from sweeps.grid import Point
from sweeps.values import among, is_number, shown

_GOLDEN = Decimal("0.61803398874989")
"""Where a range is looked into: no bounds that people write make this a whole number."""
MOST_CORNERS = 1100
"""A parameter has at most a thousand values (legality.py), so this is enough unless branches exclude each other."""


def ordered(search: Search) -> list[tuple[str, Parameter]]:
    """Every parameter with its name, parents before children, else in the order given.

    Raises ValueError when conditions go round in circles; parents that do not exist are passed over.
    """
    waiting, found = dict(search.parameters), dict[str, Parameter]()
    while waiting:
        ready = [name for name, parameter in waiting.items() if not any(parent in waiting for parent in parameter.when)]
        if not ready:
            raise ValueError(f"conditions go round in circles: {', '.join(waiting)}")
        found |= {name: waiting.pop(name) for name in ready}
    return list(found.items())


def is_active(parameter: Parameter, point: Point) -> bool:
    """Whether a parameter is there at a point that has all its parents which are there themselves."""
    return all(parent in point and among(point[parent], values) for parent, values in parameter.when.items())


def count(parameter: Parameter) -> int | None:
    """How many values a parameter has; None for a double without a step, which has no list of them."""
    if parameter.type in ("categorical", "discrete"):
        return len(parameter.values)
    low, high, step = exact_range(parameter)
    return None if step is None else int((high - low) / step) + 1


def exact_range(parameter: Parameter) -> tuple[Decimal, Decimal, Decimal | None]:
    """Exact bounds and step of a number, as they were written; an integer without a step has one of 1."""
    low, high = (Decimal(repr(bound)) for bound in (parameter.min, parameter.max))
    step = 1 if parameter.step is None and parameter.type == "integer" else parameter.step
    return low, high, None if step is None else Decimal(repr(step))


def choices(parameter: Parameter) -> Sequence[Any]:
    """All values in order, as `count` numbers them; integers are ints, and the third step of 0.1 is 0.3.

    Raises ValueError for a double without a step.
    """
    if parameter.type in ("categorical", "discrete"):
        return parameter.values
    many = count(parameter)
    if many is None:
        raise ValueError("a double without a step has no list of values")
    low, _, step = exact_range(parameter)
    assert step is not None
    if parameter.type == "integer":
        return range(int(low), int(low) + many * int(step), int(step))
    return [float(low + k * step) for k in range(many)]


def faults(search: Search, point: Point, whole: bool = True) -> list[tuple[str, str]]:
    """What is wrong with a point: (parameter, what), none for a point of the space.

    A `whole` point has every parameter that is there; without, it may leave out any, except parents of what it has.
    """
    found = [(name, f"{name} is no parameter of this search") for name in point if name not in search.parameters]
    for name, parameter in ordered(search):
        there = is_active(parameter, point)
        if name in point and not there:
            found.append((name, f"{name} is given, and is there only when {_condition(parameter, point)}"))
        elif name in point and (must := _refused(parameter, point[name])):
            found.append((name, f"{name} is {shown(point[name])}, and must be {must}"))
        elif there and whole and name not in point:
            found.append((name, f"{name} is missing"))
    return found


def contains(search: Search, point: Point) -> list[str]:
    """Why a point is not one of the space; empty when it is."""
    return [what for _, what in faults(search, point)]


def is_value(parameter: Parameter, value: Any) -> bool:
    """Whether a parameter can take a value."""
    return not _refused(parameter, value)


def grid_points(search: Search, most: int | None = None) -> list[Point]:
    """Every combination of parameters that are there, the first `most` of them; later parameters change faster.

    The same search gives the same list. Raises ValueError for a double without a step.
    """
    points: list[Point] = [{}]
    for name, parameter in ordered(search):
        # No point is ever lost on the way, so the first `most` of the end come from the first `most` of now.
        points = list(itertools.islice(_grown(points, name, parameter), most))
    return points


Conditions = Mapping[str, Mapping[str, frozenset[int]]]
"""Parameter to each of its parents, to the positions among the parent's `representatives` at which it is there."""


def conditions(search: Search) -> Conditions:
    """All conditions of a search, in a form that can be intersected."""
    values = {name: representatives(search, name) for name in search.parameters}
    return {
        name: {
            parent: frozenset(i for i, value in enumerate(values[parent]) if among(value, listed))
            for parent, listed in parameter.when.items()
        }
        for name, parameter in search.parameters.items()
    }


def demands(given: Conditions, name: str) -> dict[str, frozenset[int]]:
    """What must hold for a parameter to be there: each ancestor, and the positions of it that allow this.

    An ancestor left without any means that the parameter never is.
    """
    found: dict[str, frozenset[int]] = {}
    ahead, seen = [name], set[str]()
    while ahead:
        if (each := ahead.pop()) not in seen:
            seen.add(each)
            for parent, positions in given[each].items():
                found[parent] = found.get(parent, positions) & positions
                ahead.append(parent)
    return found


def representatives(search: Search, name: str) -> list[Any]:
    """Values that stand for all: each of a list; of a range both ends, what children name, and one between."""
    parameter = search.parameters[name]
    if parameter.type in ("categorical", "discrete"):
        return list(parameter.values)
    low, high, step = exact_range(parameter)
    if parameter.type == "integer":
        named = (int(v) for each in search.parameters.values() for v in each.when.get(name, ()))
        return sorted({int(low), *named, int(high)})
    between = low + (high - low) * _GOLDEN if step is None else min(low + step, high)
    return sorted({float(low), float(between), float(high)})


def corners(search: Search) -> list[Point]:
    """Few whole points in which every parameter has its min and max, or each of its values, at least once.

    Their number is about that of the longest list, not the product; at most MOST_CORNERS, and then both ends of
    every parameter come first. A double also has a value that is not whole: a key that wants whole numbers takes
    1.0 and 2.0, but not what a trial would give it in between.
    """
    values = {name: representatives(search, name) for name, _ in ordered(search)}
    given = conditions(search)
    ends = {name: {0, len(values[name]) - 1} for name in values}
    every = {name: set(range(len(values[name]))) for name in values}
    wanted = {name: dict.fromkeys([*sorted(ends[name]), *sorted(every[name])]) for name in values}
    found: list[Mapping[str, int]] = []
    for first in (ends, every):
        # From children to parents: what covers a child sets its parents, which then need no point of their own.
        for name in reversed(values):
            needed = demands(given, name)
            while not first[name].isdisjoint(wanted[name]) and len(found) < MOST_CORNERS:
                found.append(_corner(given, needed, wanted))
    return [{name: values[name][position] for name, position in point.items()} for point in found]


def _corner(
    given: Conditions, needed: Mapping[str, frozenset[int]], wanted: Mapping[str, dict[int, None]]
) -> Mapping[str, int]:
    """Positions of one point: where `needed` allows it one that is `wanted`, which is then wanted no more."""
    point: dict[str, int] = {}
    for name in wanted:
        if all(point.get(parent) in positions for parent, positions in given[name].items()):
            allowed = needed.get(name)
            fresh = (position for position in wanted[name] if allowed is None or position in allowed)
            point[name] = next(fresh, min(allowed) if allowed else 0)
            wanted[name].pop(point[name], None)
    return point


def _refused(parameter: Parameter, value: Any) -> str:
    """What a value would have to be; empty when it is."""
    if parameter.type in ("categorical", "discrete"):
        return "" if among(value, parameter.values) else f"one of {shown(parameter.values)}"
    low, high = parameter.min, parameter.max
    if low is None or high is None:
        return ""
    whole = parameter.type == "integer"
    finite = is_number(value) and not (isinstance(value, float) and not math.isfinite(value))
    if not finite or (whole and value != int(value)):
        return f"a {'whole ' * whole}number{', not a word' * isinstance(value, str)}"
    if not low <= value <= high:
        return f"between {shown(low)} and {shown(high)}"
    if parameter.step is None:
        return ""
    near = low + round((value - low) / parameter.step) * parameter.step
    # Optuna's own tolerance; and floats a last digit apart are the same where steps are small beside the bounds.
    on_step = math.isclose(value, near, rel_tol=1e-12, abs_tol=1e-8 * parameter.step)
    return "" if on_step else f"{shown(low)} plus steps of {shown(parameter.step)}"


def _condition(parameter: Parameter, point: Point) -> str:
    """When a parameter is there, and what the point says of that."""
    wanted = []
    for parent, values in parameter.when.items():
        here = f"here {shown(point[parent])}" if parent in point else "not given here"
        wanted.append(f"{parent} is {' or '.join(shown(v) for v in values)} ({here})")
    return " and ".join(wanted)


def _grown(points: Sequence[Point], name: str, parameter: Parameter) -> Iterator[Point]:
    values = choices(parameter)
    for point in points:
        if is_active(parameter, point):
            yield from ({**point, name: value} for value in values)
        else:
            yield point
