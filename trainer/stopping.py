"""Does a run still get better? What it remembers of that, and whether it ends before its last step."""

from __future__ import annotations

import math
from dataclasses import dataclass

from conf.schema import Spec
from conf.train_schema import StopAfter


@dataclass
class Stale:
    """The same on all ranks, as the metrics are: an evaluation is summed over all of them."""

    reference: float | None = None
    """The value that an evaluation must beat."""
    evaluations: int = 0
    """So many in a row did not."""

    def note(self, value: float, spec: Spec) -> None:
        """Take up an evaluation's value of the objective. One that is no number is no better than any."""
        assert spec.train.stop_after is not None
        sign = 1 if spec.objective.goal == "maximize" else -1
        least = spec.train.stop_after.min_delta
        is_better = self.reference is None or sign * (value - self.reference) > least
        if is_better and not math.isnan(value):
            self.reference, self.evaluations = value, 0
        else:
            self.evaluations += 1

    def is_over(self, wanted: StopAfter) -> bool:
        """Whether it has been enough."""
        return self.evaluations >= wanted.evaluations
