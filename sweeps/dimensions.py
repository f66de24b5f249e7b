"""Whether the parameters of a search are well said: each one's range or list, and the conditions between them.

The limits are those of Vertex AI's StudySpec.ParameterSpec, so that a study moves here without change:
https://cloud.google.com/vertex-ai/docs/reference/rest/v1/StudySpec
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Iterator, Sequence

from conf.sweep_schema import Parameter, Search
from sweeps.grid import Mistake
from sweeps.names import nearest
from sweeps.space import conditions, demands, exact_range, is_value
from sweeps.values import among, is_number, shown

MOST_VALUES = 1000
CLOSEST = 1e-10
"""Two values of a list of numbers must be further apart."""
LARGEST_INTEGER = 2**53
"""Bounds are floats; above it they are no longer exact."""


def problems(search: Search) -> list[Mistake]:
    """Everything wrong with parameters and their conditions; whether a condition can hold is asked last."""
    own = {name: list(_of_one(name, parameter)) for name, parameter in search.parameters.items()}
    found = [(what, f"sweep.parameters.{name}.{field}", do) for name in own for what, field, do in own[name]]
    for name in search.parameters:
        found += _condition(search, name, sound=[other for other in own if not own[other]])
    found += _circle(search)
    return found or list(_never(search))


def _of_one(name: str, parameter: Parameter) -> Iterator[Mistake]:
    """What is wrong with a parameter by itself; the key is the field alone."""
    if parameter.type not in ("double", "integer"):
        yield from _needless_range(name, parameter)
        yield from _list(name, parameter)
        return
    yield from _needless_values(name, parameter)
    bounds = list(_bounds(name, parameter))
    yield from bounds
    if not bounds:
        yield from _scale(name, parameter)
        yield from _step(name, parameter)


def _needless_values(name: str, parameter: Parameter) -> Iterator[Mistake]:
    if parameter.values:
        what = f"{name} is {parameter.type} and has values {shown(parameter.values)}, which only lists have"
        yield what, "values", "give min and max instead, or use type: discrete"


def _bounds(name: str, parameter: Parameter) -> Iterator[Mistake]:
    """One that is missing, not a number, not whole, or above the other. Equal ones make a constant, which is allowed
    (as Vertex and Optuna do): it is how a range is closed on the command line."""
    for field, bound in (("min", parameter.min), ("max", parameter.max)):
        if bound is None:
            yield f"{name} is {parameter.type} and has no {field}", field, "give min and max"
        elif not math.isfinite(bound):
            yield f"{name} has {field} {bound}, which is no bound", field, "give a finite number"
        elif parameter.type == "integer" and bound != int(bound):
            yield f"{name} is integer and has {field} {bound}", field, "give a whole number, or use type: double"
        elif parameter.type == "integer" and abs(bound) > LARGEST_INTEGER:
            what = f"{name} has {field} {bound}, and whole numbers are exact up to {LARGEST_INTEGER} only"
            yield what, field, "stay below it"
    if parameter.min is not None and parameter.max is not None and parameter.min > parameter.max:
        what = f"{name} has min {shown(parameter.min)} above max {shown(parameter.max)}"
        yield what, "min", "exchange them"


def _scale(name: str, parameter: Parameter) -> Iterator[Mistake]:
    """Vertex: for both logarithmic scales «the entire feasible space must be strictly positive»."""
    if parameter.scale != "linear" and parameter.min is not None and parameter.min <= 0:
        what = f"{name} has scale {parameter.scale} and min {shown(parameter.min)}: a logarithm needs more than 0"
        yield what, "min", "raise it above 0, or use scale: linear"


def _step(name: str, parameter: Parameter) -> Iterator[Mistake]:
    step = parameter.step
    if step is None:
        return
    if parameter.scale != "linear":
        what = f"{name} has step {shown(step)} and scale {parameter.scale}: steps of one length are linear"
        yield what, "step", "remove step, or use scale: linear"
    elif parameter.type == "integer" and step != int(step):
        yield f"{name} is integer and has step {step}", "step", "give a whole number, or use type: double"
    else:
        low, high, exact = exact_range(parameter)
        steps = (high - low) / exact if exact else 0
        if steps != int(steps):
            fits = shown(float(low + int(steps) * exact)) if exact else ""
            what = f"{name} has steps of {shown(step)} from {shown(parameter.min)}, which pass by max"
            yield f"{what} {shown(parameter.max)}", "step", f"use max: {fits}, or another step"


def _needless_range(name: str, parameter: Parameter) -> Iterator[Mistake]:
    for field in ("min", "max", "step"):
        if (value := getattr(parameter, field)) is not None:
            what = f"{name} is {parameter.type} and has {field} {shown(value)}, which only a range has"
            yield what, field, "remove it, or use type: double or integer"
    if parameter.scale != "linear":
        what = f"{name} is {parameter.type} and has scale {parameter.scale}: a list is as dense as its values are"
        yield what, "scale", "remove it; space the values as the scale would"


def _list(name: str, parameter: Parameter) -> Iterator[Mistake]:
    values = parameter.values
    if not values:
        yield f"{name} is {parameter.type} and has no values", "values", "list them, or use type: double or integer"
    elif len(values) > MOST_VALUES:
        what = f"{name} has {len(values)} values, and a list has at most {MOST_VALUES}"
        yield what, "values", "use type: integer or double with min, max and step"
    elif parameter.type == "discrete":
        yield from _numbers(name, parameter)
    else:
        for i, value in enumerate(values):
            if among(value, values[:i]):
                yield f"{name} has the value {shown(value)} twice", "values", "list each value once"


def _numbers(name: str, parameter: Parameter) -> Iterator[Mistake]:
    values = parameter.values
    words = [v for v in values if not is_number(v) or not abs(v) <= sys.float_info.max]
    if words:
        do = "write numbers (1.0e-4 with a point), or use type: categorical"
        yield f"{name} is discrete, and these of its values are no numbers: {shown(words)}", "values", do
        return
    for one, other in itertools.pairwise(values):
        if other - one < CLOSEST:
            what = f"{name} is discrete, which ascends by at least {CLOSEST}, and has {one} before {other}"
            yield what, "values", "list them from small to large, each once"
            return


def _condition(search: Search, name: str, sound: Sequence[str]) -> Iterator[Mistake]:
    """Values are compared with those of `sound` parents only: others have problems enough."""
    for parent, values in search.parameters[name].when.items():
        key = f"sweep.parameters.{name}.when.{parent}"
        above = search.parameters.get(parent)
        if above is None:
            others = [other for other in search.parameters if other != name]
            yield f"{name} depends on {parent}, which is no parameter of this search", key, nearest(parent, others)
        elif above.type == "double":
            what = f"{name} depends on {parent}, which is double: it has no values that could be listed"
            yield what, key, f"make {parent} discrete, integer or categorical"
        elif parent in sound:
            for value in values:
                if not is_value(above, value):
                    what = f"{name} is there when {parent} is {shown(value)}, and {parent} {_domain(above)}"
                    yield what, key, "name values that the parent takes"


def _domain(parameter: Parameter) -> str:
    if parameter.type == "integer":
        steps = f" in steps of {shown(parameter.step)}" if parameter.step else ""
        return f"goes from {shown(parameter.min)} to {shown(parameter.max)}{steps}"
    return f"takes {shown(parameter.values)}"


def _circle(search: Search) -> list[Mistake]:
    """The first circle of conditions, if there is one; every parameter on it waits for the next."""
    left = {name: [p for p in each.when if p in search.parameters] for name, each in search.parameters.items()}
    while ready := [name for name, parents in left.items() if not any(p in left for p in parents)]:
        left = {name: parents for name, parents in left.items() if name not in ready}
    if not left:
        return []
    way = [next(iter(left))]
    while way.count(way[-1]) == 1:
        way.append(next(p for p in left[way[-1]] if p in left))
    circle = way[way.index(way[-1]) :]
    what = f"conditions go round in a circle: {' needs '.join(circle)}"
    return [(what, f"sweep.parameters.{circle[0]}.when", "remove one of these conditions")]


def _never(search: Search) -> Iterator[Mistake]:
    given = conditions(search)
    for name in given:
        for parent, positions in demands(given, name).items():
            if not positions:
                what = f"{name} can never be there: its conditions, and those of its parents, leave {parent} no value"
                yield what, f"sweep.parameters.{name}.when", f"let all of them name one and the same value of {parent}"
