"""What a report says beyond the record of trials: whose job it is, what time it is, how trials were run and paid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sweeps.trials import State


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One stretch of time in which a trial held a slot."""

    started: float
    """Seconds since the epoch."""
    ended: float | None = None
    """None while it runs."""
    state: State
    """How this attempt ended; LOST where the site took the slot away."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Everything a page shows that trials do not say of themselves."""

    job: str
    title: str
    now: float
    """Seconds since the epoch: running trials are drawn up to here."""
    parallel: int | None = None
    """Slots; None takes as many as were ever busy at once."""
    stopped: str = ""
    """Why the search is over; empty while it goes on."""
    attempts: Mapping[int, tuple[Attempt, ...]] = field(default_factory=dict)
    """Trial number to its attempts, where there was more than one; else the trial's own start and end."""
    prices: Mapping[int, float] = field(default_factory=dict)
    """Trial number to what it cost."""
    currency: str = ""
    """Of the prices."""
    begun_with: Mapping[str, int] = field(default_factory=dict)
    """Earlier jobs, and how many of their trials the search began with."""
    rank_s: Mapping[str, float] = field(default_factory=dict)
    """Phase of an attempt's life to rank-seconds, over all trials; `steps` is what the rest is for."""
