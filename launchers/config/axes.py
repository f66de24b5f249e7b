"""What the command line sweeps: the values of a grid's axis, or a dimension of a search.

Hydra's grammar for both: lists, `choice`, `range`, `glob`, and for a search also `interval` with its tags
`log` and `reverse_log`, and `int(...)` around it. Which keys are swept is compose.py's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException

from launchers.config.compose import Composer
from launchers.errors import Problem, SpecError

SCALES = ("log", "reverse_log")


def enumerated(made: Composer) -> dict[str, list[Any]]:
    """The values of each axis: names of options, or values as the grammar types them.

    Raises SpecError with what cannot be enumerated.
    """
    return {key: _values(made, override) for key, override in made.swept.items()}


def dimensions(made: Composer) -> dict[str, Mapping[str, Any]]:
    """The parameters of a search that the command line declares, as the YAML would have them."""
    return {key: dimension(override, partial(_values, made, override)) for key, override in made.swept.items()}


def _values(made: Composer, override: Override) -> list[Any]:
    key, texts = override.key_or_group, _texts(made, override)
    if made.is_group(key):
        return list(texts)
    parser = OverridesParser.create()
    return [parser.parse_override(f"{key}={text}").value() for text in texts]


def _texts(made: Composer, override: Override) -> list[str]:
    swept: Any = override.value()
    if isinstance(swept, Glob):
        return list(swept.filter(made.options(override.key_or_group)))
    try:
        return list(override.sweep_string_iterator())
    except HydraException as e:
        what = f"{override.key_or_group} cannot be enumerated: {e}"
        do = "a grid needs values: key=1,2,3 or key=range(1,4); an interval belongs to a search (sweep=...)"
        raise SpecError([Problem(what, f"override {override.input_line}", do)]) from None


def dimension(override: Override, values_of: Callable[[], list[Any]]) -> dict[str, Any]:
    """A parameter of a search from a sweep of Hydra's grammar, whose values are asked for where they can be listed."""
    swept: Any = override.value()
    if isinstance(swept, IntervalSweep | RangeSweep):
        low: Any = swept.start
        high: Any = swept.end if isinstance(swept, IntervalSweep) else swept.stop
        whole = isinstance(low, int) and isinstance(high, int)
        found: dict[str, Any] = {"type": "integer" if whole else "double", "min": low, "max": high}
        if isinstance(swept, RangeSweep):
            steps = max(0, -(-(high - low) // swept.step) - 1)
            found |= {"max": low + steps * swept.step, "step": swept.step}
        scale = next((tag for tag in SCALES if tag in swept.tags), None)
        return found | ({"scale": scale} if scale else {})
    values = values_of()
    numbers = isinstance(swept, ChoiceSweep) and all(type(v) in (int, float) for v in values)
    return {"type": "discrete", "values": sorted(values)} if numbers else {"type": "categorical", "values": values}
