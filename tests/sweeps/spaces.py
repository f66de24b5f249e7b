"""Spaces of a search that are well said, and their points by plain loops."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import assume
from hypothesis import strategies as st

from conf.sweep_schema import Goal, Parameter, Search
from sweeps.legality import problems
from sweeps.space import choices
from sweeps.values import among, canonical
from tests.sweeps.kinds import double, integer, numbers, words

OWN = Goal(metric="val/loss", goal="minimize")


def search(parameters: dict[str, Parameter], **said: Any) -> Search:
    return Search(**{"kind": "search", "algorithm": "random", "parameters": parameters, "trials": 10, **said})


NESTED = search(
    {
        "momentum": double(0.0, 0.99, when={"optimizer": ("sgd",)}),
        "optimizer": words("sgd", "adamw"),
        "nesterov": words(True, False, when={"momentum_on": (1,)}),
        "momentum_on": integer(0, 1, when={"optimizer": ("sgd",)}),
        "lr": double(1e-4, 0.1, scale="log"),
    }
)

# Every search that is well said, in small.
NAMES = "abcd"


@st.composite
def parameters(draw: st.DrawFn, listed_only: bool) -> Parameter:
    kind = draw(st.sampled_from(["integer", "categorical", "discrete", "stepped", "double"][: 4 if listed_only else 5]))
    low = draw(st.integers(-3, 3))
    if kind == "integer":
        step = draw(st.sampled_from([None, 1, 2, 3]))
        return integer(low, low + (step or 1) * draw(st.integers(0, 2)), step=step)
    if kind == "categorical":
        options = ["x", "y", "1.5", 7, None, True, [1, 2], {"k": "v"}]
        return words(*draw(st.lists(st.sampled_from(options), min_size=1, max_size=3, unique_by=canonical)))
    if kind == "discrete":
        options = [-1, 0, 0.5, 1, 2.0, 1000]
        return numbers(*sorted(draw(st.sets(st.sampled_from(options), min_size=1, max_size=3))))
    if kind == "stepped":
        step = draw(st.sampled_from([0.1, 0.25, 1.0]))
        return double(low, round(low + step * draw(st.integers(0, 2)), 10), step=step)
    return double(low, low + draw(st.floats(0, 10)))


@st.composite
def spaces(draw: st.DrawFn, listed_only: bool = False) -> Search:
    """Parameters whose conditions name earlier ones, in any order."""
    found: dict[str, Parameter] = {}
    for name in NAMES[: draw(st.integers(1, 4))]:
        parameter = draw(parameters(listed_only))
        parents = [other for other, p in found.items() if p.type != "double"]
        when = {}
        least = draw(st.integers(0, 1))
        for parent in draw(st.sets(st.sampled_from(parents), min_size=least, max_size=2)) if parents else ():
            listed = st.lists(st.sampled_from(list(choices(found[parent]))), min_size=1, max_size=2)
            when[parent] = tuple(draw(listed))
        found[name] = Parameter(**{**vars(parameter), "when": when})
    some = search({name: found[name] for name in draw(st.permutations(list(found)))})
    assume(not problems(some, OWN))
    return some


def there(some: Search, point: dict[str, Any], name: str) -> bool:
    """What «active» means, as a sentence: all parents are there, at values that are listed."""
    when = some.parameters[name].when
    return all(there(some, point, parent) and among(point[parent], values) for parent, values in when.items())


def by_hand(some: Search) -> list[dict[str, Any]]:
    """Every combination of everything, then without what is not there, each once."""
    names = list(some.parameters)
    found = {}
    for values in itertools.product(*(choices(some.parameters[name]) for name in names)):
        whole = dict(zip(names, values, strict=True))
        point = {name: whole[name] for name in names if there(some, whole, name)}
        found[canonical(point)] = point
    return list(found.values())
