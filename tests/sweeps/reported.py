"""Searches as their records might stand, for tests of the page: made up, and the same for the same arguments."""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from conf.sweep_schema import Goal, Parameter, Pruning, Search
from sweeps.facts import Attempt, Facts
from sweeps.trials import Report, State, Trial

BEGAN = 1_790_000_000.0
ACCURACY = Goal(metric="val/accuracy", goal="maximize")
LOSS = Goal(metric="val/loss", goal="minimize")
SECONDS = Goal(metric="seconds", goal="minimize")
PARAMETERS: Mapping[str, Parameter] = {
    "optimizer": Parameter(type="categorical", values=("adamw", "sgd")),
    "optimizer.lr": Parameter(type="double", min=1e-5, max=1e-1, scale="log"),
    "optimizer.momentum": Parameter(
        type="double", min=0.8, max=0.999, scale="reverse_log", when={"optimizer": ("sgd",)}
    ),
    "model.width": Parameter(type="integer", min=16, max=512, scale="log"),
    "batch": Parameter(type="discrete", values=(16, 32, 64, 128)),
}


def search_of(parameters: Mapping[str, Parameter] = PARAMETERS, trials: int = 60, **more: Any) -> Search:
    return Search(kind="search", algorithm="tpe", parameters=parameters, trials=trials, **more)


def facts_of(**more: Any) -> Facts:
    return Facts(**{"job": "digits-7f3a", "title": "digits", "now": BEGAN + 9000, **more})


def trials_of(
    search: Search, goals: tuple[Goal, ...] = (ACCURACY,), count: int = 60, slots: int = 8, steps: int = 20
) -> tuple[Trial, ...]:
    """Trials on so many slots: most succeed, some are pruned, fail, are lost; the last ones still run."""
    rng = random.Random(count)
    free = [(BEGAN + rng.random(), slot) for slot in range(slots)]
    made = []
    for number in range(count):
        started, slot = heapq.heappop(free)
        trial = _trial(search, goals, number, rng, (started, steps))
        heapq.heappush(free, ((trial.ended or started) + 4, slot))
        made.append(trial)
    last = max(t.ended or 0 for t in made)
    return tuple(replace(t, state="RUNNING", ended=None) if t.ended == last else t for t in made)


def _trial(search: Search, goals: tuple[Goal, ...], number: int, rng: random.Random, ran: tuple[float, int]) -> Trial:
    started, steps = ran
    point = _point(search.parameters, rng)
    state: State = rng.choices(
        ("SUCCEEDED", "PRUNED", "FAILED", "LOST", "TIMEOUT", "INFEASIBLE"), (70, 18, 4, 3, 2, 3)
    )[0]
    quality = 0.5 + 0.4 * math.exp(-((math.log10(point.get("optimizer.lr", 1e-3)) + 2.7) ** 2))
    quality -= 0.05 * (point.get("optimizer") == "sgd") - 0.02 * rng.random()
    done = {"SUCCEEDED": steps, "PRUNED": max(2, steps // 4), "FAILED": 1}.get(state, steps // 2)
    duration = done * 30 * rng.lognormvariate(0, 0.5)
    reports = tuple(
        Report(step=step, metrics={g.metric: _metric(g, quality, step / steps, rng) for g in goals})
        for step in range(1, done + 1)
    )
    return Trial(
        number=number,
        point=point,
        state=state,
        reports=reports,
        asked=started - 1,
        started=started,
        ended=started + duration,
        gpu_hours=duration / 3600,
        error="RuntimeError: shape mismatch in the last layer" if state == "FAILED" else "",
        attempts=2 if state == "LOST" else 1,
    )


def _point(parameters: Mapping[str, Parameter], rng: random.Random) -> dict[str, Any]:
    point: dict[str, Any] = {}
    for name, p in parameters.items():
        if any(point.get(parent) not in values for parent, values in p.when.items()):
            continue
        if p.values:
            point[name] = rng.choice(p.values)
        elif p.scale == "log" and p.min and p.max:
            point[name] = math.exp(rng.uniform(math.log(p.min), math.log(p.max)))
        else:
            point[name] = rng.uniform(p.min or 0, p.max or 1)
        if p.type == "integer":
            point[name] = round(point[name])
    return point


def _metric(goal: Goal, quality: float, part: float, rng: random.Random) -> float:
    reached = quality * (1 - math.exp(-4 * part)) + 0.01 * rng.random()
    if goal.metric == "seconds":
        return 20 + 60 * quality * quality + 4 * rng.random()
    return reached if goal.goal == "maximize" else 2.3 * (1 - reached)


def lost_once(trial: Trial) -> tuple[Attempt, ...]:
    """Its time as two attempts, the first taken away by the site."""
    begin, end = trial.started or BEGAN, trial.ended or BEGAN
    half = (begin + end) / 2
    return (
        Attempt(started=begin, ended=half - 5, state="LOST"),
        Attempt(started=half + 5, ended=end, state=trial.state),
    )


SAMPLE = search_of(pruning=Pruning(rule="median"))
