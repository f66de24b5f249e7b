"""The timeline of slots as a section of the page: one bar per attempt, and the slots' account in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sweeps.drawing import STATE_COLOURS, Plot, Section, embedded
from sweeps.facts import Facts
from sweeps.spelling import DAY, HOUR, MINUTE, count, duration, moment, number, share
from sweeps.timeline import Bar, Usage, bars, merged
from sweeps.trials import State, Trial

MOST_BARS, MOST_APART = 3000, 400
"""Drawn at most; and how many have a thin light edge, which would hide them where they are many."""
BAR, LIGHT = 0.86, "rgba(255, 255, 255, 0.7)"
PATTERNS: dict[State, str] = {"FAILED": "x", "LOST": "/", "TIMEOUT": "\\", "CANCELLED": "-", "INFEASIBLE": "."}


def timeline(trials: Sequence[Trial], facts: Facts, account: Usage | None) -> Section:
    """One row per slot. What stays pale is idle, what is hatched left no value."""
    if account is None:
        return Section(key="timeline", title="Timeline of slots", why="No trial has started yet.", wide=True)
    laid = bars(trials, facts)
    drawn = merged(laid, MOST_BARS)
    unit_s, unit = _unit(account.end - account.begin)
    span = (account.end - account.begin) / unit_s
    traces = [_idle_trace(account.slots, span)]
    for state in STATE_COLOURS:
        if found := [bar for bar in drawn if bar.state == state]:
            traces.append(_trace(state, found, account.begin, unit_s))
    if len(drawn) <= MOST_APART:
        for trace in traces[1:]:
            trace["marker"]["line"] = {"width": 0.5, "color": LIGHT}
    layout = {
        "barmode": "overlay",
        "xaxis": {"title": {"text": f"{unit} since {moment(account.begin)}"}, "showgrid": False},
        "yaxis": {
            "title": {"text": "slot"},
            "range": [account.slots - 0.5, -0.5],
            "showgrid": False,
            "zeroline": False,
            "dtick": max(1, account.slots // 16),
        },
        "hovermode": "closest",
    }
    note = words(account)
    if len(drawn) < len(laid):
        note += f" Neighbours too close to tell apart are one bar ({len(drawn):,} for {len(laid):,} attempts)."
    plot = Plot(
        label="Which slot ran which trial and when",
        json=embedded({"data": traces, "layout": layout}),
        height_px=min(900, 130 + 22 * account.slots),
    )
    return Section(key="timeline", title="Timeline of slots", note=note, plots=(plot,), wide=True)


def words(account: Usage) -> str:
    """The account in one or two sentences."""
    said = f"{count(account.slots, 'slot')} over {duration(account.end - account.begin)}: {share(account.idle)} idle"
    if account.tail_s > 0:
        said += f" ({share(account.idle_before_tail)} before the tail: the last {duration(account.tail_s)}, "
        said += "after the last start, in which no trial is left for a slot that falls empty)"
    lost = f"{count(account.lost, 'attempt')} left no value and took {number(account.lost_gpu_hours)} GPU-hours."
    return f"{said}. {lost if account.lost else 'No attempt was lost.'}"


def _unit(span_s: float) -> tuple[int, str]:
    for unit_s, unit in ((DAY, "days"), (HOUR, "hours"), (MINUTE, "minutes")):
        if span_s >= 3 * unit_s:
            return unit_s, unit
    return 1, "seconds"


def _idle_trace(slots: int, span: float) -> dict[str, Any]:
    return {
        "type": "bar",
        "orientation": "h",
        "name": "idle",
        "y": list(range(slots)),
        "x": [round(span, 6)] * slots,
        "width": BAR,
        "marker": {"color": "rgba(128, 140, 155, 0.16)"},
        "hoverinfo": "skip",
    }


def _trace(state: State, found: Sequence[Bar], begin: float, unit_s: int) -> dict[str, Any]:
    return {
        "type": "bar",
        "orientation": "h",
        "name": state,
        "y": [bar.slot for bar in found],
        "base": [round((bar.started - begin) / unit_s, 5) for bar in found],
        "x": [round((bar.ended - bar.started) / unit_s, 5) for bar in found],
        "text": [f"trial {b.trial}" if b.count == 1 else f"{b.count} attempts" for b in found],
        "customdata": [duration(bar.ended - bar.started) for bar in found],
        "hovertemplate": f"%{{text}}<br>{state.lower()}, %{{customdata}}<extra></extra>",
        "textposition": "none",
        # Plotly would take the widest that fits between the bars of one state.
        "width": BAR,
        "marker": {
            "color": STATE_COLOURS[state],
            "pattern": {"shape": PATTERNS.get(state, ""), "size": 6, "fillmode": "overlay", "fgcolor": LIGHT},
        },
    }
