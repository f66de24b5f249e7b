"""How much time has an attempt? Asked of Slurm once its ranks start, and left for them in limits.json.

A program that knows how long it may go on after a notice can tell whether a save still fits: that is
trainer/checkpoints/grace.py's.
Nothing waits for the answer, and whatever Slurm does not say stays unsaid.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import threading
import time
from collections.abc import Mapping
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
CUT_S = 10.0
"""Before its time limit a program that has not saved is ended, so that the supervisor outlives it and says so: Slurm
would end both (measured: the batch step two seconds before the others)."""


def cut_s(notice_s: int) -> float:
    """So long before the time limit the ranks are ended."""
    return min(CUT_S, notice_s / 4)


def tell(plan: Plan, attempt: Attempt) -> None:
    """Find out how much time the ranks of an attempt have, and leave it for them; returns at once."""
    threading.Thread(target=_tell, args=(plan, attempt), name="limits", daemon=True).start()


def _tell(plan: Plan, attempt: Attempt) -> None:
    partition = os.environ.get("SLURM_JOB_PARTITION")
    if plan.launcher == "slurm" and not partition:
        return
    found = on_slurm(plan, partition) if partition and plan.launcher == "slurm" else here(plan)
    if plan.launcher == "pool":
        found = {
            "ends_at": ends_at(plan, time.time()),
            "notice_s": {**found["notice_s"], "SIGUSR2": after_notice_s(plan)},
        }
    with contextlib.suppress(OSError):
        write_json(attempt.path / NAME, found)


def here(plan: Plan) -> dict[str, Any]:
    """On this machine: nobody kills a rank but us."""
    return {"ends_at": None, "notice_s": {"SIGTERM": KILL_AFTER_S, "SIGUSR2": float(plan.notice_s)}}


def ends_at(plan: Plan, begun: float) -> float:
    """When a member in a held allocation has to have ended that began then: its own limit, or the allocation's."""
    return min(Place.given().ends_at, begun + plan.time_limit_min * 60)


def after_notice_s(plan: Plan) -> float:
    """How long the ranks live after the notice."""
    return plan.notice_s - cut_s(plan.notice_s)


def on_slurm(plan: Plan, partition: str) -> dict[str, Any]:
    """Of the job this process runs in. SIGTERM comes with a preemption, and leaves the partition's grace time."""
    left_s = element.seconds_left()
    grace_s = grace_s_of(_said("partition", partition), _said("config"))
    notice_s: dict[str, float] = {"SIGUSR2": after_notice_s(plan)}
    if grace_s is not None:
        notice_s["SIGTERM"] = grace_s
    return {"ends_at": time.time() + left_s if left_s < math.inf else None, "notice_s": notice_s}


def grace_s_of(partition: Mapping[str, str], config: Mapping[str, str]) -> float | None:
    """How long a job lives after SIGTERM: GraceTime of its partition where it has one, else what Slurm gives every
    process between SIGTERM and SIGKILL (KillWait, «slurm.conf»). None where Slurm does not say."""
    words = [(partition.get("GraceTime") or "0").split()[0], (config.get("KillWait") or "0").split()[0]]
    numbers = [float(word) for word in words if word.isdigit() and int(word) > 0]
    return numbers[0] if numbers else None


def _said(*what: str) -> dict[str, str]:
    """What `scontrol show` says of something, by names; nothing where it does not answer."""
    with contextlib.suppress(CommandError):
        text = output_of(["scontrol", "show", *what], timeout_s=ASK_S)
        return {k: v.strip() for k, v in re.findall(r"(\w+)\s*=\s*(\d+(?: sec)?|\S*)", text)}
    return {}
