"""Parameters of a search, of each kind."""

from __future__ import annotations

from typing import Any

from conf.sweep_schema import Parameter


def double(low: float | None, high: float | None, **said: Any) -> Parameter:
    return Parameter(type="double", min=low, max=high, **said)


def integer(low: float | None, high: float | None, **said: Any) -> Parameter:
    return Parameter(type="integer", min=low, max=high, **said)


def words(*values: Any, **said: Any) -> Parameter:
    return Parameter(type="categorical", values=values, **said)


def numbers(*values: Any, **said: Any) -> Parameter:
    return Parameter(type="discrete", values=values, **said)
