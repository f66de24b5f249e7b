"""When two values of a configuration are the same one, and how values are written: canonically, and for people.

What a value may be (its type, its range) is the schema's and space.py's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), default=str)


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal texts, equal values. 1, 1.0, "1" and true all differ."""
    return _ENCODER.encode(value)


def same(one: Any, other: Any) -> bool:
    """Whether two values mean the same, as somebody says them who repeats a value from memory.

    Numbers are compared by value (1 and 1.0), a word that spells a number counts as one beside a number (YAML 1.1
    reads `1e-2` as a word), two words letter by letter ("1.1" is not "1.10"). true and 1 differ.
    """
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, str) != isinstance(other, str):
        return bool(_number(one) == _number(other))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def among(value: Any, values: Sequence[Any]) -> bool:
    """Whether one of `values` is the same as `value`."""
    # The first half is only the second, fast, for the words that most lists are made of.
    return (type(value) is str and value in values) or any(same(value, each) for each in values)


def is_number(value: Any) -> bool:
    """An int or a float; true and false are neither."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def shown(value: Any) -> str:
    """A value in a message: words as they are, numbers without a needless `.0`, long lists cut."""
    if isinstance(value, str):
        return value if value else "''"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, (list, tuple)):
        listed = [shown(v) for v in value[:6]] + [f"... ({len(value)} in all)"] * (len(value) > 6)
        return f"[{', '.join(listed)}]"
    return canonical(value) if isinstance(value, (Mapping, bool, type(None))) else str(value)


def _number(value: Any) -> Any:
    """The number that a word spells; anything else as it is."""
    if not isinstance(value, str) or not _NUMBER.fullmatch(value):
        return value
    try:
        return int(value)
    except ValueError:
        return float(value)
