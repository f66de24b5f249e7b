"""Which slot ran what and when: attempts laid on slots, and how much of the slots' time was busy, idle or lost.

Slots are not in the record; each attempt takes the free slot with the lowest number, as a queue would.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from sweeps.best import slots
from sweeps.facts import Attempt, Facts
from sweeps.trials import State, Trial

WASTED: tuple[State, ...] = ("FAILED", "LOST", "TIMEOUT", "CANCELLED")
"""Ends that leave neither a value nor knowledge. A pruned or infeasible trial has taught something."""


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One attempt on its slot."""

    trial: int
    slot: int
    started: float
    ended: float
    state: State
    count: int = 1
    """Attempts that this bar stands for."""


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What became of the slots' time, from the first start to the last end (or now, while a trial runs)."""

    slots: int
    begin: float
    end: float
    idle: float
    """Share of the slots' whole time in which nothing ran."""
    idle_before_tail: float
    """The same up to the tail."""
    tail_s: float
    """From the last start to the end: a slot that falls empty has nothing left to run."""
    lost_gpu_hours: float
    """Card time of attempts that left neither value nor knowledge."""
    lost: int
    """Those attempts."""


def bars(trials: Sequence[Trial], facts: Facts) -> tuple[Bar, ...]:
    """Every attempt that held a slot, in the order of their starts."""
    found = sorted((a.started, t.number, a) for t in trials for a in attempts_of(t, facts) if a.started <= facts.now)
    free: list[int] = []
    busy: list[tuple[float, int]] = []
    laid: list[Bar] = []
    for started, number, attempt in found:
        while busy and busy[0][0] <= started:
            heapq.heappush(free, heapq.heappop(busy)[1])
        slot = heapq.heappop(free) if free else len(busy)
        ended = max(started, facts.now if attempt.ended is None else attempt.ended)
        heapq.heappush(busy, (ended, slot))
        laid.append(Bar(trial=number, slot=slot, started=started, ended=ended, state=attempt.state))
    return tuple(laid)


def attempts_of(trial: Trial, facts: Facts) -> tuple[Attempt, ...]:
    """The attempts that the facts name, else the trial's own start and end as one."""
    if named := facts.attempts.get(trial.number):
        return named
    if trial.started is None:
        return ()
    return (Attempt(started=trial.started, ended=trial.ended, state=trial.state),)


def usage(trials: Sequence[Trial], facts: Facts, over: bool) -> Usage | None:
    """The slots' account; None as long as nothing has run. Only a search that is over has a tail."""
    laid = bars(trials, facts)
    if not laid:
        return None
    many = max(facts.parallel or 0, 1 + max(bar.slot for bar in laid))
    used = slots([_as_trial(bar) for bar in laid], many, facts.now)
    end = max(bar.ended for bar in laid)
    lost, lost_gpu_hours = _lost(trials, facts)
    return Usage(
        slots=many,
        begin=laid[0].started,
        end=end,
        idle=used.idle_share,
        idle_before_tail=used.idle_share_without_tail if over else used.idle_share,
        tail_s=end - laid[-1].started if over else 0.0,
        lost_gpu_hours=lost_gpu_hours,
        lost=lost,
    )


def _as_trial(bar: Bar) -> Trial:
    """An attempt in the shape that `slots` counts, which knows no pause between a trial's attempts."""
    return Trial(number=bar.trial, point={}, state=bar.state, asked=bar.started, started=bar.started, ended=bar.ended)


def _lost(trials: Sequence[Trial], facts: Facts) -> tuple[int, float]:
    """A trial's GPU-hours fall on its attempts by their lengths."""
    many, hours = 0, 0.0
    for trial in trials:
        attempts = attempts_of(trial, facts)
        spans = [(facts.now if a.ended is None else a.ended) - a.started for a in attempts]
        wasted = [s for s, a in zip(spans, attempts, strict=True) if a.state in WASTED]
        many += len(wasted)
        hours += trial.gpu_hours * sum(wasted) / sum(spans) if sum(spans) > 0 else 0.0
    return many, hours


def merged(laid: Sequence[Bar], most: int) -> tuple[Bar, ...]:
    """At most about so many bars: neighbours of one state on one slot become one where the gap between them
    is too small to see. The account is made from all of them; this is for drawing only."""
    found = tuple(laid)
    span = max((b.ended for b in found), default=0.0) - min((b.started for b in found), default=0.0)
    gap = span / 2000
    while len(found) > most and gap <= span:
        found = _joined(found, gap)
        gap *= 4
    return found


def _joined(laid: Sequence[Bar], gap: float) -> tuple[Bar, ...]:
    last: dict[int, Bar] = {}
    done: list[Bar] = []
    for bar in laid:
        before = last.get(bar.slot)
        if before and before.state == bar.state and bar.started - before.ended <= gap:
            last[bar.slot] = Bar(
                trial=before.trial,
                slot=bar.slot,
                started=before.started,
                ended=max(before.ended, bar.ended),
                state=bar.state,
                count=before.count + bar.count,
            )
        else:
            if before:
                done.append(before)
            last[bar.slot] = bar
    return tuple(sorted((*done, *last.values()), key=lambda b: (b.started, b.slot)))
