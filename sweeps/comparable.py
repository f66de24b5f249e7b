"""Whether the trials of one search may be compared with those of another, and if not, what differs.

That is so when parameters and objectives are the same, and the population where there is one: in it trials go on from
each other. How many trials, which algorithm, pruning, constraints and limits may change from one day to the next: they
are applied to what was reported.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from conf.sweep_schema import Goal, Parameter, Search
from sweeps.trials import goals_of
from sweeps.values import canonical, is_number, shown


def digest(search: Search, goal: Goal) -> str:
    """`sha256:...` of the space and of what is optimised in it; `goal` is the run's own objective.

    Equal exactly when `difference` has nothing to say: the order of parameters, of values and of conditions
    does not count, nor does writing 1.0 for 1 as a bound.
    """
    said = {"parameters": {name: _fields(p) for name, p in search.parameters.items()}, "goals": _goals(search, goal)}
    if search.population is not None:
        said["population"] = vars(search.population)
    return f"sha256:{hashlib.sha256(canonical(said).encode()).hexdigest()}"


def difference(old: Search, new: Search, old_goal: Goal, new_goal: Goal) -> list[str]:
    """What changed from one search to another, a line each: `optimizer.lr: max 0.1 -> 0.01`, `model.width: new`."""
    lines = []
    for name in {**old.parameters, **new.parameters}:
        if name not in old.parameters:
            lines.append(f"{name}: new")
        elif name not in new.parameters:
            lines.append(f"{name}: gone")
        else:
            lines += [f"{name}: {change}" for change in _changes(old.parameters[name], new.parameters[name])]
    if old.population != new.population:
        lines.append(f"population: {_population(old)} -> {_population(new)}")
    before, after = _goals(old, old_goal), _goals(new, new_goal)
    if before != after:
        lines.append(f"objectives: {', '.join(before)} -> {', '.join(after)}")
    return lines


def _population(search: Search) -> str:
    return "none" if search.population is None else canonical(vars(search.population))


def _changes(old: Parameter, new: Parameter) -> Iterator[str]:
    before, after = _fields(old), _fields(new)
    for field, value in before.items():
        if canonical(value) == canonical(after[field]):
            continue
        if field == "values" and value and after[field]:
            yield from _list_changes(value, after[field])
        else:
            yield f"{field} {_written(value)} -> {_written(after[field])}"


def _list_changes(old: Sequence[Any], new: Sequence[Any]) -> Iterator[str]:
    """What came and went: two lists of a thousand values cannot be compared by eye."""
    for word, here, there in (("without", old, new), ("with", new, old)):
        known = set(map(canonical, there))
        if moved := [v for v in here if canonical(v) not in known]:
            yield f"values {word} {shown(moved)}"


def _fields(parameter: Parameter) -> Mapping[str, Any]:
    """A parameter without what makes no difference."""
    step = 1 if parameter.step is None and parameter.type == "integer" else parameter.step
    return {
        "type": parameter.type,
        "min": _number(parameter.min),
        "max": _number(parameter.max),
        "step": _number(step),
        "scale": parameter.scale,
        "values": _set(parameter.values),
        "when": {parent: _set(values) for parent, values in parameter.when.items()},
    }


def _goals(search: Search, goal: Goal) -> list[str]:
    return [f"{each.goal} {each.metric}" for each in goals_of(search, goal)]


def _number(value: Any) -> Any:
    """1.0 as 1, which is the same to everybody but JSON."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _set(values: Sequence[Any]) -> list[Any]:
    """In one order, whatever the order they were said in: numbers first, by size."""
    return sorted(map(_number, values), key=lambda v: (not is_number(v), v if is_number(v) else 0, canonical(v)))


def _written(value: Any) -> str:
    if isinstance(value, Mapping):
        return " and ".join(f"{k}=[{', '.join(map(shown, v))}]" for k, v in value.items()) or "always"
    return "none" if value is None or value == [] else shown(value)
