"""How much time has an attempt? Left for its ranks in limits.json, and kept here where Slurm does not see to it.

A program that knows how long it may go on after a notice can tell whether a save still fits: that is
trainer/checkpoints/grace.py's.
Slurm is asked once the ranks start; nothing waits for its answer, and whatever it does not say stays unsaid. On this
machine and in a held allocation a member's time counts from its first attempt there, over all restarts, until it goes
back to the queue: as that of an allocation does.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from launchers.command import output_of
from launchers.errors import CommandError
from launchers.host import element
from launchers.host.ranks import KILL_AFTER_S
from launchers.plan import Plan
from launchers.queue.in_pool import Place
from launchers.run_folder.record import Attempt, write_json

NAME = "limits.json"
ASK_S = 10.0
BY_QOS = "preempt/qos"
CUT_S = 10.0
"""Before its time limit a program that has not saved is ended, so that the supervisor outlives it and says so: Slurm
would end both (measured: the batch step two seconds before the others)."""
LOOK_S = 5.0
"""Between two looks at the clock: while a laptop sleeps, its clock goes on and its timers do not."""
EARLY_S = 60.0
"""Slurm may give notice so much earlier than asked for (sbatch(1), --signal); the time limit stays where it is."""
KILL_AGAIN_S = 30.0
"""Ranks may be starting at the very moment."""


def cut_s(notice_s: int) -> float:
    """So long before the time limit the ranks are ended."""
    return min(CUT_S, notice_s / 4)


def keep(plan: Plan, began: float) -> None:
    """Where Slurm does not see to a member's own time limit, this process gets the notice that it would give. (That of
    a held allocation's end comes from Slurm.)"""
    if plan.time_limit_min is not None:
        notice_at = began + plan.time_limit_min * 60 - plan.notice_s
        threading.Thread(target=_give_notice, args=(notice_at,), name="time limit", daemon=True).start()


def _give_notice(at: float) -> None:
    while (left_s := at - time.time()) > 0:
        time.sleep(min(left_s, LOOK_S))
    os.kill(os.getpid(), signal.SIGUSR2)


def end_after_notice(plan: Plan, kill: Callable[[], None]) -> None:
    """Notice was given just now: end ranks that are still there a little before the limit; returns at once."""

    def insist() -> None:
        time.sleep(after_notice_s(plan))
        while True:
            kill()
            time.sleep(KILL_AGAIN_S)

    def before_slurm_does() -> None:
        element.before_the_limit(cut_s(plan.notice_s), kill)

    act = before_slurm_does if plan.launcher == "slurm" else insist
    threading.Thread(target=act, name="end", daemon=True).start()


def tell(plan: Plan, attempt: Attempt, began: float) -> None:
    """Find out how much time the ranks of an attempt have, and leave it for them; returns at once. `began` is when the
    member's first attempt since it was queued did."""
    threading.Thread(target=_tell, args=(plan, attempt, began), name="limits", daemon=True).start()


def _tell(plan: Plan, attempt: Attempt, began: float) -> None:
    partition = os.environ.get("SLURM_JOB_PARTITION")
    if plan.launcher == "slurm" and not partition:
        return
    found = on_slurm(plan, partition) if partition and plan.launcher == "slurm" else here(plan, began)
    with contextlib.suppress(OSError):
        write_json(attempt.path / NAME, found)


def here(plan: Plan, began: float) -> dict[str, Any]:
    """Where nobody kills a rank but us: on this machine, and in a held allocation."""
    notice_s = {"SIGTERM": KILL_AFTER_S, "SIGUSR2": after_notice_s(plan)}
    return {"ends_at": _of_ranks(plan, ends_at(plan, began)), "notice_s": notice_s}


def ends_at(plan: Plan, began: float) -> float:
    """When a member has to have ended that began then: its own limit, or that of the held allocation it
    runs in; infinite where there is neither."""
    own = began + plan.time_limit_min * 60 if plan.time_limit_min is not None else math.inf
    return min(Place.given().ends_at, own) if plan.launcher == "pool" else own


def after_notice_s(plan: Plan) -> float:
    """How long the ranks live after the notice."""
    return plan.notice_s - cut_s(plan.notice_s)


def on_slurm(plan: Plan, partition: str) -> dict[str, Any]:
    """Of the job this process runs in. SIGTERM comes with a preemption, and leaves its grace time."""
    left_s = element.seconds_left()
    config = _said("config")
    qos = _grace_of_qos() if config.get("PreemptType") == BY_QOS else None
    grace_s = grace_s_of(_said("partition", partition), config, qos)
    notice_s: dict[str, float] = {"SIGUSR2": after_notice_s(plan)}
    if grace_s is not None:
        notice_s["SIGTERM"] = grace_s
    return {"ends_at": _of_ranks(plan, time.time() + left_s), "notice_s": notice_s, "early_s": EARLY_S}


def _of_ranks(plan: Plan, end: float) -> float | None:
    """When its ranks are ended that has to have ended then; None where nobody ends them."""
    return end - cut_s(plan.notice_s) if end < math.inf else None


def grace_s_of(partition: Mapping[str, str], config: Mapping[str, str], qos: str | None = None) -> float | None:
    """How long a job lives after SIGTERM, None where Slurm does not say. The GraceTime of what is preempted, by
    PreemptType its quality of service or else its partition («slurm.conf», «sacctmgr»); where that is none, what Slurm
    gives every process between SIGTERM and SIGKILL (KillWait)."""
    grace = partition.get("GraceTime") or "0" if qos is None else qos
    numbers = [_seconds(word) for word in (grace, config.get("KillWait") or "0")]
    return next((number for number in numbers if number > 0), None)


def _grace_of_qos() -> str | None:
    """What the accounting says of this job's quality of service; None where it does not answer."""
    name = os.environ.get("SLURM_JOB_QOS")
    with contextlib.suppress(CommandError):
        argv = ["sacctmgr", "--noheader", "--parsable2", "show", "qos", "where", f"name={name}", "format=GraceTime"]
        said = output_of(argv, timeout_s=ASK_S).split() if name else []
        return said[0] if len(said) == 1 else None
    return None


def _seconds(text: str) -> float:
    """`30`, `30 sec`, `00:05:00` or `1-00:00:00`; 0 for what is none of these."""
    found = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):(\d+):)?(\d+)(?: sec)?", text)
    if found is None:
        return 0.0
    days, hours, minutes, seconds = (int(group or 0) for group in found.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


def _said(*what: str) -> dict[str, str]:
    """What `scontrol show` says of something, by names; nothing where it does not answer."""
    with contextlib.suppress(CommandError):
        text = output_of(["scontrol", "show", *what], timeout_s=ASK_S)
        return {k: v.strip() for k, v in re.findall(r"(\w+)\s*=\s*(\d+(?: sec)?|\S*)", text)}
    return {}
