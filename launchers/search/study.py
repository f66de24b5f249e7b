"""A search as its run folder has it: which trials there are, and what each of them said and cost.

Everything is read from what members left, so nothing needs a database or a process that stays. Ended trials
are kept once more in study/known.jsonl, which is only a cache. Who asks for a point is ask.py's.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from conf import schema
from conf.document import from_document
from conf.sweep_schema import Goal, Search
from launchers.errors import Problem, SpecError
from launchers.outcome import FINAL
from launchers.run_folder.record import (
    Attempt,
    Run,
    clock_of,
    ended_members,
    make_private,
    read_json,
    read_lines,
    started_members,
)
from launchers.search.known import Known
from sweeps.trials import Report, State, Trial, goals_of

LEASE_S = 120.0
"""A supervisor that has given no sign of life for so long may be gone; Slurm then has the last word."""
OWN_FAULT = ("user_error", "out_of_memory", "hang", "crash")
STATES: Mapping[str, State] = {"SUCCEEDED": "SUCCEEDED", "PRUNED": "PRUNED", "CANCELLED": "CANCELLED"}


@dataclass(frozen=True)
class Study:
    """The search of a job."""

    run: Run
    equivalent: Search | None = None
    """Of a grid: the search that would have tried its points (compared.py)."""

    @cached_property
    def spec(self) -> schema.Spec:
        return from_document(schema.Spec, read_json(self.run.spec))

    @cached_property
    def search(self) -> Search:
        """With what `extend` has raised since the launch. Raises SpecError for a job that is no search."""
        search = self.equivalent or self.spec.sweep
        if not isinstance(search, Search):
            do = "name a job that was launched with sweep=... of kind: search"
            raise SpecError([Problem(f"{self.run.id} is not a search", f"job {self.run.id}", do)])
        raised = read_json(self.budget)
        if raised is None:
            return search
        limits = dataclasses.replace(search.limits, **raised["limits"])
        return dataclasses.replace(search, trials=raised["trials"], limits=limits)

    @cached_property
    def goals(self) -> tuple[Goal, ...]:
        objective = self.spec.objective
        return goals_of(self.search, Goal(metric=objective.metric, goal=objective.goal))

    @cached_property
    def metrics(self) -> frozenset[str]:
        """What is kept of reports."""
        return frozenset([*(g.metric for g in self.goals), *(c.metric for c in self.search.constraints)])

    @property
    def folder(self) -> Path:
        return make_private(self.run.path / "study")

    @property
    def over(self) -> Path:
        """Says why there are no more trials."""
        return self.folder / "over.json"

    @property
    def budget(self) -> Path:
        """What `extend` made of the search's trials and limits; absent until then."""
        return self.run.path / "study" / "budget.json"

    def clock(self) -> float:
        """The time, by the one clock that all hosts share."""
        return clock_of(self.folder)

    @cached_property
    def cards(self) -> int:
        """Accelerators of one trial."""
        return sum(pool.accelerator.count * pool.machine.nodes for pool in self.spec.pools)

    @property
    def reserve_gpu_hours(self) -> float:
        """What a trial may cost at most."""
        return self.cards * self.spec.pools[0].machine.time_limit_min / 60

    @cached_property
    def known(self) -> Known:
        """Ended trials, once more."""
        return Known(self.folder / "known.jsonl")

    def trials(self, gone: Collection[int] = ()) -> list[Trial]:
        """Every trial that has a point, in order; those in `gone` are lost unless they ended."""
        ended = ended_members(self.run)
        known = {n: trial for n, (mark, trial) in self.known.trials().items() if ended.get(n) == mark}
        asked = sorted(started_members(self.run) - known.keys())
        fresh = [trial for i in asked if (trial := self.trial(i, lost=i in gone)) is not None]
        return sorted([*known.values(), *fresh], key=lambda t: t.number)

    def remember(self, trials: Sequence[Trial]) -> None:
        """Keep which of these have ended, for the next who looks. The caller holds the lock of `ask.py`."""
        ended = ended_members(self.run)
        self.known.add((ended[t.number], t) for t in trials if t.state != "RUNNING" and t.number in ended)

    def trial(self, index: int, lost: bool = False) -> Trial | None:
        """One trial from its member's folder; None before it has a point."""
        claim = read_json(self.run.member(index).point)
        return None if claim is None else self.trial_of(index, claim, lost)

    def trial_of(self, index: int, claim: Mapping[str, Any], lost: bool = False) -> Trial:
        """The trial of a member that has this point."""
        attempts = self.run.member(index).attempts()
        outcomes = [read_json(a.outcome) or {} for a in attempts]
        last = outcomes[-1] if outcomes else {}
        reports = tuple(self._reports(attempts))
        state, error = self._state(last, reports)
        if state == "RUNNING" and lost:
            state, error = "LOST", "its supervisor is gone"
        started = [s["started"] for a in attempts if (s := read_json(a.path / "started.json"))]
        return Trial(
            number=index,
            point=claim["point"],
            state=state,
            reports=reports,
            asked=claim["asked"],
            started=min(started, default=None),
            ended=None if state == "RUNNING" else last.get("ended", claim["asked"]),
            parent=claim.get("parent"),
            follows=claim.get("follows"),
            gpu_hours=claim["reserved_gpu_hours"] if state == "RUNNING" else self._spent(outcomes, claim),
            error=error,
            attempts=max(1, len(attempts)),
        )

    def silent(self) -> set[int]:
        """Trials that run and whose supervisor has not been heard of for LEASE_S, by the file system's own clock."""
        now = self.clock()
        ended, found = ended_members(self.run), set[int]()
        for index in started_members(self.run) - ended.keys():
            attempts = self.run.member(index).attempts()
            signs = [attempts[-1].path / "alive", attempts[-1].path] if attempts else [self.run.member(index).path]
            heard = max((p.stat().st_mtime for p in signs if p.exists()), default=now)
            if now - heard > LEASE_S:
                found.add(index)
        return found

    def queued(self) -> set[int]:
        """Trials that have begun and whose next attempt waits for an allocation: put back, or their host was lost."""
        begun = started_members(self.run) - ended_members(self.run).keys()
        last = {index: self.run.member(index).attempts()[-1:] for index in begun}
        back = {i for i, ones in last.items() for a in ones if (read_json(a.outcome) or {}).get("state") == "REQUEUED"}
        return back | self.silent()

    def _state(self, outcome: Mapping[str, Any], reports: Sequence[Report]) -> tuple[State, str]:
        if outcome.get("state") not in FINAL:
            return "RUNNING", ""
        message = str(outcome.get("message", "")).partition("\n")[0]
        if outcome["state"] == "FAILED":
            if outcome["cause"] in ("infeasible", "timeout"):
                return ("INFEASIBLE" if outcome["cause"] == "infeasible" else "TIMEOUT"), message
            return ("FAILED" if outcome["cause"] in OWN_FAULT else "LOST"), message
        if outcome["state"] == "SUCCEEDED":
            said = [r.metrics[g.metric] for r in reports for g in self.goals[:1] if g.metric in r.metrics]
            if not said:
                return "FAILED", f"it never reported {self.goals[0].metric}"
            if not any(math.isfinite(v) for v in said):
                return "INFEASIBLE", f"{self.goals[0].metric} was never a number"
        return STATES[outcome["state"]], message

    def _reports(self, attempts: Sequence[Attempt]) -> Iterator[Report]:
        """What all attempts said, a repeated step as it was said last, in the order of steps."""
        by_step: dict[int, Report] = {}
        for attempt in attempts:
            for report in self.reports_of(attempt):
                before = by_step.get(report.step)
                metrics = {**before.metrics, **report.metrics} if before else report.metrics
                by_step[report.step] = Report(step=report.step, metrics=metrics, t=report.t)
        yield from (by_step[step] for step in sorted(by_step))

    def reports_of(self, attempt: Attempt) -> Iterator[Report]:
        """What one attempt said of the metrics that count: our trainer in its spool, others in reports.jsonl."""
        for row in read_lines(attempt.metrics):
            yield from self._report(row, row.get("t", 0) / 1000)
        for row in read_lines(attempt.path / "reports.jsonl"):
            yield from self._report(row, row.get("t"))

    def _report(self, row: Mapping[str, Any], t: float | None) -> Iterator[Report]:
        said = row.get("metrics") or {}
        chosen = {name: float(said[name]) for name in self.metrics if name in said}
        if chosen:
            yield Report(step=int(row.get("step") or 0), metrics=chosen, t=t)

    def _spent(self, outcomes: Sequence[Mapping[str, Any]], claim: Mapping[str, Any]) -> float:
        """Members of a grid may have other machines, and their claims say how many cards."""
        seconds = sum(max(0.0, o["ended"] - o["started"]) for o in outcomes if "started" in o and "ended" in o)
        return float(seconds) * int(claim.get("cards", self.cards)) / 3600
