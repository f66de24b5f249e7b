"""What bounds a run? From the events of some profiled steps, and what was measured of all others, to a verdict.

Every moment of the profiled steps belongs to one kind of work. What happens at the same time as computing costs
nothing, so computing goes first: of the exchange between ranks only what the step had to wait for is counted.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

STEP, SECTION = "ProfilerStep", "fairlead::"
OPTIMIZER = "Optimizer.step#"
AUTOGRAD = "autograd::engine::evaluate_function"
CALL = re.compile(r"^_?c10d(_functional)?::")
EXCHANGE = re.compile(r"^(_?c10d(_functional)?::|gloo:|nccl|rccl|ucc:|mpi:|record_param_comms)")
"""Names of what crosses ranks, on the host and on a card."""
NOT_WORK = ("autograd::", "torch::autograd", "torch.distributed.")
COMPILED = ("## Call CompiledFxGraph", "Torch-Compiled Region")
SEPARATE = ("evaluation", "checkpoint")
"""Stand between steps, and are measured over the whole attempt."""
WORK = {
    "compute": "forward and backward passes",
    "optimizer": "the optimizer's step",
    "communication": "exchange between ranks, and waiting for them",
    "data": "waiting for the next batch",
    "evaluation": "evaluation",
    "checkpoint": "what a checkpoint keeps the loop from",
    "overhead": "none of these: Python, and starting operations",
}
"""Kinds of work. All of a run's time belongs to one of them."""
TOP = 10

Span = tuple[float, float]


@dataclass(frozen=True)
class Event:
    """Something the profiler saw. Times in microseconds, of one clock."""

    name: str
    begin_us: float
    end_us: float
    thread: int
    own_us: float = 0.0
    """Without what it called."""
    on_card: bool = False
    is_label: bool = False
    """A name that somebody gave to a stretch of code, and no operation."""


@dataclass(frozen=True)
class Operation:
    """All calls of one operation in the profiled steps."""

    name: str
    calls: int
    own_s: float


def seconds(events: Sequence[Event]) -> dict[str, float]:
    """Wall time of the profiled steps by kind of work; the sum is all of it. Empty where no step was seen."""
    left = window(events)
    if not left:
        return {}
    found = dict.fromkeys(WORK, 0.0)
    for kind, spans in _layers(events, _main(events)):
        rest = _without(left, _union(spans))
        found[kind] += _length(left) - _length(rest)
        left = rest
    found["overhead"] += _length(left)
    return {kind: us / 1e6 for kind, us in found.items()}


def window(events: Sequence[Event]) -> list[Span]:
    """From the first profiled step's begin to the last one's end; empty where there is none."""
    steps = [e for e in events if e.name.startswith(STEP) and not e.on_card]
    return [(min(e.begin_us for e in steps), max(e.end_us for e in steps))] if steps else []


def hidden_s(events: Sequence[Event]) -> float:
    """Of the exchange between ranks, what went on behind something else, so that it cost nothing."""
    return max(0.0, _inside(events, _exchanges(events)) - seconds(events)["communication"])


def exposed(events: Sequence[Event]) -> float:
    """Of the time the loop stood waiting for data, the part in which the device had nothing to do."""
    stood_s = _inside(events, [_span(e) for e in events if e.name == f"{SECTION}data" and not e.on_card])
    return seconds(events)["data"] / stood_s if stood_s > 0 else 1.0


def top(events: Sequence[Event]) -> list[Operation]:
    """The operations that took the most time themselves: on the card where there is one, else on the host."""
    has_card = any(e.on_card for e in events)
    calls, own = defaultdict[str, int](int), defaultdict[str, float](float)
    for event in events:
        if event.on_card == has_card and (not event.is_label or EXCHANGE.match(event.name)):
            calls[event.name] += 1
            own[event.name] += event.own_us / 1e6
    order = sorted(own, key=lambda name: (-own[name], name))
    return [Operation(name, calls[name], own[name]) for name in order[:TOP]]


def shares(profiled: Mapping[str, float], measured: Mapping[str, float], total_s: float) -> dict[str, float]:
    """Of a whole attempt's steps, what each kind of work takes; largest first, the sum is 1.

    What was `measured` all along (data, evaluation, checkpoint) is taken as it is; the rest is divided as in the
    profiled steps, which are a sample.
    """
    known = {kind: min(measured.get(kind, 0.0), total_s) for kind in (*SEPARATE, "data")}
    inside = {kind: s for kind, s in profiled.items() if kind not in known}
    rest_s = max(0.0, total_s - sum(known.values()))
    scale = rest_s / sum(inside.values()) if sum(inside.values()) > 0 else 0.0
    found = {**known, **{kind: s * scale for kind, s in inside.items()}}
    whole = sum(found.values()) or 1.0
    return dict(sorted(((kind, s / whole) for kind, s in found.items()), key=lambda pair: -pair[1]))


def verdict(found: Mapping[str, float]) -> str:
    """The kind of work to look at first."""
    shares = joined(found)
    return max(shares, key=lambda kind: shares[kind])


def joined(found: Mapping[str, float]) -> dict[str, float]:
    """The same with the optimizer's step, which is computing, too, counted as such."""
    rest = {kind: share for kind, share in found.items() if kind != "optimizer"}
    return {**rest, "compute": rest.get("compute", 0.0) + found.get("optimizer", 0.0)}


def _main(events: Sequence[Event]) -> int:
    return next(e.thread for e in events if e.name.startswith(STEP) and not e.on_card)


def _layers(events: Sequence[Event], main: int) -> list[tuple[str, Iterable[Span]]]:
    """Kinds of work and when they went on, first the one that counts where several do."""
    threads = {main} | {e.thread for e in events if e.name.startswith(AUTOGRAD)}
    mine = [e for e in events if not e.on_card and e.thread in threads]
    sections = {kind: [_span(e) for e in mine if e.name == SECTION + kind] for kind in (*SEPARATE, "data")}
    first: list[tuple[str, Iterable[Span]]] = [(kind, sections[kind]) for kind in SEPARATE]
    exchanges = _exchanges(events)
    if any(e.on_card for e in events):  # what the host does counts only while the card has nothing to do
        busy = [_span(e) for e in events if e.on_card and not e.is_label and not EXCHANGE.match(e.name)]
        return [*first, ("compute", busy), ("communication", exchanges), ("data", sections["data"])]
    steps = _union(_span(e) for e in mine if e.name.startswith(OPTIMIZER))
    work = _union(_span(e) for e in mine if _is_work(e))
    in_steps = _without(work, _without(work, steps))
    computing = [("optimizer", in_steps), ("compute", work), ("communication", exchanges), ("optimizer", steps)]
    return [*first, ("data", sections["data"]), *computing]


def _is_work(event: Event) -> bool:
    if event.name.startswith(COMPILED):
        return True
    other = event.is_label or event.name.startswith(NOT_WORK) or EXCHANGE.match(event.name)
    return "::" in event.name and not other


def _exchanges(events: Sequence[Event]) -> list[Span]:
    """On a host from the call on, although another thread begins when it comes to it."""
    on_card = any(e.on_card for e in events)
    found = [e for e in events if EXCHANGE.match(e.name) and e.on_card == on_card and not (on_card and e.is_label)]
    spans = [_span(e) for e in found]
    begun = sorted(e.begin_us for e in found if not CALL.match(e.name))
    for call in found:
        place = bisect_left(begun, call.begin_us)
        if CALL.match(call.name) and place < len(begun):
            spans.append((call.begin_us, begun[place]))
    return spans


def _inside(events: Sequence[Event], spans: Iterable[Span]) -> float:
    """Seconds of these spans within the profiled steps."""
    whole = window(events)
    return (_length(whole) - _length(_without(whole, _union(spans)))) / 1e6


def _span(event: Event) -> Span:
    return event.begin_us, event.end_us


def _length(spans: Iterable[Span]) -> float:
    return sum(end - begin for begin, end in spans)


def _union(spans: Iterable[Span]) -> list[Span]:
    """The same moments in spans that do not touch, in order."""
    found: list[Span] = []
    for begin, end in sorted(spans):
        if found and begin <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        elif end > begin:
            found.append((begin, end))
    return found


def _without(spans: Sequence[Span], taken: Sequence[Span]) -> list[Span]:
    """What is left of `spans`; both as `_union` gives them."""
    left, i = [], 0
    for begin, end in spans:
        while i < len(taken) and taken[i][1] <= begin:
            i += 1
        j = i
        while j < len(taken) and taken[j][0] < end:
            if taken[j][0] > begin:
                left.append((begin, taken[j][0]))
            begin = max(begin, taken[j][1])
            j += 1
        if begin < end:
            left.append((begin, end))
    return left
