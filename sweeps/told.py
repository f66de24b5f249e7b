"""What a sampler learns from the record: which trials, how good, and in which order.

RUNNING ones without a value, so that proposals keep apart. SUCCEEDED and TIMEOUT by their value, PRUNED by how
far it came. INFEASIBLE, diverged and without a constraint's metric: a point to stay away from. FAILED, LOST and
CANCELLED say nothing of the point and are left out.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from conf.sweep_schema import Goal, Search
from sweeps.trials import Trial, values_of, violations_of


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """One trial for a sampler."""

    number: int
    """Below zero for a trial of an earlier search."""
    state: Literal["running", "complete", "pruned"]
    point: Mapping[str, Any]
    values: tuple[float, ...] = ()
    """For each goal; none while it runs. The worst seen for a point that has none and is to be avoided."""
    reports: int = 0
    broken: tuple[float, ...] = ()
    """By how much each constraint is broken, last whether the point is infeasible; above 0 is broken. None of
    these when no trial of the search has any."""
    asked: float
    ended: float | None = None

    @property
    def fault(self) -> float:
        """All that is broken, 0 for a feasible one."""
        return sum(max(0.0, b) for b in self.broken)


def lessons(search: Search, goals: tuple[Goal, ...], trials: Sequence[Trial], extra: Sequence[Trial]) -> list[Lesson]:
    """What is learnt, in the order of numbers; `extra` are trials of earlier searches, which come first."""
    before = sorted(extra, key=lambda t: (t.asked, t.number, str(t.point)))
    numbered = [replace(t, number=i - len(before)) for i, t in enumerate(before) if t.state != "RUNNING"]
    found = [
        (trial, lesson)
        for trial in [*numbered, *sorted(trials, key=lambda t: t.number)]
        if (lesson := _lesson(search, goals, trial)) is not None
    ]
    return _with_faults(search, goals, found)


def most_useful(goals: tuple[Goal, ...], told: Sequence[Lesson], most: int) -> list[Lesson]:
    """Running ones, the best and the newest, half each: what a sampler gets whose cost grows with the record."""
    ended = [lesson for lesson in told if lesson.state != "running"]
    if len(ended) <= most:
        return list(told)
    ranks = [0.0] * len(ended)
    for place, goal in enumerate(goals):
        sign = -1 if goal.goal == "maximize" else 1
        by_goal = sorted(range(len(ended)), key=lambda i: (ended[i].fault, sign * ended[i].values[place]))
        for rank, i in enumerate(by_goal, 1):
            ranks[i] += math.log(rank)  # the product of ranks keeps both ends and the middle of a Pareto set
    best = {ended[i].number for i in sorted(range(len(ended)), key=lambda i: ranks[i])[: most // 2]}
    rest = [lesson.number for lesson in ended if lesson.number not in best]
    kept = best.union(rest[-(most - len(best)) :])
    return [lesson for lesson in told if lesson.state == "running" or lesson.number in kept]


def generations(told: Iterable[Lesson], size: int) -> tuple[dict[int, int], list[list[Lesson]]]:
    """Each trial's generation, and of each generation that is complete the first `size` that ended.

    A trial belongs to the generation that was open when it was asked for; one that ends after its generation
    is complete counts no more. Earlier searches are the first generation's. The next trial belongs to
    generation `len(complete)`.
    """
    number_of: dict[int, int] = {}
    complete: list[list[Lesson]] = []
    open_now: list[Lesson] = []
    ahead: list[tuple[float, int, Lesson]] = []

    def end_until(now: float) -> None:
        while ahead and ahead[0][0] <= now:
            lesson = heapq.heappop(ahead)[2]
            if number_of[lesson.number] == len(complete):
                open_now.append(lesson)
            if len(open_now) == size:
                complete.append(open_now[:])
                open_now.clear()

    for lesson in sorted(told, key=lambda x: (x.number >= 0, x.asked, x.number)):
        if lesson.number >= 0:
            end_until(lesson.asked)
        number_of[lesson.number] = len(complete) if lesson.number >= 0 else 0
        if lesson.state != "running":
            ended = -math.inf if lesson.number < 0 or lesson.ended is None else lesson.ended
            heapq.heappush(ahead, (ended, lesson.number, lesson))
    end_until(math.inf)
    return number_of, complete


def is_bad(trial: Trial, goals: tuple[Goal, ...]) -> bool:
    """Whether the point itself was wrong: the program said so, or the trial was stopped because it diverged."""
    said = [r.metrics[goals[0].metric] for r in trial.reports if goals[0].metric in r.metrics]
    return trial.state == "INFEASIBLE" or (trial.state == "PRUNED" and bool(said) and not math.isfinite(said[-1]))


def _lesson(search: Search, goals: tuple[Goal, ...], trial: Trial) -> Lesson | None:
    """State, and values where the trial has them. None for one that teaches nothing."""
    running = Lesson(number=trial.number, state="running", point=trial.point, asked=trial.asked, ended=trial.ended)
    if trial.state == "RUNNING":
        return running
    if is_bad(trial, goals):
        return replace(running, state="complete")
    values = values_of(trial, goals, search.measurement)
    if trial.state not in ("SUCCEEDED", "TIMEOUT", "PRUNED") or values is None:
        return None
    said = sum(goals[0].metric in report.metrics for report in trial.reports)
    return replace(running, state="pruned" if trial.state == "PRUNED" else "complete", values=values, reports=said)


def _with_faults(search: Search, goals: tuple[Goal, ...], found: Sequence[tuple[Trial, Lesson]]) -> list[Lesson]:
    """The same with constraints, and with the worst value seen for points that have none of their own.

    Samplers want the same constraints of every trial. The last says whether the point is infeasible, which is
    worse than all other faults together.
    """
    ended = [(trial, lesson) for trial, lesson in found if lesson.state != "running"]
    if not search.constraints and all(lesson.values for _, lesson in ended):
        return [lesson for _, lesson in found]
    known = {trial.number: violations_of(trial, search.constraints) for trial, _ in ended}
    most = tuple(max(0.0, *v) for v in zip(*(v for v in known.values() if v), strict=True))
    most = most or (0.0,) * len(search.constraints)
    height = 1.0 + sum(most)
    worst = _worst(goals, [lesson.values for _, lesson in ended if lesson.values])
    faulty: dict[int, Lesson] = {}
    for trial, lesson in ended:
        kept = known[trial.number]
        # A trial stopped early may not have come to the metric; one that ended without it cannot be trusted.
        wrong = not lesson.values or (kept is None and lesson.state == "complete")
        limits = kept if kept is not None else most if wrong else (0.0,) * len(search.constraints)
        broken = (*(max(b, -height) for b in limits), height if wrong else -height)
        faulty[trial.number] = replace(lesson, values=lesson.values or worst, broken=broken)
    return [faulty.get(lesson.number, lesson) for _, lesson in found]


def _worst(goals: tuple[Goal, ...], values: Sequence[tuple[float, ...]]) -> tuple[float, ...]:
    columns = zip(*values, strict=True) if values else ((0.0,) for _ in goals)
    return tuple(
        min(column) if goal.goal == "maximize" else max(column) for goal, column in zip(goals, columns, strict=True)
    )
