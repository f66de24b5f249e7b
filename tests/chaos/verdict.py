"""What a case must keep to, and whether it did. Reads the run's files; a broken promise is said in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from launchers.jobs.goodput import goodput, tried
from launchers.run_folder.journal import Journal
from launchers.run_folder.record import Run
from tests.chaos import lineage
from tests.chaos.cases import EVALUATE_EVERY, TOTAL_STEPS, Case
from tests.chaos.lineage import Try
from tests.chaos.training import digest, weights_of
from trainer import samples

UNSEEN = 4
"""Steps to which a training commits itself at most where it saves soon (trainer/checkpoints/interval.py)."""
CLOSE = 1e-4
"""How far weights may be from each other that were summed in another order."""


@dataclass(frozen=True)
class Seen:
    """A case after its end."""

    case: Case
    run: Path
    expected: Path
    """Weights of a run that nobody disturbed."""
    fault: float
    retries: int
    leftovers: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """What is said of a case in the table."""

    case: Case
    at: int
    """Last step reported before the fault."""
    lost: int
    most: int
    """Steps that it may lose."""
    next_s: float | None
    weights: str
    once: bool
    measured: float
    predicted: float
    retries: int
    causes: tuple[str, ...]
    broken: tuple[str, ...]
    """Promises that were not kept."""


def verdict(seen: Seen) -> Row:
    """All that the table says."""
    tries = lineage.read(seen.run / "members" / "0")
    at = lineage.reached(tries, seen.fault)
    resumed = lineage.resumed_after(tries, seen.fault)
    last = lineage.stopped_at(tries, seen.fault) if seen.case.kind.graceful else at
    lost = 0 if resumed is None else max(0, last - resumed)  # it may have made and saved more before its end
    mistakes = [*samples.mistakes(seen.run / "members" / "0"), *_steps(lineage.kept(tries))]
    weights = _weights(seen)
    broken = [*_broken(seen, tries, lost), *_return(seen, tries), *mistakes, *seen.leftovers]
    broken += [] if weights in ("equal", "close") else [f"weights: {weights}"]
    return Row(
        case=seen.case,
        at=at,
        lost=lost,
        most=0 if seen.case.kind.graceful else _most(seen.case, tries, seen.fault),
        next_s=lineage.next_useful_s(tries, seen.fault),
        weights=weights,
        once=not mistakes,
        measured=_measured(seen.run),
        predicted=_predicted(seen, tries),
        retries=seen.retries,
        causes=tuple(one.outcome.get("cause", "none") for one in tries),
        broken=tuple(broken),
    )


def _steps(kept: Sequence[int]) -> list[str]:
    """What is wrong with the steps that led to the final weights."""
    return [] if kept == list(range(1, TOTAL_STEPS + 1)) else [f"the steps that were kept are {kept}"]


def _broken(seen: Seen, tries: Sequence[Try], lost: int) -> Iterator[str]:
    """What is wrong with the steps that were lost, or with what was struck."""
    kind = seen.case.kind
    if kind.said not in (message := lineage.struck(tries, seen.fault).outcome.get("message", "")):
        yield f"it was to say {kind.said!r}, and the outcome says {message!r}"
    resumed = lineage.resumed_after(tries, seen.fault)
    if resumed is None:
        if not kind.bearable:
            yield "it was not interrupted, or did not go on"
    elif seen.case.fault == "store down":
        yield "it was interrupted by a store that was away"
    elif kind.graceful:
        if lost:
            yield f"{lost} steps lost by a program that was told"
    else:
        yield from _too_much(seen.case, tries, seen.fault, resumed)


def _return(seen: Seen, tries: Sequence[Try]) -> Iterator[str]:
    """What is wrong with how it came back, whatever it then did."""
    case = seen.case
    allowed = int(case.launcher in case.kind.by_hand)
    if seen.retries > allowed:
        yield f"it had to be retried by hand {seen.retries} time(s), and at most {allowed} is right"
    state = lineage.struck(tries, seen.fault).outcome.get("state", "none")
    if case.kind.in_place and state != "RESTARTED":
        yield f"what was struck ended as {state}, and was to start again on its nodes"


def _too_much(case: Case, tries: Sequence[Try], fault: float, resumed: int) -> Iterator[str]:
    """What is wrong with how much a hard end has cost."""
    safe = lineage.durable(tries, fault)
    expected = safe[-1 - case.kind.lost_checkpoints]
    if resumed < expected:
        yield f"went on from step {resumed}, though step {expected} was on disk (of {safe})"
    at, most = lineage.reached(tries, fault), _most(case, tries, fault)
    if at - resumed > most:
        yield f"{at - resumed} steps lost, more than {most}"


def _most(case: Case, tries: Sequence[Try], fault: float) -> int:
    """A hard end may cost what was made since the newest checkpoint, and that is one interval; what was made while
    a checkpoint was being written comes to that."""
    return _interval(case, tries, fault) * (1 + case.kind.lost_checkpoints + lineage.saving(tries, fault))


def _interval(case: Case, tries: Sequence[Try], fault: float) -> int:
    """Steps between two checkpoints: where the training chooses, as many as it ever made in the seconds that it said
    when it had saved, and those that it makes without a look at the time."""
    if case.every != "auto":
        return case.every
    one = lineage.struck(tries, fault)
    said = [e["interval_s"] for e in one.marks("checkpoint_durable", fault)]
    times = [t for _, t in one.steps]
    return max(sum(t <= other <= t + said[-1] for other in times) for t in times) + UNSEEN if said and times else 0


def _weights(seen: Seen) -> str:
    """equal, close or how far from those of a run that nobody disturbed."""
    found = weights_of(seen.run)
    if seen.case.same_layout:
        return "equal" if digest(found) == digest(seen.expected) else "DIFFER"
    ours, theirs = (safetensors.numpy.load_file(path) for path in (found, seen.expected))
    if ours.keys() != theirs.keys():
        return "OTHER NAMES"
    far = max(float(np.abs(tensor - theirs[name]).max()) for name, tensor in ours.items())
    return "close" if far <= CLOSE else f"FAR {far:g}"


def _measured(run: Path) -> float:
    of = Run(run)
    return goodput(tried(of.member(0), Journal(of).submissions(), None)).share or 0.0


def _predicted(seen: Seen, tries: Sequence[Try]) -> float:
    kind = seen.case.kind
    every = _interval(seen.case, tries, seen.fault)
    counts = (TOTAL_STEPS, TOTAL_STEPS // max(1, every) + 1, TOTAL_STEPS // EVALUATE_EVERY)
    again = 0.0 if kind.graceful else every * (0.5 + kind.lost_checkpoints)
    restarts = sum(one.resumed is not None for one in tries) - 1
    held_s = lineage.held_s(tries) if kind.moment == "step" else 0.0
    return lineage.predicted(lineage.known(tries), counts, restarts, again, held_s)


def failed(case: Case, error: BaseException) -> Row:
    """Of a case that did not come to its end."""
    said = f"{type(error).__name__}: {error}"
    return Row(case, 0, 0, 0, None, "none", False, 0.0, 0.0, 0, (), (said,))


def document(row: Row) -> dict[str, Any]:
    """A row as JSON can write it."""
    case = row.case
    return {
        "case": case.name,
        "fault": case.fault,
        "launcher": case.launcher,
        "engine": case.engine,
        "data": case.form,
        "layout": f"{case.layout}" + ("" if case.same_layout else f" to {case.back}"),
        "graceful": case.kind.graceful,
        **{field.name: getattr(row, field.name) for field in fields(row) if field.name != "case"},
    }
