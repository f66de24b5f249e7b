"""How long may training go on without a checkpoint? Pure functions; the run that asks is keeping.py's.

Saving often costs the time in which training stands still; saving seldom costs what was trained since, whenever
something breaks. J. W. Young, «A first order approximation to the optimum checkpoint interval», Communications of the
ACM 17(9), 1974; J. T. Daly, «A higher order estimate of the optimum checkpoint interval for restart dumps», Future
Generation Computer Systems 22(3), 2006.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from trainer.checkpoints.costs import Costs

FIRST_S = 60.0
"""The first save of a run comes early: it measures what the others will cost, and the first minutes break most."""
FIRST_SHARE = 0.5
"""Of the time between failures, or of what is left until the notice, where that is sooner: the latest for the first."""
WRITING_SHARE = 0.5
"""Of the time, the thread that writes may be busy: on a CPU it takes cores from the ranks."""
MARGIN = 1.25
"""A save may take so much longer than the longest lately."""
LOOKS_AHEAD = 0.25
"""Share of the steps until a save after which it is asked again: steps may have become slower."""


def young_s(stall_s: float, mtbf_s: float) -> float:
    """Seconds of training between two saves, where a save stops it for `stall_s` and something breaks every `mtbf_s`.
    Young (1974): sqrt(2 * stall * MTBF)."""
    return math.sqrt(2 * stall_s * mtbf_s)


def daly_s(stall_s: float, mtbf_s: float) -> float:
    """As `young_s`, and good where a save is not short beside the time between failures. Daly (2006), equation 37."""
    if stall_s >= 2 * mtbf_s:
        return mtbf_s
    share = stall_s / (2 * mtbf_s)
    return young_s(stall_s, mtbf_s) * (1 + math.sqrt(share) / 3 + share / 9) - stall_s


def mtbf_s(prior_s: float, seen_s: float, failures: int) -> float:
    """Mean time between failures of a run that has been cut off so often in `seen_s` seconds of its attempts.

    Until it has seen a failure, what is told of the machines; from then on its own, if that is worse.
    """
    return min(prior_s, seen_s / failures) if failures else prior_s


def interval_s(costs: Costs, mtbf_s: float) -> float:
    """Seconds from the beginning of one save to that of the next."""
    if costs.stall_s is None or costs.durable_s is None:
        return min(FIRST_S, mtbf_s * FIRST_SHARE)
    return max(daly_s(costs.stall_s, mtbf_s), costs.durable_s / WRITING_SHARE)


@dataclass(frozen=True)
class Now:
    """Where a run stands. Seconds."""

    since_s: float
    """Since the last save began, or since this attempt's first step."""
    interval_s: float
    save_s: float | None
    """Until a save is on disk; None where none was measured."""
    left_s: float | None = None
    """Until the ranks are ended for their time limit; None where nothing does that."""
    notice_s: float | None = None
    """Of these, what the run has after it was told to leave."""
    step_s: float = 0.0
    """That a step takes: a notice is answered, and a save begun, between two of them."""
    begun: bool = False
    """Whether this attempt has begun one."""


def until_save_s(now: Now) -> float:
    """Seconds until the next save should begin; 0 or less is now.

    Where a save fits between the notice and the end, also after a step that has just begun, the notice brings the last
    one. Where it does not, what is trained after the last save that still gets onto the disk is lost: so that one comes
    as late as it can, and is there when the notice comes. What a save takes must be known by then.
    """
    usual = now.interval_s - now.since_s
    if now.left_s is None or now.notice_s is None:
        return usual
    until_notice = now.left_s - now.notice_s
    if now.save_s is None:
        first = (now.since_s + until_notice) * FIRST_SHARE - now.since_s
        return usual if now.begun else min(usual, first)
    longest = now.save_s * MARGIN
    fits = now.step_s + longest <= now.notice_s
    has_just_begun, is_too_late = now.since_s < longest, now.left_s < longest
    if fits or has_just_begun or is_too_late:
        return usual
    return min(usual, until_notice - longest - now.step_s / 2)


def steps_ahead(seconds: float, step_s: float) -> int:
    """After how many steps to ask again; 0 is to save now."""
    steps = seconds / max(step_s, 1e-9)
    if steps < 0.5:
        return 0
    return max(1, int(steps * LOOKS_AHEAD)) if steps > 4 else max(1, round(steps))


def occasions_between(failures: int) -> int:
    """How many occasions to save are let pass after so many saves in a row that failed: 0, 1, 3, 7, and no more."""
    return min(2 ** max(0, failures - 1), 8) - 1
