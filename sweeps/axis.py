"""One parameter as a sampler sees it: a number, a whole number or an index, on an even or a logarithmic axis.

A *coordinate* is what a sampler works on, a *value* is what the program gets. Lists and steps are indices, since
samplers want even axes; a reversed axis is `min + max - value`, as Vertex's UNIT_REVERSE_LOG_SCALE has it.
Which values and points a space has is space.py's; the search is expected to be well said (legality.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from conf.sweep_schema import Parameter, Search
from sweeps.space import choices, count, is_active, is_value, ordered
from sweeps.values import same

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


@dataclass(frozen=True)
class Axis:
    """Where a parameter's coordinates lie, both ends included."""

    parameter: Parameter
    kind: Literal["number", "whole", "category"]
    low: float
    high: float
    log: bool = False
    is_index: bool = False
    """Coordinates count the parameter's values from 0."""

    def value_at(self, coordinate: float) -> Any:
        """The value at a coordinate: one that the parameter may have, a plain int or float."""
        if self.is_index:
            return choices(self.parameter)[int(coordinate)]
        value = min(max(self._turned(coordinate), self.low), self.high)
        return int(value) if self.kind == "whole" else float(value)

    def coordinate_of(self, value: Any) -> float | None:
        """Where a value lies; None when the parameter cannot have it."""
        if not is_value(self.parameter, value):
            return None
        if self.parameter.values:
            return next(i for i, each in enumerate(self.parameter.values) if same(each, value))
        if self.is_index:
            return round((float(value) - (self.parameter.min or 0.0)) / (self.parameter.step or 1.0))
        return self._turned(float(value))

    def value_below(self, share: float) -> Any:
        """The value below which this share (0 to 1) of the axis lies: even shares draw evenly."""
        low, high = self._edges()
        if self.log:
            place = math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
        else:
            place = low + share * (high - low)
        place = place if self.kind == "number" else math.floor(place + 0.5)
        return self.value_at(min(max(place, self.low), self.high))

    def share_of(self, coordinate: float) -> float:
        """The share of the axis below a coordinate, from which `value_below` finds its value again."""
        low, high = self._edges()
        if low == high:
            return 0.5
        if self.log:
            return math.log(coordinate / low) / math.log(high / low)
        return (coordinate - low) / (high - low)

    def distribution(self) -> BaseDistribution:
        """The same axis in Optuna's words."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.kind == "category":
            return CategoricalDistribution(range(int(self.high) + 1))
        if self.kind == "whole":
            return IntDistribution(int(self.low), int(self.high), log=self.log)
        return FloatDistribution(float(self.low), float(self.high), log=self.log)

    def _turned(self, number: float) -> float:
        """A value from a coordinate, and the other way round: the same for a reversed axis."""
        return self.low + self.high - number if self.parameter.scale == "reverse_log" else number

    def _edges(self) -> tuple[float, float]:
        """Where the axis begins and ends: a whole number owns half a unit on either side."""
        half = 0.0 if self.kind == "number" else 0.5
        return self.low - half, self.high + half


def axes_of(search: Search) -> dict[str, Axis]:
    """Every parameter's axis."""
    return {name: _axis(parameter) for name, parameter in search.parameters.items()}


def coordinates_of(axes: Mapping[str, Axis], point: Mapping[str, Any]) -> dict[str, float] | None:
    """A point on the axes; None when it is not of this space."""
    found: dict[str, float] = {}
    for name, value in point.items():
        coordinate = axes[name].coordinate_of(value) if name in axes else None
        if coordinate is None:
            return None
        found[name] = coordinate
    return found


def make_point(search: Search, value_for: Callable[[str], Any]) -> dict[str, Any]:
    """A point by asking for each parameter that is there, parents before children; in the search's own order."""
    point: dict[str, Any] = {}
    for name, parameter in ordered(search):
        if is_active(parameter, point):
            point[name] = value_for(name)
    return {name: point[name] for name in search.parameters if name in point}


def _axis(parameter: Parameter) -> Axis:
    many = count(parameter)
    if many is not None and parameter.scale == "linear":
        return Axis(parameter, "category" if parameter.type == "categorical" else "whole", 0, many - 1, is_index=True)
    assert parameter.min is not None and parameter.max is not None
    kind: Literal["number", "whole"] = "whole" if parameter.type == "integer" else "number"
    return Axis(parameter, kind, parameter.min, parameter.max, parameter.scale != "linear")
