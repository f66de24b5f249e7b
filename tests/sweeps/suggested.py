"""Spaces of every kind, and trials in a row whose points are suggested."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from conf.sweep_schema import Goal, Parameter, Search
from sweeps.sampler import suggest
from sweeps.trials import Report, State, Trial

LOSS = Goal(metric="loss", goal="minimize")
ALGORITHMS = ("tpe", "gp", "cma_es", "nsga2", "quasi_random", "random")
CATS = Parameter(type="categorical", values=("sgd", "adam", "lion"))
EVERY_KIND = {
    "linear": Parameter(type="double", min=-1, max=1),
    "log": Parameter(type="double", min=1e-5, max=1e-1, scale="log"),
    "reverse": Parameter(type="double", min=0.001, max=0.999, scale="reverse_log"),
    "stepped": Parameter(type="double", min=0, max=0.5, step=0.1),
    "whole": Parameter(type="integer", min=1, max=12),
    "whole_log": Parameter(type="integer", min=8, max=1024, scale="log"),
    "whole_reverse": Parameter(type="integer", min=1, max=100, scale="reverse_log"),
    "whole_stepped": Parameter(type="integer", min=0, max=30, step=10),
    "listed": Parameter(type="discrete", values=(16, 32, 64.5, 128)),
    "word": CATS,
    "mixed": Parameter(type="categorical", values=(1, True, "one", None, 1.5)),
    "constant": Parameter(type="double", min=0.3, max=0.3),
}
NESTED = {
    "optimizer": CATS,
    "beta": Parameter(type="double", min=0.5, max=0.99, when={"optimizer": ("adam", "lion")}),
    "amsgrad": Parameter(type="categorical", values=(True, False), when={"optimizer": ("adam",)}),
    "eps": Parameter(type="double", min=1e-9, max=1e-3, scale="log", when={"amsgrad": (True,)}),
    "lr": Parameter(type="double", min=1e-4, max=1, scale="log"),
}
PLANE = {"x": Parameter(type="double", min=-5, max=10), "y": Parameter(type="double", min=0, max=15)}


def search_of(algorithm: str, parameters: Mapping[str, Parameter], **more: Any) -> Search:
    return Search(kind="search", algorithm=algorithm, parameters=parameters, trials=1000, **more)  # type: ignore[arg-type]


def trial(number: int, point: Mapping[str, Any], state: State = "SUCCEEDED", *values: float, **more: Any) -> Trial:
    reports = tuple(Report(step=10 * i, metrics={"loss": v}) for i, v in enumerate(values))
    times = {"asked": number, "ended": None if state == "RUNNING" else number + 0.5} | more
    return Trial(number=number, point=point, state=state, reports=reports, **times)


def run(
    search: Search, measure: Callable[[Mapping[str, Any]], Mapping[str, float] | None], many: int, running: int = 0
) -> list[Trial]:
    """Trials in a row, of which `running` are always still on their way; None is an infeasible point."""
    trials: dict[int, Trial] = {}
    goals = search.objectives or (LOSS,)
    for number in range(many):
        point = suggest(search, goals, list(trials.values()), number)
        trials[number] = Trial(number=number, point=point, state="RUNNING", asked=number)
        if (done := number - running) >= 0:
            metrics = measure(trials[done].point)
            reports = (Report(step=1, metrics=metrics),) if metrics is not None else ()
            state: State = "INFEASIBLE" if metrics is None else "SUCCEEDED"
            own = {"number": done, "point": trials[done].point, "asked": done, "ended": number + 0.5}
            trials[done] = Trial(state=state, reports=reports, **own)
    return list(trials.values())


def bowl(point: Mapping[str, Any]) -> dict[str, float]:
    """Something to learn on any space: its parameters' shares of their axes, and their kinds, count."""
    numbers = [v for v in point.values() if isinstance(v, (int, float)) and not isinstance(v, bool)]
    return {"loss": sum(math.tanh(v / 10) ** 2 for v in numbers) + 0.1 * len(point)}
