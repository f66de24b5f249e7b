"""Which members an allocation has still to run, and whether one more fits before its time is up.

An element is one allocation (parts.py). Reads the run folder and asks Slurm; how a member is run is
supervise.py's. Standard library only.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal

from launchers.command import output_of
from launchers.errors import CommandError
from launchers.outcome import FINAL
from launchers.plan import Plan
from launchers.queue import scheduler
from launchers.run_folder.journal import Journal
from launchers.run_folder.record import Member, Run, read_json, read_lines

LONGER = 1.25
"""How much longer than the longest so far the next member may take."""
REQUEUE_WAIT_S = 120
REQUEUE_PAUSES_S = (1, 5, 15, 30, 60, 120)
"""A controller that is away for a few minutes costs patience, not the member."""


def waiting(run: Run, plan: Plan, element: int) -> Iterator[int]:
    """Members of an element that have not ended since they were last submitted, in order.

    The journal says which were submitted; a script that was given to `sbatch` by hand is not in it, and runs
    all of its element's that have not succeeded.
    """
    first = element * plan.per_allocation
    rows = [r for r in read_lines(run.members_file) if first <= r["index"] < first + plan.per_allocation]
    mine = [r["index"] for r in rows if r.get("shape", 0) == plan.shape]
    job = os.environ.get("SLURM_JOB_NAME")
    ours = next((s for s in reversed(Journal(run).submissions()) if s.intent == job and s.kind == "members"), None)
    for index in mine:
        if ours is None or index in ours.indices:
            before = ours.tried.get(str(index), 0) if ours else 0
            if not has_ended(run.member(index), before):
                yield index


def has_ended(member: Member, before: int) -> bool:
    """Whether a member has ended in an attempt after its first `before` ones."""
    attempts = member.attempts()
    outcome = read_json(attempts[-1].outcome) if len(attempts) > before else None
    return outcome is not None and outcome["state"] in FINAL


def own_id(environ: Mapping[str, str] = os.environ) -> str:
    """What Slurm's commands call this job. An array's last element bears the array's own number, and by that number
    they would mean all elements (measured: scancel, squeue, scontrol). Raises KeyError outside of Slurm.
    """
    array, task = environ.get("SLURM_ARRAY_JOB_ID"), environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else environ["SLURM_JOB_ID"]


SHELL_STEP = "fairlead-shell"
"""A user's own step beside the ranks (`fairlead shell`), whom signals for them do not concern."""


def steps_of(job: str) -> list[str]:
    """The steps of a job that run, but for the batch step and a user's shell; none where Slurm does not say."""
    with contextlib.suppress(CommandError):
        named = [step.rpartition(".") for step, name in scheduler.running_steps([job]) if name != SHELL_STEP]
        return [f"{job}.{number}" for _, _, number in named if number.isdigit()]
    return []


def seconds_left() -> float:
    """Until Slurm ends this job; infinite when it does not say."""
    with contextlib.suppress(CommandError, ValueError, KeyError, IndexError):
        argv = ["squeue", "--noheader", "--jobs", own_id(), "--format", "%e"]
        ends = output_of(argv, timeout_s=30).split()[0]
        return time.mktime(time.strptime(ends, "%Y-%m-%dT%H:%M:%S")) - time.time()
    return math.inf


def before_the_limit(margin_s: float, act: Callable[[], None]) -> None:
    """Wait until Slurm ends this job in so many seconds, and act; not when it does not say when that is."""
    while 0 < (left_s := seconds_left() - margin_s) < math.inf:
        time.sleep(left_s)  # and ask again: an administrator may have raised the limit
    if left_s < math.inf:
        act()


def longest_s(run: Run, plan: Plan, element: int) -> float:
    """How long the longest member of an element took that has ended; 0 before there is one."""
    first = element * plan.per_allocation
    found = 0.0
    for index in range(first, first + plan.per_allocation):
        for attempt in run.member(index).attempts():
            outcome = read_json(attempt.outcome) or {}
            if outcome.get("state") in FINAL and "started" in outcome:
                found = max(found, outcome["ended"] - outcome["started"])
    return found


def fits(longest_s: float, notice_s: int) -> bool:
    """Whether another member, a little longer than the longest so far, ends before the notice."""
    return longest_s * LONGER + notice_s < seconds_left()


def job_state() -> Literal["running", "preempted", "ending", "returning"]:
    """What Slurm does with this job: lets it run, has begun to take its nodes away, ends it for good, or has requeued
    it already.

    Measured: RUNNING throughout the grace time of a preemption, which has a time of its own; COMPLETING at once after
    scancel. Of a job that comes back Slurm says when it was preempted, or counts one restart more than this run of it
    knows.
    """
    try:
        known = described()
    except CommandError:
        return "running"
    preempted = known.get("PreemptTime", "None")
    if known.get("JobState") == "RUNNING":  # times are ISO 8601: an earlier run's preemption was before this start
        return "preempted" if preempted[:1].isdigit() and preempted >= known.get("StartTime", "") else "running"
    requeued = int(known.get("Restarts", "0")) > int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    return "returning" if requeued or preempted[:1].isdigit() else "ending"


def described() -> dict[str, str]:
    """What Slurm says of this job, by names. Raises CommandError."""
    said = output_of(["scontrol", "show", "job", "--oneliner", own_id()], timeout_s=30)
    said, _, _ = said.strip().partition("\n")  # of a heterogeneous job the other components follow
    return dict(word.split("=", 1) for word in said.split() if "=" in word)


def back_to_the_queue(argv: Sequence[str] = ()) -> str:
    """Requeue this job under its own id, or by this command: Slurm then ends this process while it waits here.

    Returns when that did not happen, with what Slurm said.
    """
    said = ""
    for pause_s in REQUEUE_PAUSES_S:
        try:
            output_of(list(argv) or ["scontrol", "requeue", own_id()], timeout_s=60)
        except CommandError as e:
            said = str(e)
            time.sleep(pause_s)
            continue
        time.sleep(REQUEUE_WAIT_S)
        return ""
    return said
