"""A grid by what it says."""

from __future__ import annotations

from typing import Any

from conf.sweep_schema import Grid


def grid(**said: Any) -> Grid:
    return Grid(kind="grid", **said)
