"""What did a job use, and what of it was training? Rank-seconds, card-hours and money of each phase, over requeues
and over all members of a sweep.

Time is goodput.py's, rank 0's, times what a member holds: its ranks, cards and nodes, for as long as it has an
allocation. Time in the queue costs nothing. Reads only.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from launchers.jobs.goodput import PHASES, Goodput, goodputs_of
from launchers.run_folder.changes import History
from launchers.run_folder.record import Run, read_json, read_lines
from sweeps.spelling import duration, number

WAITING = "queue"


@dataclass(frozen=True, kw_only=True)
class Spending:
    """Of a whole job. Mappings are by phase, in the order of a life."""

    time: Goodput
    """Seconds of members, each counted once whatever it holds."""
    rank_s: Mapping[str, float]
    gpu_h: Mapping[str, float]
    """Empty where no cards are."""
    money: Mapping[str, float]
    """Empty where no machine has a price."""
    currency: str

    @property
    def share(self) -> float | None:
        """Of the rank-seconds, that went into steps which were kept; None where nothing ran."""
        whole = sum(self.rank_s.values())
        return self.rank_s.get("steps", 0.0) / whole if whole else None

    def document(self) -> dict[str, Any]:
        """For JSON."""
        said = {"rank_seconds": self.rank_s, "gpu_hours": self.gpu_h, "money": self.money}
        totals = {name: round(sum(of.values()), 3) for name, of in said.items()}
        return {"share": self.share, "seconds": self.time.seconds, **said, "totals": totals, "currency": self.currency}


@dataclass(frozen=True)
class Held:
    """What a member has while it has its allocation."""

    ranks: int
    cards: int
    hourly: float | None


def spending(run: Run, running: Collection[int]) -> Spending:
    """Over all members that have begun; those in `running` are not at their end."""
    spec = read_json(run.spec) or {}
    rows = {row["index"]: row for row in read_lines(run.members_file)}
    seconds, rank_s, gpu_s, money = ({phase: 0.0 for phase in PHASES} for _ in range(4))
    priced = False
    history = History(run)
    tries = ((i, attempt, time) for i, parts in goodputs_of(run, running).items() for attempt, time in parts.items())
    for index, attempt, time in tries:
        held = _held(history.section("pools", rows[index], attempt) or spec.get("pools") or [])
        priced = priced or held.hourly is not None
        for phase, s in time.seconds.items():
            seconds[phase] += s
            if phase != WAITING:
                rank_s[phase] += s * held.ranks
                gpu_s[phase] += s * held.cards
                money[phase] += s * (held.hourly or 0.0) / 3600
    return Spending(
        time=Goodput(_present(seconds)),
        rank_s=_present(rank_s),
        gpu_h=_present({phase: s / 3600 for phase, s in gpu_s.items()}),
        money=_present(money) if priced else {},
        currency=(spec.get("site") or {}).get("currency", ""),
    )


def _held(pools: Sequence[Mapping[str, Any]]) -> Held:
    """From the pools as spec.json has them: a status must be had of jobs of other versions, too."""
    ranks, cards, prices = 0, 0, []
    for pool in pools:
        machine, count = pool["machine"], pool["accelerator"]["count"]
        ranks += machine["nodes"] * (machine["ranks_per_node"] or max(1, count))
        cards += machine["nodes"] * count
        if machine["hourly_cost"] is not None:
            prices.append(machine["nodes"] * machine["hourly_cost"])
    return Held(ranks, cards, sum(prices) if prices else None)


def spending_text(used: Spending) -> Iterator[str]:
    """A table: a line for each phase, and what all of them took."""
    columns = [("rank-seconds", used.rank_s), ("GPU-hours", used.gpu_h), (used.currency, used.money)]
    shown = [(title, of) for title, of in columns if of]
    if not shown:
        return
    whole = sum(used.rank_s.values())
    yield f"{'where the time went':<20}{'share':>7}" + "".join(f"{title:>14}" for title, _ in shown)
    for phase, s in used.rank_s.items():
        yield f"{_named(phase):<20}{s / whole:>7.1%}" + "".join(f"{number(of.get(phase, 0.0)):>14}" for _, of in shown)
    yield f"{'all':<20}{1:>7.1%}" + "".join(f"{number(sum(of.values())):>14}" for _, of in shown)
    if waited := used.time.seconds.get(WAITING):
        yield f"queued {duration(waited)} besides"


def spending_line(used: Spending) -> str:
    """What all of it took, on one line."""
    parts = [f"{number(round(sum(used.rank_s.values())))} rank-seconds"]
    parts += [f"{number(sum(used.gpu_h.values()))} GPU-hours"] if used.gpu_h else []
    parts += [f"{number(sum(used.money.values()))} {used.currency}"] if used.money else []
    return ", ".join(parts)


def goodput_text(used: Goodput) -> str:
    """The share of steps that were kept, of how much time, and what else took a hundredth of it or more."""
    others = {p: s / used.running_s for p, s in used.seconds.items() if p not in ("steps", WAITING)}
    named = [f"{_named(phase)} {share:.0%}" for phase, share in others.items() if share >= 0.01]
    queued = f"; queued {duration(used.seconds[WAITING])}" if used.seconds.get(WAITING, 0) >= 1 else ""
    said = f" ({', '.join(named)}{queued})" if named or queued else ""
    return f"{used.share or 0:.0%} of {duration(used.running_s)}{said}"


def _named(phase: str) -> str:
    return phase.replace("_", " ")


def _present(of: Mapping[str, float]) -> dict[str, float]:
    return {phase: round(value, 6) for phase, value in of.items() if value > 0}
