"""What a run's files say of its steps: which were made, kept, lost, and when the next new one came."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Try:
    """An attempt: the steps it reported, with their times, and its ledger."""

    steps: Sequence[tuple[int, float]]
    events: Sequence[dict[str, Any]]
    outcome: dict[str, Any]
    """Empty where there is none."""
    started: float = 0.0

    @property
    def resumed(self) -> int | None:
        """Step of the checkpoint from which it went on; 0 from none; None if it did not come so far."""
        return next((e["step"] for e in self.events if e["event"] == "restore_done"), None)

    def marks(self, event: str, until: float = float("inf")) -> list[dict[str, Any]]:
        return [e for e in self.events if e["event"] == event and e["t"] <= until]


def read(member: Path) -> list[Try]:
    """A member's attempts, oldest first."""
    folders = sorted(member.glob("attempt-*"), key=lambda p: int(p.name.rpartition("-")[2]))
    return [_try(folder) for folder in folders]


def _try(folder: Path) -> Try:
    rows = [row for row in lines(folder / "metrics.jsonl") if "train/loss" in row.get("metrics", {})]
    outcome, started = folder / "outcome.json", folder / "started.json"
    return Try(
        [(row["step"], row["t"] / 1000) for row in rows],
        lines(folder / "ledger.jsonl"),
        json.loads(outcome.read_text()) if outcome.exists() else {},
        json.loads(started.read_text())["started"] if started.exists() else 0.0,
    )


def lines(path: Path) -> list[dict[str, Any]]:
    """Whole lines of a file of JSON lines."""
    if not path.exists():
        return []
    whole, newline, _ = path.read_text().rpartition("\n")
    return [json.loads(line) for line in (whole + newline).splitlines()]


def kept(tries: Sequence[Try]) -> list[int]:
    """The steps that led to the final weights, in order of time: those made again later are dropped."""
    found = []
    for number, one in enumerate(tries):
        resumed = [later.resumed for later in tries[number + 1 :] if later.resumed is not None]
        found += [step for step, _ in one.steps if not resumed or step <= min(resumed)]
    return found


def reached(tries: Sequence[Try], fault: float) -> int:
    """The last step that was reported before the fault."""
    return max((step for one in tries for step, t in one.steps if t <= fault), default=0)


def struck(tries: Sequence[Try], fault: float) -> Try:
    """The attempt that ran when the fault came."""
    return [one for one in tries if one.events and one.events[0]["t"] <= fault][-1]


def resumed_after(tries: Sequence[Try], fault: float) -> int | None:
    """Where the run went on after the fault; None if it was not interrupted."""
    return next((t.resumed for t in tries if t.resumed is not None and t.events[0]["t"] > fault), None)


def stopped_at(tries: Sequence[Try], fault: float) -> int:
    """The last step of the attempt that was struck: one that was told makes the step to its end."""
    return max((step for step, _ in struck(tries, fault).steps), default=struck(tries, fault).resumed or 0)


def next_useful_s(tries: Sequence[Try], fault: float) -> float | None:
    """Seconds from the fault to the first new step: of an attempt after the one that was struck, where it ended."""
    one = struck(tries, fault)
    later = [t for t in tries if t.events and t.events[0]["t"] > fault] or [one]
    last = stopped_at(tries, fault) if later != [one] else reached(tries, fault)
    found = [t for other in later for step, t in other.steps if step > last and t > fault]
    return min(found) - fault if found else None


def durable(tries: Sequence[Try], fault: float) -> list[int]:
    """Steps of the checkpoints that were on disk before the fault, oldest first; 0 is the beginning."""
    return [0, *(e["step"] for e in struck(tries, fault).marks("checkpoint_durable", fault))]


def saving(tries: Sequence[Try], fault: float) -> bool:
    """Whether a checkpoint was being written when the fault came."""
    one = struck(tries, fault)
    return len(one.marks("checkpoint_begin", fault)) > len(one.marks("checkpoint_durable", fault))


@dataclass(frozen=True)
class Known:
    """What the prediction takes from the first attempt and the last: seconds."""

    step_s: float
    stall_s: float
    """Of one checkpoint."""
    evaluation_s: float
    """One of them."""
    start_s: float
    """From the start of an attempt to the end of its first step, less a usual one."""
    end_s: float
    """From the last step to the end."""


def known(tries: Sequence[Try]) -> Known:
    """What one undisturbed piece of each costs, as measured before the fault and at the end."""
    first, last = next(one for one in tries if one.resumed is not None), tries[-1]
    times = [t for _, t in first.steps]
    gaps = [later - t for t, later in itertools.pairwise(times)] or [0.0]
    begun = [first.marks("restore_done")[0]["t"], *(e["t"] - median(gaps) for e in first.marks("first_step"))]
    done = last.marks("training_done")
    return Known(
        step_s=median(gaps),
        stall_s=_between(last, "checkpoint_begin", "checkpoint_end"),
        evaluation_s=_between(last, "evaluation_begin", "evaluation_end"),
        start_s=max(begun) - first.started,
        end_s=last.outcome["ended"] - done[0]["t"] if done else 0.0,
    )


def held_s(tries: Sequence[Try]) -> float:
    """How much longer than the others the one step took that waited for the fault, where it was made to its end."""
    gaps = [later - t for one in tries for (_, t), (_, later) in itertools.pairwise(one.steps)] or [0.0]
    return max(gaps) - median(gaps)


def predicted(one: Known, counts: tuple[int, int, int], restarts: int, again: float, held_s: float = 0.0) -> float:
    """The share of time that goes into steps which are kept: 1 - stall/tau - (tau/2 + restart)/MTBF, written for a
    run of `counts` steps, checkpoints and evaluations, in which one fault costs `restarts` more starts and `again`
    steps that are made twice, and a step took `held_s` more than the others.
    """
    steps, checkpoints, evaluations = counts
    useful = steps * one.step_s + held_s
    beside = checkpoints * one.stall_s + evaluations * one.evaluation_s + one.end_s
    return useful / (useful + beside + (1 + restarts) * one.start_s + again * one.step_s)


def _between(one: Try, begin: str, end: str) -> float:
    begun = {e["step"]: e["t"] for e in one.marks(begin)}
    return median([e["t"] - begun[e["step"]] for e in one.marks(end) if e["step"] in begun] or [0.0])
