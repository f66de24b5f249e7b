"""The trials as a table of HTML: one row each, sortable by every column."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from conf.sweep_schema import Goal, Search
from sweeps.facts import Facts
from sweeps.spelling import count, duration, escape, number, value
from sweeps.trials import Trial, value_of

MOST_ROWS = 1000


@dataclass(frozen=True, kw_only=True)
class Column:
    """One heading with its cells: what is sorted by and what is read."""

    head: str
    cells: tuple[tuple[Any, str], ...]
    """None sorts last."""
    kind: str = ""

    @functools.cached_property
    def wordy(self) -> bool:
        """Set left; numbers stand right."""
        return bool(self.kind) or any(isinstance(by, str) for by, _ in self.cells)


def table(search: Search, goals: Sequence[Goal], trials: Sequence[Trial], facts: Facts, best: frozenset[int]) -> str:
    """The first rows by number, and those of the best trials wherever they are."""
    ordered = sorted(trials, key=lambda t: t.number)
    shown = [t for place, t in enumerate(ordered) if place < MOST_ROWS or t.number in best]
    if not shown:
        return '<p class="why">No trial has asked for a point yet.</p>'
    said = count(len(shown), "trial")
    if len(shown) < len(trials):
        said = f"The first {MOST_ROWS:,} of {count(len(trials), 'trial')}"
        said += f", and {len(shown) - MOST_ROWS} of the best." if len(shown) > MOST_ROWS else "."
    columns = _columns(search, goals, shown, facts)
    heads = "".join(_head(column) for column in columns)
    rows = "".join(_row(columns, i, trial.number in best) for i, trial in enumerate(shown))
    caption = f"{said} The headings sort; the best are marked." if said.endswith(".") else f"{said}. The headings sort."
    return (
        '<div class="scroll trials" role="region" aria-label="Table of trials" tabindex="0">'
        f'<table class="sortable"><caption>{caption}</caption><thead><tr>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _columns(search: Search, goals: Sequence[Goal], shown: Sequence[Trial], facts: Facts) -> list[Column]:
    columns = [
        Column(head="trial", cells=tuple((t.number, str(t.number)) for t in shown)),
        Column(head="state", cells=tuple((t.state, t.state) for t in shown), kind="state"),
    ]
    for goal in goals:
        # Several goals are measured at the last report, as `values_of` does.
        kind = search.measurement if len(goals) == 1 else "last"
        columns.append(_numbers(goal.metric, [value_of(t, goal, kind) for t in shown]))
    for name in search.parameters:
        columns.append(
            Column(head=name, cells=tuple(_said(t.point[name]) if name in t.point else (None, "") for t in shown))
        )
    spans = [_span(t, facts.now) for t in shown]
    columns.append(Column(head="duration", cells=tuple((s, "" if s is None else duration(s)) for s in spans)))
    if any(t.attempts > 1 for t in shown):
        columns.append(_numbers("attempts", [t.attempts for t in shown]))
    columns.append(_numbers("GPU-hours", [t.gpu_hours for t in shown]))
    if facts.prices:
        columns.append(_numbers(f"cost {facts.currency}".strip(), [facts.prices.get(t.number) for t in shown]))
    if any(t.error for t in shown):
        columns.append(Column(head="error", cells=tuple((t.error or None, t.error) for t in shown), kind="error"))
    return columns


def _numbers(head: str, values: Sequence[float | None]) -> Column:
    return Column(head=head, cells=tuple((v, "" if v is None else number(v)) for v in values))


def _said(chosen: Any) -> tuple[Any, str]:
    return chosen, value(chosen)


def _span(trial: Trial, now: float) -> float | None:
    if trial.started is None:
        return None
    return max(0.0, (now if trial.ended is None else trial.ended) - trial.started)


def _head(column: Column) -> str:
    align = ' class="word"' if column.wordy else ""
    return f'<th scope="col" aria-sort="none"{align}><button type="button">{escape(column.head)}</button></th>'


def _row(columns: Sequence[Column], i: int, best: bool) -> str:
    cells = [_cell(column, *column.cells[i]) for column in columns]
    cells[0] = f'<th scope="row" data-v="{columns[0].cells[i][0]}">{columns[0].cells[i][1]}</th>'
    return f"<tr{' class=best' if best else ''}>{''.join(cells)}</tr>"


def _cell(column: Column, by: Any, said: str) -> str:
    key = "" if by is None or (isinstance(by, float) and math.isnan(by)) else repr(by) if isinstance(by, float) else by
    if column.kind == "state":
        return f'<td class="word" data-v="{said}"><span class="state {said}">{said.lower()}</span></td>'
    kind = f' class="word {column.kind}"' if column.wordy else ""
    return f'<td{kind} data-v="{escape(key)}">{escape(said)}</td>'
