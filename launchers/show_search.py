"""What the verbs print of searches, as text. Nothing here reads or decides; the rest of the verbs is show.py's."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sweeps.spelling import GLUE, duration

MOST_ROWS = 20
"""A person reads so many lines; the rest is counted."""
MOST_LINES = 12
"""Of a log's end: a traceback's last frames."""


def search_text(search: Mapping[str, Any]) -> Iterator[str]:
    """How a search stands (standing.py), in some six lines; and what trials said that failed alike."""
    title = "best        " if search["over"] else "best so far "
    if best := search["best"]:
        cut = "" if best["state"] == "SUCCEEDED" else f" ({best['state'].lower()})"
        yield f"  {title} trial {best['trial']}{cut}  {_values(best)}  {_point(best['point'])}"
    else:
        yield f"  {title} none"
    if "pareto" in search:
        numbers = search["pareto"]
        more = f" and {len(numbers) - MOST_ROWS} more" if len(numbers) > MOST_ROWS else ""
        yield f"  Pareto set   {len(numbers)} trials: {', '.join(map(str, numbers[:MOST_ROWS]))}{more}"
    yield f"  trials       {_trials(search)}"
    yield f"  used         {_used(search['budget'])}"
    if search["slots"]:
        yield f"  slots        {_slots(search['slots'])}"
    if search["over"]:
        yield f"  over         {_line(search['over'])}"
    if (failed := search.get("failed_alike")) and failed["last_lines"]:
        yield f"  trial {failed['trials'][-1]} said at its end"
        yield from (f"    {line}" for line in failed["last_lines"][-MOST_LINES:])


def best_text(document: Mapping[str, Any]) -> Iterator[str]:
    """The winner, the Pareto set where there is one, and how to run it again."""
    best, goals = document["best"], document["goals"]
    aims = ", ".join(f"{goal['goal']} {goal['metric']}" for goal in goals)
    yield f"{document['job']}   {aims}"
    if front := document.get("pareto"):
        yield f"  Pareto set: {len(front)} of {document['trials']} trials"
        yield from (f"    {line}" for line in _table(front, goals))
    cut = "" if best["state"] == "SUCCEEDED" else f", {best['state']}"
    yield f"  trial {best['trial']} of {document['trials']}{cut}   {_values(best)}"
    width = max((len(key) for key in best["point"]), default=0)
    yield from (f"    {key:<{width}}  {_written(value)}" for key, value in best["point"].items())
    if earlier := best.get("lineage"):
        yield "  went on from the checkpoints of"
        yield from (f"    trial {each['trial']:<4}  {_point(each['point'])}" for each in reversed(earlier))
    yield f"  written to {document['experiment']}"
    yield from (f"  note: {_line(said)}" for said in document["differences"])
    yield ""
    yield f"run it again   {shlex.join(document['command'])}"


def extend_text(document: Mapping[str, Any]) -> str:
    """One line."""
    new = len(document["members"])
    queued = f"{new} member(s) queued" if new else "nothing new to queue"
    budget = ", ".join(f"{name} {value}" for name, value in document["budget"].items())
    return f"{document['job']}   {queued}   {budget}"


def _table(rows: Sequence[Mapping[str, Any]], goals: Sequence[Mapping[str, str]]) -> Iterator[str]:
    heads = ["trial", *(goal["metric"] for goal in goals), "point"]
    cells = [
        [str(row["trial"]), *(f"{row['values'][goal['metric']]:.6g}" for goal in goals), _point(row["point"])]
        for row in rows[:MOST_ROWS]
    ]
    widths = [max(len(line[i]) for line in [heads, *cells]) for i in range(len(heads) - 1)]
    for line in [heads, *cells]:
        yield "  ".join([*(text.rjust(width) for text, width in zip(line[:-1], widths, strict=True)), line[-1]])
    if len(rows) > MOST_ROWS:
        yield f"... and {len(rows) - MOST_ROWS} more (--json shows all)"


def _trials(search: Mapping[str, Any]) -> str:
    counts, budget = search["trials"], search["budget"]["trials"]
    done = ", ".join(f"{n} {state.lower()}" for state, n in sorted(counts.items(), key=lambda each: -each[1]))
    return f"{budget['used']} of {budget['limit']}" + (f": {done}" if done else "")


def _used(budget: Mapping[str, Any]) -> str:
    hours, wall = budget["gpu_hours"], budget["wall_min"]
    parts = [_of(_minutes(wall["used"]), _minutes(wall["limit"]) if wall["limit"] is not None else "")]
    if hours["used"] or hours["reserved"] or hours["limit"] is not None:
        reserved = f" ({hours['reserved']:.4g} more reserved)" if hours["reserved"] else ""
        limit = f"{hours['limit']:g}" if hours["limit"] is not None else ""
        parts.append(_of(f"{hours['used']:.4g}", limit) + f" GPU-hours{reserved}")
    return ", ".join(parts)


def _slots(slots: Mapping[str, Any]) -> str:
    idle, before = f"{slots['idle']:.0%}", f"{slots['idle_before_tail']:.0%}"
    tail = "" if idle == before else f" ({before} before the last trial began)"
    return f"{slots['count']}, idle {idle} of the time{tail}"


def _of(used: str, limit: str) -> str:
    return f"{used} of {limit}" if limit else used


def _minutes(minutes: float) -> str:
    return duration(60 * minutes).replace(GLUE, " ")


def _values(trial: Mapping[str, Any]) -> str:
    return "  ".join(f"{_line(metric)} {value:.6g}" for metric, value in trial["values"].items())


def _point(point: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={_written(value)}" for key, value in point.items())


def _written(value: Any) -> str:
    """A word as it is, everything else as JSON has it: with every digit."""
    return _line(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _line(text: str) -> str:
    return " ".join(text.split())
