"""Where did the time of a member go? The phases of all its attempts, from the ledgers its program kept.

An attempt is cut at its ledger's events, and each piece belongs to what began with the event before, so that all
of it is accounted for. What was computed after the checkpoint from which the next attempt went on was computed
twice, and counts as `recomputed`. The first step of an attempt counts as the step that it is for as long as a usual one
takes; the rest of it is what a start costs. Rank 0 keeps the ledger, by its own clock: where it stands in a step and
waits for another rank, that is the step's time. But waits for data are those of the rank that waits longest, whichever
it is, as all others wait for it. Reads only.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from launchers.run_folder.beat import beat_of
from launchers.run_folder.journal import Journal, Submission
from launchers.run_folder.ledger import events_of, went_on_from
from launchers.run_folder.record import Member, Run, last_sign, read_json, read_lines, started_members

BEGINS = {
    "copy_begin": "copy",
    "container_begin": "container",
    "program_begin": "steps",
    "process_start": "imports",
    "imports_done": "rendezvous",
    "rendezvous_done": "data",
    "staging_begin": "staging",
    "staging_end": "data",
    "data_ready": "model",
    "model_ready": "restore",
    "restore_done": "steps",
    "first_step": "steps",
    "compile_begin": "compile",
    "evaluation_begin": "evaluation",
    "evaluation_end": "steps",
    "checkpoint_begin": "checkpoint",
    "checkpoint_end": "steps",
    "checkpoint_wait": "checkpoint",
    "leaving": "shutdown",
    "test_begin": "evaluation",
    "test_end": "export",
    "signal": "shutdown",
    "training_done": "export",
    "export_done": "shutdown",
    "exit": "shutdown",
}
"""What an event of an attempt's ledger begins. Other events begin nothing. Of a program that is not ours nobody knows
more than when it began: all its time counts as `steps`."""
PHASES = (
    "queue",
    "start",
    "copy",
    "container",
    "imports",
    "rendezvous",
    "staging",
    "data",
    "model",
    "restore",
    "first_step",
    "compile",
    "steps",
    "data_wait",
    "checkpoint",
    "evaluation",
    "recomputed",
    "hang",
    "export",
    "shutdown",
)
"""In the order of a life. `start` is the supervisor's and the step's, `copy` bringing its image to the node,
`container` until its program runs, `staging` bringing data to the node, `model` building it in its engine, `first_step`
what the first one took beyond a usual step (the first data, memory, late imports), `compile` torch.compile's work,
whenever; `steps` is what the rest is for."""
REPEATED = ("steps", "data_wait", "evaluation", "checkpoint")
"""What is done once more after the checkpoint from which the next attempt goes on."""


@dataclass(frozen=True)
class Tried:
    """An attempt as its files have it. Times are seconds since the epoch."""

    since: float
    """When it could have begun: the submission, or the end of the attempt before."""
    started: float
    ended: float
    events: Sequence[Mapping[str, Any]]
    """Lines of its ledger."""
    waits: Sequence[tuple[float, float]] = ()
    """At some times, what had been lost by then to waits for data, in the steps after the first."""
    step_s: float | None = None
    """Its usual step; None where nobody knows, and then its whole first step is what a start costs."""
    hung_since: float | None = None
    """The last sign of one that was ended because it hung."""
    number: int = 0
    queued: bool = True
    """Whether it had to wait for its allocation; another attempt on the same one did not."""


@dataclass(frozen=True)
class Goodput:
    """Seconds of each phase, over all attempts."""

    seconds: Mapping[str, float]

    @property
    def total_s(self) -> float:
        return sum(self.seconds.values())

    @property
    def running_s(self) -> float:
        """Of these, with an allocation."""
        return self.total_s - self.seconds.get("queue", 0.0)

    @property
    def share(self) -> float | None:
        """Of the time with an allocation, that steps took which were kept; None where nothing ran."""
        return self.seconds.get("steps", 0.0) / self.running_s if self.running_s > 0 else None


def goodput(attempts: Sequence[Tried]) -> Goodput:
    """The phases of a member's attempts, together."""
    return _sum([part.seconds for part in goodputs(attempts)])


def goodputs(attempts: Sequence[Tried]) -> list[Goodput]:
    """The phases of each of a member's attempts, in order."""
    found = []
    for i, tried in enumerate(attempts):
        later = (went_on_from(then.events) for then in attempts[i + 1 :])
        found.append(_sum([_phases(tried, min((step for step in later if step is not None), default=None))]))
    return found


def goodputs_of(run: Run, running: Collection[int]) -> dict[int, dict[int, Goodput]]:
    """Of each member that has begun, by attempt; those in `running` are not at their end."""
    submissions, now = Journal(run).submissions(), time.time()
    lasts = {index: now if index in running else None for index in started_members(run)}
    found = {}
    for index, until in lasts.items():
        attempts = tried(run.member(index), submissions, until)
        found[index] = {attempt.number: part for attempt, part in zip(attempts, goodputs(attempts), strict=True)}
    return found


def tried(member: Member, submissions: Sequence[Submission], running_until: float | None) -> list[Tried]:
    """A member's attempts. One without an outcome lasts `running_until` if it runs, else until its last sign."""
    found: list[Tried] = []
    attempts, supervisor = member.attempts(), None
    for attempt in attempts:
        outcome, began = read_json(attempt.outcome) or {}, read_json(attempt.path / "started.json")
        if began is None:  # its supervisor was killed before it wrote a line
            continue
        started = float(began["started"])
        before = [s.t for s in submissions if member.index in s.indices and s.t <= started]
        since = max([*before, *(earlier.ended for earlier in found)], default=started)
        lasts = running_until if attempt == attempts[-1] else None
        ended = float(outcome.get("ended") or lasts or last_sign(attempt))
        waits = [(float(r["t"]) / 1000, float(r["waited_s"])) for r in read_lines(attempt.metrics) if "waited_s" in r]
        before_it, supervisor = supervisor, (began.get("host"), began.get("pid"))
        found.append(
            Tried(
                since=min(since, started),
                started=started,
                ended=max(started, ended),
                events=events_of(attempt),
                waits=waits,
                step_s=beat_of(attempt.beat(0)).pace_s,
                hung_since=outcome.get("hung_since"),
                number=attempt.number,
                queued=None in supervisor or supervisor != before_it,
            )
        )
    return found


def _sum(parts: Sequence[Mapping[str, float]]) -> Goodput:
    seconds = {phase: sum(part.get(phase, 0.0) for part in parts) for phase in PHASES}
    return Goodput({phase: round(s, 3) for phase, s in seconds.items() if s > 0})


def _phases(attempt: Tried, resumed: int | None) -> Mapping[str, float]:
    """Seconds of one attempt; `resumed` is the step from which a later one went on."""
    seconds: defaultdict[str, float] = defaultdict(float)
    cut = _kept_until(attempt, resumed)
    begun, phase, again = attempt.since, "queue" if attempt.queued else "start", False
    for t, following, repeated in [(attempt.started, "start", False), *_marks(attempt), (attempt.ended, "", False)]:
        t = min(max(t, begun), max(attempt.ended, begun))  # clocks of two hosts may differ a little
        twice = max(0.0, t - max(begun, cut)) if again else 0.0
        seconds["recomputed"] += twice
        seconds[phase] += t - begun - twice
        begun, phase, again = t, following, repeated
    first = next((event for event in attempt.events if event["event"] == "first_step"), {})
    if first:
        usual = min(attempt.step_s or 0.0, seconds["first_step"])
        seconds["first_step"] -= usual
        seconds["steps" if float(first["t"]) <= cut else "recomputed"] += usual
    waited = min(max((s for t, s in attempt.waits if t <= cut), default=0.0), seconds["steps"])
    seconds["data_wait"], seconds["steps"] = waited, seconds["steps"] - waited
    return seconds


def _marks(attempt: Tried) -> list[tuple[float, str, bool]]:
    """When which phase began, and whether it is computed again after an earlier checkpoint."""
    found, told, cold = list[tuple[float, str, bool]](), False, False
    compiled_in = ("start", False)
    for event in attempt.events:
        name, t = event["event"], float(event["t"])
        told, cold = told or name == "signal", name == "restore_done" or (cold and name != "first_step")
        if name == "compile_end":
            found.append((t, *compiled_in))
        if (phase := BEGINS.get(name)) is None:
            continue
        if phase == "steps" and (told or cold):  # after a notice what is over was for leaving
            phase = "shutdown" if told else "first_step"
        if phase == "compile" and found:
            compiled_in = found[-1][1:]
        found.append((t, phase, phase in REPEATED and name != "checkpoint_wait"))
    if attempt.hung_since is not None:
        hung = attempt.hung_since
        found = [*(mark for mark in found if mark[0] <= hung), (hung, "hang", False)]
    return found


def _kept_until(attempt: Tried, resumed: int | None) -> float:
    """The end of the checkpoint from which a later attempt went on, or its beginning where training never went on
    after it; everything, if there is no next attempt."""
    if resumed is None:
        return attempt.ended
    kept = [
        float(e["t"])
        for e in attempt.events
        if e["event"] in ("checkpoint_begin", "checkpoint_end") and e["step"] == resumed
    ]
    back = [float(e["t"]) for e in attempt.events if e["event"] == "restore_done"]
    return max(kept, default=max(back, default=attempt.ended))
