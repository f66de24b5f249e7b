"""How a running job looks to somebody who waits: bars on a terminal, plain lines in a log file."""

from __future__ import annotations

import contextlib
import datetime
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from launchers.jobs.status import TERMINAL, JobStatus, MemberStatus
from launchers.run_folder.record import Run, read_json

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

PLAIN_EVERY_S = 5.0
METRICS = ("val/accuracy", "val/mae", "val/rmse", "val/loss", "train/loss", "val/r2")
"""Of our trainer; what is shown of a member, the first ones where there is little room."""
SHOWN_METRICS = 3
PACE_S = 30.0
"""How far back steps are counted for their pace."""
BESIDE_LINES = 3
"""Of a terminal's lines, those that no bar of a member takes."""


@contextlib.contextmanager
def display(run: Run) -> Iterator[Callable[[JobStatus], None]]:
    """A function that shows a status; on a terminal it redraws, elsewhere it prints what changed."""
    watched = Watched(*_goal(run))
    if not sys.stderr.isatty():
        yield _Plain(watched).look
        return
    from rich.console import Console

    with _bars(Console(stderr=True)) as bars:
        yield _Bars(bars, watched).look


def _bars(console: Console) -> Progress:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.table import Column

    columns = (
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        BarColumn(bar_width=10),
        # A narrow terminal cuts this column, and no other.
        TextColumn(
            "{task.fields[said]}", markup=False, table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")
        ),
    )
    return Progress(*columns, console=console, transient=True, expand=True)


def _goal(run: Run) -> tuple[str, int]:
    """The metric that members are compared by, and 1 where more is better, else -1."""
    spec = read_json(run.spec)
    goals = (spec.get("sweep") or {}).get("objectives") or [spec["objective"]]
    return goals[0]["metric"], 1 if goals[0]["goal"] == "maximize" else -1


@dataclass
class Watched:
    """What was seen of a job so far."""

    metric: str
    sign: int
    best: tuple[float, int] | None = None
    """The best value of the metric at any time, and whose it is."""
    steps: dict[int, deque[tuple[float, int]]] = field(default_factory=dict)
    """When each member was seen at which step, in the last PACE_S seconds."""
    over: tuple[int, float] = (0, 0.0)
    """How many members had ended when one last did, and when the others would have, if they take as long."""

    def see(self, now: JobStatus, at_s: float) -> None:
        ended = _ended(now)
        if now.launched and ended != self.over[0]:
            self.over = ended, now.launched + (at_s - now.launched) / max(ended, 1) * len(now.members)
        for member in now.members:
            self._note(member)
            if member.step is None or member.state != "RUNNING":
                continue
            seen = self.steps.setdefault(member.index, deque())
            if seen and seen[-1][1] > member.step:  # it went back to a checkpoint
                seen.clear()
            if not seen or seen[-1][1] < member.step:
                seen.append((at_s, member.step))
            while len(seen) > 2 and seen[0][0] < at_s - PACE_S:
                seen.popleft()

    def _note(self, member: MemberStatus) -> None:
        value = (member.metrics or {}).get(self.metric)
        if not isinstance(value, int | float) or not math.isfinite(value):
            return
        if self.best is None or self.sign * value > self.sign * self.best[0]:
            self.best = (value, member.index)

    def pace(self, member: MemberStatus) -> float | None:
        """Steps a second; None before a second step was seen."""
        seen = self.steps.get(member.index, deque())
        if len(seen) < 2 or seen[-1][0] <= seen[0][0]:
            return None
        return (seen[-1][1] - seen[0][1]) / (seen[-1][0] - seen[0][0])

    def of_member(self, member: MemberStatus) -> str:
        """Step, pace, what is left and the metrics, of which the one that counts comes first."""
        if member.step is None:
            return "starting" if member.state == "RUNNING" else ""
        total, pace = member.total_steps, self.pace(member)
        parts = [f"step {member.step}/{total}" if total else f"step {member.step}"]
        if member.state == "RUNNING" and member.step == total:
            parts.append("finishing")
        elif member.state == "RUNNING" and pace:
            parts.append(f"{pace:.3g} step/s")
            parts += [f"{_duration((total - member.step) / pace)} left"] if total else []
        return "  ".join([*parts, *self._numbers(member.metrics or {})])

    def of_all(self, now: JobStatus, at_s: float) -> str:
        """How many members have ended and how, what is left, and the best so far."""
        counts = {state: now.counts[state] for state in ("RUNNING", "FAILED", "PRUNED") if now.counts[state]}
        ended, total = _ended(now), len(now.members)
        parts = [f"{ended}/{total} done", *(f"{n} {state.lower()}" for state, n in counts.items())]
        if 0 < ended < total and self.over[1] > at_s:
            parts.append(f"about {_duration(self.over[1] - at_s)} left")
        if self.best:
            parts.append(f"best {self.metric} {_number(self.best[0])} (member {self.best[1]})")
        return "  ".join(parts)

    def _numbers(self, metrics: Mapping[str, Any]) -> Iterator[str]:
        known = [name for name in (self.metric, *METRICS) if name in metrics]
        for name in list(dict.fromkeys(known or metrics))[:SHOWN_METRICS]:
            yield f"{name} {_number(metrics[name])}"


class _Bars:
    """A bar for each member that runs; where there are several, one above them for all."""

    def __init__(self, bars: Progress, watched: Watched) -> None:
        self.bars, self.watched = bars, watched
        self.tasks: dict[int, TaskID] = {}
        self.whole: TaskID | None = None

    def look(self, now: JobStatus) -> None:
        self.watched.see(now, time.time())
        several = len(now.members) > 1
        if several:
            if self.whole is None:
                self.whole = self.bars.add_task("all", total=len(now.members), said="")
            self.bars.update(self.whole, completed=_ended(now), said=self.watched.of_all(now, time.time()))
        room = self.bars.console.height - BESIDE_LINES
        for member in now.members:
            shown = not several or (member.state not in (*TERMINAL, "QUEUED") and room > 0)
            room -= shown
            if shown or member.index in self.tasks:
                self._member(member, shown)

    def _member(self, member: MemberStatus, shown: bool) -> None:
        if member.index not in self.tasks:
            self.tasks[member.index] = self.bars.add_task(f"member {member.index}", total=None, said="")
        total, done = member.total_steps, member.step or 0
        if total and member.state not in TERMINAL:
            done = min(done, total - 1)  # the clock stops at the last step; evaluation and export go on
        said = self.watched.of_member(member)
        self.bars.update(self.tasks[member.index], total=total, completed=done, said=said, visible=shown)


class _Plain:
    """One line when a member's state changes, and its step every few seconds."""

    def __init__(self, watched: Watched) -> None:
        self.watched = watched
        self._states: dict[int, str] = {}
        self._last = time.monotonic()

    def look(self, now: JobStatus) -> None:
        self.watched.see(now, time.time())
        due = time.monotonic() - self._last > PLAIN_EVERY_S
        before = sum(state in TERMINAL for state in self._states.values())
        for member in now.members:
            changed = self._states.get(member.index) != member.state
            if changed or (due and member.state == "RUNNING" and member.step is not None):
                self._states[member.index] = member.state
                _say(f"member {member.index}  {member.state}  {self.watched.of_member(member)}")
        if len(now.members) > 1 and _ended(now) > before:
            _say(self.watched.of_all(now, time.time()))
        if due:
            self._last = time.monotonic()


def _say(line: str) -> None:
    print(line.rstrip(), file=sys.stderr, flush=True)


def _ended(now: JobStatus) -> int:
    return sum(member.state in TERMINAL for member in now.members)


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _duration(seconds: float) -> str:
    return str(datetime.timedelta(seconds=math.ceil(seconds)))
