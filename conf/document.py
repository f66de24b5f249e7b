"""A spec as JSON and back: the one place where frozen dataclasses meet plain dictionaries.

Nothing is checked here (launchers/config/check.py does that before anything is frozen), and nothing is read
from disk.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def to_document(value: Any) -> Any:
    """Plain dictionaries, lists and scalars that JSON and YAML can write."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_document(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): to_document(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_document(v) for v in value]
    return value


def from_document(cls: type[T], document: Mapping[str, Any]) -> T:
    """The dataclass that `to_document` wrote. A key it does not know is an error (TypeError)."""
    hints = _hints(typing.cast(Any, cls))
    unknown = set(document) - set(hints)
    if unknown:
        raise TypeError(f"{cls.__name__} has no {', '.join(sorted(unknown))}")
    return cls(**{key: _read(hints[key], value) for key, value in document.items()})


@functools.cache
def _hints(cls: Any) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _read(hint: Any, value: Any) -> Any:
    """`value` as the type `hint` wants it: dataclasses, tuples and mappings of them, or itself."""
    if value is None:
        return None
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        hint = _branch([h for h in typing.get_args(hint) if h is not type(None)], value)
    if dataclasses.is_dataclass(hint):
        return from_document(typing.cast(type, hint), value)
    if typing.get_origin(hint) is tuple:
        return tuple(_read(typing.get_args(hint)[0], v) for v in value)
    if typing.get_origin(hint) is Mapping:
        below = typing.get_args(hint)[1]
        return {k: _read(below, v) for k, v in value.items()}
    return value


def _branch(hints: list[Any], value: Any) -> Any:
    """The dataclass of a union whose `kind` the value has; of any other union the first that is a list if the value is
    one, and is none if not."""
    for hint in hints:
        if dataclasses.is_dataclass(hint) and len(hints) > 1:
            kind = typing.get_args(_hints(typing.cast(Any, hint))["kind"])
            if value["kind"] in kind:
                return hint
    return next((h for h in hints if (typing.get_origin(h) is tuple) == isinstance(value, list | tuple)), hints[0])
