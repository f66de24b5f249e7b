"""What a job came to, from its run folder alone: how each member ended, which is the best, and what result.json says.

A search chooses its best as sweeps/best.py does (goals, constraints, measurement), a grid by the objective at
the end. The tracking store, the registry and the report are finish.py's.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from conf import schema
from conf.sweep_schema import Goal
from launchers.delivery.tracking import spec_of
from launchers.outcome import FINAL
from launchers.plan import plans_from
from launchers.run_folder.record import Attempt, Member, Run, read_json, read_lines
from launchers.search.compared import Compared, compared, is_search
from launchers.search.standing import standing
from sweeps import comparable, population, stopping
from sweeps.trials import ENDED, Trial


@dataclass(frozen=True)
class End:
    """How a member ended."""

    member: Member
    attempt: Attempt | None
    """The last one."""
    state: str
    ended_s: float
    """By the supervisor's clock; without its word, when the last file of the attempt was written."""
    metrics: Mapping[str, Any]
    steps: int
    trial: Trial | None = None
    """Of a search: what it has of the member."""
    values: Mapping[str, float] | None = None
    """Of a search: each goal's, as it measures them."""

    @property
    def mark(self) -> str:
        """Changes when the member is tried again."""
        return f"{self.attempt.path.name if self.attempt else 'never started'} {self.state}"


@dataclass(frozen=True)
class Conclusion:
    """A job that is over: members that left no final outcome are taken for failed, or lost to the search."""

    run: Run

    @cached_property
    def spec(self) -> schema.Spec:
        """Of the first member."""
        return spec_of(self.run)

    @cached_property
    def of(self) -> Compared | None:
        """The search; None for any other job."""
        return compared(self.run, {m.index for m in self.run.members()}) if is_search(self.run) else None

    @cached_property
    def ends(self) -> list[End]:
        """Every member's."""
        trials = {trial.number: trial for trial in self.of.trials} if self.of else {}
        return [self._end(member, trials.get(member.index)) for member in self.run.members()]

    @cached_property
    def best(self) -> End | None:
        """The member that won, if one did."""
        if self.of is None:
            return _best(self.ends, self.spec.objective)
        winner = self.of.best
        return next((end for end in self.ends if winner and end.member.index == winner.number), None)

    @cached_property
    def standing(self) -> dict[str, Any] | None:
        """How the search stands at its end; None for any other job."""
        if self.of is None:
            return None
        said = standing(self.of, plans_from(read_json(self.run.plan))[0], time.time())
        why = self.of.over or stopping.why_over(self.of.search, self.of.goals, self.of.trials, time.time())
        return {**said, "over": why or "nothing of it runs any more"}

    @property
    def lineage(self) -> dict[str, str]:
        """Of a search: what a model that it chose comes from, as tags."""
        if self.of is None or self.best is None:
            return {}
        values = {f"fairlead.objective.{metric}": str(v) for metric, v in (self.best.values or {}).items()}
        trial = self.best.trial
        earlier = population.lineage(trial, self.of.trials)[:-1] if trial else []
        parents = {"fairlead.parents": " ".join(str(each.number) for each in reversed(earlier))} if earlier else {}
        return {**self.study_tags, "fairlead.trial": str(self.best.member.index), **parents, **values}

    @property
    def study_tags(self) -> dict[str, str]:
        """Of a search: its name, and what makes its trials comparable with those of another."""
        if self.of is None:
            return {}
        own = Goal(metric=self.spec.objective.metric, goal=self.spec.objective.goal)
        digest = comparable.digest(self.of.search, own)
        return {"fairlead.study": self.of.search.study or self.spec.name, "fairlead.space_digest": digest}

    def result(self) -> dict[str, Any]:
        """For result.json, without the tracking store. A model that was registered before is not forgotten."""
        index = self.best.member.index if self.best else None
        before = read_json(self.run.result) or {}
        return {
            "best_member": index,
            "metrics": dict(self.best.metrics) if self.best else {},
            "objective": self._objective(),
            "members": dict(Counter(end.state for end in self.ends)),
            "mlflow": None,
            "model": before.get("model") if before.get("best_member") == index else None,
            **({"search": self.standing} if self.standing else {}),
        }

    def _objective(self) -> dict[str, Any]:
        """The first goal and its best value."""
        own = self.spec.objective
        if self.of is None:
            value = _value(self.best, own) if self.best else None
            return {"metric": own.metric, "goal": own.goal, "value": value}
        first = self.of.goals[0]
        value = (self.best.values or {}).get(first.metric) if self.best else None
        return {"metric": first.metric, "goal": first.goal, "value": value}

    def _end(self, member: Member, trial: Trial | None) -> End:
        attempts = member.attempts()
        attempt = attempts[-1] if attempts else None
        outcome = (read_json(attempt.outcome) if attempt else None) or {}
        measured = _measured(attempt) if attempt else {}
        state = outcome.get("state")
        if state not in FINAL:
            state = self._without_a_word(member, attempt)
        return End(
            member=member,
            attempt=attempt,
            state=state,
            ended_s=float(outcome.get("ended") or _last_sign_s(self.run, attempt)),
            metrics=measured.get("metrics") or {},
            steps=int(measured.get("steps") or 0),
            trial=trial,
            values=self.of.values(trial) if self.of and trial else None,
        )

    def _without_a_word(self, member: Member, attempt: Attempt | None) -> str:
        if self.run.cancelled.exists():
            return "CANCELLED"
        return "SKIPPED" if self.of and attempt is None and not member.point.exists() else "FAILED"


def counts_of(of: Compared) -> dict[str, int]:
    """How many trials ended in each state, also in those where none did."""
    found = Counter(trial.state for trial in of.trials)
    return {state: found[state] for state in ENDED}


def _measured(attempt: Attempt) -> Mapping[str, Any]:
    """What our trainer says at its end; of any other program what it reported last."""
    said: Mapping[str, Any] | None = read_json(attempt.path / "result.json")
    if said is not None:
        return said
    rows = read_lines(attempt.path / "reports.jsonl")
    metrics = {name: value for row in rows for name, value in row["metrics"].items()}
    return {"metrics": metrics, "steps": max((row.get("step") or 0 for row in rows), default=0)}


def _last_sign_s(run: Run, attempt: Attempt | None) -> float:
    seen = list(attempt.path.iterdir()) if attempt else [run.cancelled]
    return max((p.stat().st_mtime for p in seen if p.exists()), default=run.spec.stat().st_mtime)


def _best(ends: list[End], objective: schema.Objective) -> End | None:
    """The member that succeeded with the best objective; the first among equals.

    A job of one member needs nobody to be better than, unless its objective is not a number.
    """
    succeeded = [end for end in ends if end.state == "SUCCEEDED"]
    if len(ends) == 1 and succeeded and objective.metric not in succeeded[0].metrics:
        return succeeded[0]
    sign = 1 if objective.goal == "maximize" else -1
    ranked = [(sign * value, end) for end in succeeded if (value := _value(end, objective)) is not None]
    return max(ranked, key=lambda pair: pair[0])[1] if ranked else None


def _value(end: End, objective: schema.Objective) -> float | None:
    try:
        value = float(end.metrics[objective.metric])
    except (KeyError, TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None
