"""How far is the run? What a checkpoint's state.json says besides the weights, and time as the loop counts it."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from conf.schema import Objective
from trainer.checkpoints.costs import Costs
from trainer.durable import write_json
from trainer.insight.spool import plain
from trainer.stopping import Stale

STATE = "state.json"


@dataclass
class Progress:
    """The loop's own state. Epoch and samples seen follow from the step (order.py)."""

    step: int = 0
    """Optimizer steps made."""
    evaluated: int = 0
    """The step of the last whole evaluation; behind `step` when a notice broke one off."""
    train_s: float = 0.0
    """Seconds of training over all attempts, without evaluation and checkpoints."""
    metrics: dict[str, float] = field(default_factory=dict)
    """The last value of each metric."""
    best: dict[str, Any] | None = None
    """The best value of the objective's metric, and its step."""
    costs: Costs = field(default_factory=Costs)
    """What saving has cost."""
    stale: Stale = field(default_factory=Stale)
    """Since when the objective has not become better, where the run ends for that."""
    data: str = ""
    """Of which data it is: the order of samples is a function of how many there are (datasets.must_be_the_same)."""
    window: dict[str, Any] | None = None
    """What was trained since the last report (pace.kept); None where nothing was."""

    def note(self, metrics: Mapping[str, float], objective: Objective) -> None:
        """Take up new values; remember the objective's best. NaN is never the best."""
        self.metrics.update(metrics)
        value = metrics.get(objective.metric)
        if value is None or math.isnan(value):
            return
        sign = 1 if objective.goal == "maximize" else -1
        if self.best is None or sign * value > sign * self.best["value"]:
            self.best = {"metric": objective.metric, "value": value, "step": self.step}

    def document(self, **beside: Any) -> dict[str, Any]:
        """All of it, as JSON can write it. What stands `beside` is for people."""
        return {**asdict(self), "metrics": self.plain_metrics(), **beside}

    def plain_metrics(self) -> dict[str, float | str]:
        """The last value of each metric, as JSON can write it."""
        return {name: plain(value) for name, value in self.metrics.items()}


def write(folder: Path, document: Mapping[str, Any]) -> Path:
    """Write what `Progress.document` gave."""
    write_json(folder / STATE, document)
    return folder / STATE


def read(folder: Path) -> Progress:
    """What `write` wrote."""
    document = json.loads((folder / STATE).read_text())
    known = {name: document[name] for name in Progress.__dataclass_fields__ if name in document}
    known["metrics"] = {name: float(value) for name, value in known["metrics"].items()}
    parts = {"costs": Costs(**known.get("costs", {})), "stale": Stale(**known.get("stale", {}))}
    return Progress(**{**known, **parts})


class Clock:
    """A stopwatch that stands still where the loop does something else than train."""

    def __init__(self, before_s: float = 0.0) -> None:
        self.before_s = before_s
        self.begun = time.perf_counter()
        self.stood_s = 0.0

    def seconds(self) -> float:
        """Seconds of training so far, those of earlier attempts included."""
        return self.before_s + time.perf_counter() - self.begun - self.stood_s

    @contextmanager
    def stopped(self) -> Iterator[None]:
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.stood_s += time.perf_counter() - begun
