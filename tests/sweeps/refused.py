"""A search of two parameters but for what is said of it, and the keys by which it is refused."""

from __future__ import annotations

from typing import Any

from conf.sweep_schema import Goal, Parameter, Search
from sweeps.legality import problems
from tests.sweeps.kinds import double

OWN = Goal(metric="val/loss", goal="minimize")
OTHER = Goal(metric="latency", goal="minimize")


def search(parameters: dict[str, Parameter] | None = None, **said: Any) -> Search:
    parameters = parameters or {"lr": double(0.1, 1), "width": double(1, 2)}
    return Search(**{"kind": "search", "algorithm": "tpe", "parameters": parameters, "trials": 10, **said})


def keys_of(some: Search) -> list[str]:
    return [key for _, key, _ in problems(some, OWN)]
