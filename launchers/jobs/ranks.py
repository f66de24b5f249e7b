"""How long does each rank take alone, and where does it run? By what our trainer reported of all its ranks.

A rank's own time is its wait for data and its forward and backward passes, without what it waits for other ranks
(trainer/insight/stragglers.py says how well that can be told). Reads only.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from launchers.run_folder.beat import beat_of
from launchers.run_folder.record import Attempt, Run, read_lines, started_members

SHOWN_RANKS = 16
"""Of each member, the slowest."""
SHOWN_MEMBERS = 4


@dataclass(frozen=True)
class RankTime:
    """A rank of an attempt, by the mean of its steps."""

    rank: int
    host: str
    own_s: float
    """Per step."""
    waited_s: float
    """Of these, for data."""
    times: float
    """The median rank's own time that it takes."""


@dataclass(frozen=True)
class Ranks:
    """Of one member's newest attempt that reported of several."""

    attempt: int
    times: Sequence[RankTime]
    """By rank."""

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {"attempt": self.attempt, "ranks": [vars(time) for time in self.times]}


def ranks_of(run: Run) -> dict[int, Ranks]:
    """Of all members that have begun and have several ranks."""
    found = {index: _newest(run.member(index).attempts()) for index in sorted(started_members(run))}
    return {index: ranks for index, ranks in found.items() if ranks}


def _newest(attempts: Sequence[Attempt]) -> Ranks | None:
    for attempt in reversed(attempts):
        if times := rank_times(attempt):
            return Ranks(attempt.number, times)
    return None


def rank_times(attempt: Attempt) -> list[RankTime]:
    """Of all its reports but the first, which has the start of everything in it, where there are more. Nothing of one
    rank."""
    rows = [row for row in read_lines(attempt.metrics) if "ranks" in row]
    weights = [1, *(after["step"] - before["step"] for before, after in pairwise(rows))]
    if len(rows) > 1:
        rows, weights = rows[1:], weights[1:]
    own_s, waited_s = (_means(rows, weights, name) for name in ("own_s", "waited_s"))
    usual_s = max(statistics.median_low(own_s), 1e-9) if own_s else 0.0
    return [
        RankTime(rank, beat_of(attempt.beat(rank)).host or "an unknown host", own, waited, round(own / usual_s, 3))
        for rank, (own, waited) in enumerate(zip(own_s, waited_s, strict=True))
    ]


def _means(rows: Sequence[Mapping[str, Any]], steps: Sequence[int], name: str) -> list[float]:
    """Every rank's, over reports of so many steps."""
    columns = zip(*(row["ranks"][name] for row in rows), strict=True)
    return [float(f"{statistics.fmean(column, steps):.4g}") for column in columns]


def ranks_text(found: Mapping[int, Ranks]) -> Iterator[str]:
    """A table for each of the first members, the slowest ranks first."""
    for index, ranks in list(found.items())[:SHOWN_MEMBERS]:
        slowest = sorted(ranks.times, key=lambda time: -time.own_s)
        width = max(4, *(len(time.host) for time in slowest[:SHOWN_RANKS]))
        yield f"ranks of member {index}, attempt {ranks.attempt}: seconds per step, without waits for other ranks"
        yield f"{'rank':>4}  {'host':<{width}}{'own':>10}{'of it data':>12}{'times the median':>18}"
        for time in slowest[:SHOWN_RANKS]:
            seconds = f"{time.own_s:>10.4g}{time.waited_s:>12.4g}"
            yield f"{time.rank:>4}  {time.host:<{width}}{seconds}{time.times:>18.2f}"
        if len(slowest) > SHOWN_RANKS:
            yield f"and {len(slowest) - SHOWN_RANKS} ranks that take less (--json shows all)"
    if len(found) > SHOWN_MEMBERS:
        yield f"and the ranks of {len(found) - SHOWN_MEMBERS} more members (--json shows all)"
