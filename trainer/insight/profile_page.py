"""What does a profile tell a person? One page that names what bounds the run, why that is said, and what to change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from conf.schema import Spec, precision
from trainer.insight import bottleneck
from trainer.insight.bottleneck import WORK, Event, Operation
from trainer.insight.pace import remedy

WAITS_FOR_ANOTHER = 0.1
"""So much more of its time than the slowest one may a rank spend on exchange before it is said to wait for that one."""
SHOWN = 0.005
"""A smaller share is left out of the log's line."""


@dataclass(frozen=True)
class Seen:
    """What the profiler saw of one rank."""

    rank: int
    steps: tuple[int, int]
    """The first and the last one."""
    seconds: Mapping[str, float]
    """By kind of work; empty where no step was seen."""
    hidden_s: float = 0.0
    exposed: float = 1.0
    operations: tuple[Operation, ...] = ()

    @classmethod
    def of(cls, rank: int, steps: tuple[int, int], events: Sequence[Event]) -> Seen:
        if not bottleneck.window(events):
            return cls(rank, steps, {})
        hidden_s, exposed = bottleneck.hidden_s(events), bottleneck.exposed(events)
        return cls(rank, steps, bottleneck.seconds(events), hidden_s, exposed, tuple(bottleneck.top(events)))


@dataclass(frozen=True)
class Measured:
    """What a rank measured of its attempt, profiled or not."""

    steps: int
    total_s: float
    """From the first step on, all that the loop did."""
    seconds: Mapping[str, float]
    """Of it, waiting for data, evaluation and checkpoints."""


def summary(told: Sequence[tuple[Seen | None, Measured]], spec: Spec, spare_cores: int) -> dict[str, Any] | None:
    """The whole finding, as JSON can write it, from what every rank tells; None where no rank saw a step.

    Of several, the rank that waits least for others sets the pace: what bounds that one bounds the run.
    """
    seen = [(one, measured) for one, measured in told if one is not None and one.seconds]
    if not seen:
        return None
    shares = {one.rank: _shares(one, measured) for one, measured in seen}
    slowest, measured = min(seen, key=lambda pair: shares[pair[0].rank]["communication"])
    mine, profiled_s = shares[slowest.rank], sum(slowest.seconds.values())
    kind = bottleneck.verdict(mine)
    waiting = [r for r, s in shares.items() if s["communication"] > mine["communication"] + WAITS_FOR_ANOTHER]
    return {
        "bottleneck": kind,
        "share": round(bottleneck.joined(mine)[kind], 4),
        "advice": advice(kind, mine, spec, spare_cores),
        "shares": _rounded(mine),
        "attempt": {"ranks": len(told), "steps": measured.steps, "seconds": round(measured.total_s, 3)},
        "profiled": {
            "rank": slowest.rank,
            "first_step": slowest.steps[0],
            "last_step": slowest.steps[1],
            "seconds": round(profiled_s, 6),
            "shares": _rounded({name: s / profiled_s for name, s in slowest.seconds.items()}),
            "hidden_communication_s": round(slowest.hidden_s, 6),
        },
        "operations": [{**asdict(o), "own_s": round(o.own_s, 6)} for o in slowest.operations],
        "ranks": {str(rank): _rounded(found) for rank, found in sorted(shares.items())},
        "waiting": waiting,
    }


def advice(kind: str, shares: Mapping[str, float], spec: Spec, spare_cores: int) -> str:
    """What to change, in one sentence."""
    train = spec.train
    if kind == "data":
        return remedy(train.workers, spare_cores)
    if kind == "communication":
        now = f"train.batch_size (now {train.batch_size}) or train.accumulate (now {train.accumulate})"
        return f"exchange less often by a larger {now}, send less by engine.compression, or use fewer ranks"
    if kind == "checkpoint" and not train.checkpoint_in_background:
        return "train.checkpoint_in_background=true lets training go on while a checkpoint is written"
    if kind == "checkpoint":
        every = train.checkpoint_every_steps or "None, with each evaluation"
        return f"save less often: raise train.checkpoint_every_steps (now {every})"
    if kind == "evaluation":
        often = train.eval_every_steps or "None, after each epoch"
        return f"raise train.eval_every_steps (now {often}), or keep fewer samples for validation"
    if kind == "overhead":
        return f"give each step more to do by a larger train.batch_size (now {train.batch_size}), or train.compile=true"
    if shares.get("optimizer", 0.0) > shares.get("compute", 0.0):
        return f"the optimizer's step costs the same for any batch: raise train.batch_size (now {train.batch_size})"
    return f"computing is what a run is for; to be faster, use {_faster(spec)}"


def _faster(spec: Spec) -> str:
    narrow = precision(spec) == "fp32" and spec.pools[0].accelerator.kind != "none"
    compiled = [] if spec.train.compile else ["train.compile=true"]
    return " or ".join([*(["train.precision=bf16"] if narrow else []), *compiled, "more ranks"])


def lines(found: Mapping[str, Any]) -> Iterable[str]:
    """For the log."""
    at, profiled = found["attempt"], found["profiled"]
    kinds = ", ".join(f"{kind} {share:.0%}" for kind, share in found["shares"].items() if share >= SHOWN)
    yield f"profile of {_steps(profiled)} of rank {profiled['rank']}, with all {at['steps']} steps so far: {kinds}"
    yield f"bound by {found['bottleneck']}{_waits(found)}: {found['advice']}"
    costly = ", ".join(f"{o['name']} {o['own_s'] / profiled['seconds']:.0%}" for o in found["operations"][:3])
    yield f"most of the time in: {costly}; all of it in profile/summary.md"


def page(found: Mapping[str, Any]) -> str:
    """Markdown."""
    at, profiled = found["attempt"], found["profiled"]
    head = [
        f"# Bound by {found['bottleneck']}",
        f"**{found['share']:.0%}** of the time: {WORK[found['bottleneck']]}{_waits(found)}.",
        f"**What to change:** {found['advice']}.",
        "## Where the time goes",
    ]
    rows = [
        (kind, f"{share:.1%}", f"{profiled['shares'].get(kind, 0.0):.1%}", WORK[kind])
        for kind, share in found["shares"].items()
    ]
    said = (
        f"Of rank {profiled['rank']} of {at['ranks']}: in the attempt's {at['steps']} steps ({at['seconds']:.1f} s), "
        f"and in {_steps(profiled)}, which were profiled ({profiled['seconds'] * 1e3:.1f} ms). Of the attempt, data, "
        "evaluation and checkpoint were measured; the rest is divided as in the profiled steps. "
        f"Exchange between ranks that went on behind other work: {profiled['hidden_communication_s'] * 1e3:.1f} ms."
    )
    parts = [*head, _table(("", "attempt", "profiled steps", ""), rows), said]
    if len(found["ranks"]) > 1:
        kinds = list(found["shares"])
        each = [(r, *(f"{shares[kind]:.1%}" for kind in kinds)) for r, shares in found["ranks"].items()]
        parts += ["## Rank by rank", _table(("rank", *kinds), each)]
    costly = [
        (
            f"`{o['name'].replace('|', '/')}`",
            o["calls"],
            f"{o['own_s'] * 1e3:.2f}",
            f"{o['own_s'] / profiled['seconds']:.1%}",
        )
        for o in found["operations"]
    ]
    own = "Their own time, without what they call. Of several threads or streams at once each counts."
    parts += ["## The costliest operations", _table(("operation", "calls", "ms", "of the steps"), costly), own]
    return "\n\n".join(parts) + "\n"


def _shares(seen: Seen, measured: Measured) -> dict[str, float]:
    data = measured.seconds.get("data", 0.0) * seen.exposed
    return bottleneck.shares(seen.seconds, {**measured.seconds, "data": data}, measured.total_s)


def _rounded(shares: Mapping[str, float]) -> dict[str, float]:
    return {kind: round(share, 4) for kind, share in shares.items()}


def _steps(profiled: Mapping[str, Any]) -> str:
    first, last = profiled["first_step"], profiled["last_step"]
    return f"step {first}" if first == last else f"steps {first} to {last}"


def _waits(found: Mapping[str, Any]) -> str:
    """Who waits for whom, of ranks that were all looked at."""
    if not found["waiting"]:
        return ""
    who = ", ".join(map(str, found["waiting"]))
    return f" on rank {found['profiled']['rank']}, for which rank{'s' * (len(found['waiting']) > 1)} {who} wait"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
