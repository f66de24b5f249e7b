"""Two ways of doing one thing, measured in turn, A B A B: medians and the ratio pair by pair.

The machines are shared and their speed drifts; pairs drift together.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

PAIRS = 5


@dataclass(frozen=True)
class Row:
    """One comparison, in seconds."""

    name: str
    ours_s: float
    theirs: str
    theirs_s: float
    ratio: float
    """ours / theirs, the median over pairs."""


def compare(name: str, ours: Callable[[], float], theirs: str, other: Callable[[], float], pairs: int = PAIRS) -> Row:
    """Both measured `pairs` times in turn, after one round that is not counted."""
    ours(), other()
    measured = [(ours(), other()) for _ in range(pairs)]
    ratio = statistics.median(a / b for a, b in measured)
    medians = [statistics.median(column) for column in zip(*measured, strict=True)]
    return Row(name, medians[0], theirs, medians[1], ratio)


def table(rows: list[Row]) -> str:
    """The rows as a person reads them."""
    lines = [f"{'what':<44} {'Fairlead':>10}   {'beside it':<34} {'':>10} {'ratio':>7}"]
    for r in rows:
        lines.append(f"{r.name:<44} {r.ours_s:>8.2f} s   {r.theirs:<34} {r.theirs_s:>8.2f} s {r.ratio:>7.2f}")
    return "\n".join(lines)
