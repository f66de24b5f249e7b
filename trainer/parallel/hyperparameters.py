"""Which hyperparameters does an optimizer have that went back to a checkpoint? Those of the spec, where they differ.

A run that is tried again has the same as before; the heir of another (sweeps/population.py) has its own. What an
optimizer has made of its groups since, as some adapt their own rates, stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

Options = list[dict[str, Any]]
"""Of each parameter group, as JSON has them."""


def of(optimizer: torch.optim.Optimizer) -> Options:
    """What stands in an optimizer's groups. Asked before its first step: what it was given."""
    return [
        {name: _plain(value) for name, value in group.items() if name != "params" and _is_plain(value)}
        for group in optimizer.param_groups
    ]


def renew(optimizer: torch.optim.Optimizer, before: Sequence[Mapping[str, Any]] | None, now: Options) -> None:
    """Set what was given otherwise `before`, when the checkpoint's run began. None is a checkpoint that says nothing
    of it."""
    if before is None or len(before) != len(now):
        return
    for group, old, new in zip(optimizer.param_groups, before, now, strict=True):
        for name, value in new.items():
            if name in old and old[name] != value:
                group[name] = tuple(value) if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))
