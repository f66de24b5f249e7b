"""Sweeps of Hydra's grammar as lists of overrides: the jobs of a grid, and what to try of a search's space."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.types import Glob, IntervalSweep, Override, Quote, QuotedString


def last_of_each(overrides: Sequence[Override]) -> list[Override]:
    """One override of each key, the last, at the place of the first."""
    return list({each.get_key_element(): each for each in overrides}.values())


def product(overrides: Sequence[Override]) -> list[list[str]]:
    """Every combination, the last sweep fastest; what is not swept passes through as it was written."""
    axes = [
        [f"{each.get_key_element()}={text}" for text in each.sweep_string_iterator()]
        if each.is_sweep_override()
        else [str(each.input_line)]
        for each in overrides
    ]
    return [list(job) for job in itertools.product(*axes)]


def listed(override: Override) -> str:
    """A sweep as it was written; one by pattern as the options that it means."""
    if isinstance(override.value(), Glob):
        return f"{override.get_key_element()}=choice({','.join(override.sweep_string_iterator())})"
    return str(override.input_line)


def corners(overrides: Sequence[Override], sweep: Any, fixed: Sequence[str]) -> list[list[str]]:
    """Jobs in which each value that a search lists, and both ends of each range, stands once."""
    found = []
    for each in overrides:
        if each.is_sweep_override():
            found += [[*fixed, f"{each.get_key_element()}={text}"] for text in _ends(each)]
    parameters = sweep.get("parameters") if isinstance(sweep, dict) else None
    for key, parameter in (parameters or {}).items():
        if isinstance(parameter, dict):
            found += [[*fixed, *_parents(parameter), f"{key}={_text(v)}"] for v in _values(parameter)]
    return found or [list(fixed)]


def _ends(override: Override) -> Iterator[str]:
    swept = override.value()
    if isinstance(swept, IntervalSweep):
        yield from (str(swept.start), str(swept.end))
    else:
        yield from override.sweep_string_iterator()


def _values(parameter: Mapping[str, Any]) -> list[Any]:
    ends = [parameter[name] for name in ("min", "max") if parameter.get(name) is not None]
    return [*(parameter.get("values") or []), *ends]


def _parents(parameter: Mapping[str, Any]) -> list[str]:
    """Its conditions, as one point that fulfils them."""
    conditions = parameter.get("when") or {}
    return [f"{key}={_text(values[0])}" for key, values in conditions.items() if isinstance(values, list) and values]


def _text(value: Any) -> str:
    if value is None:
        return "null"
    return QuotedString(value, Quote.single).with_quotes() if isinstance(value, str) else str(value)
