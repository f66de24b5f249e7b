"""Why an attempt ended: evidence becomes a state, a cause and the rank that failed first.

Pure, standard library only. Gathering the evidence is supervise.py's, acting on the outcome too.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

EX_TEMPFAIL = 75
"""Exit status of a program that was told to stop, saved, and wants to go on (sysexits.h)."""
State = Literal["SUCCEEDED", "PRUNED", "FAILED", "CANCELLED", "REQUEUED", "RESTARTED"]
"""REQUEUED goes back to the queue, RESTARTED (policy.py's) runs again on the same nodes; the others are final."""
FINAL = ("SUCCEEDED", "PRUNED", "FAILED", "CANCELLED")
DONE = ("SUCCEEDED", "PRUNED")
"""Ended as it should: a trial that was stopped because it would not win did its work."""

SLURM_SAID = re.compile(r"^(?:slurmstepd|srun|slurmd)[^:]*: .*$", re.MULTILINE)
"""Slurm's own lines, which also land among a rank's; what a program prints decides nothing about the queue."""
DUE_TO = re.compile(r"CANCELLED AT \S+ DUE TO ")
"""slurmstepd names the reason when it ends a job, except where somebody called scancel."""
PREEMPTED = re.compile(r"DUE TO PREEMPTION")
PUT_BACK = re.compile(r"DUE TO JOB REQUEUE")
"""By `scontrol requeue`: an administrator's, as ours is given when the outcome is written."""
TIMED_OUT = re.compile(r"DUE TO TIME LIMIT")
NODE_FAILURE = re.compile(
    r"node fail|Connection reset by peer|Zero Bytes were transmitted|unable to contact|DUE TO NODE"
    r"|Task launch for \S+ failed on node|Timed out waiting for job step to complete",
    re.IGNORECASE,
)
"""The last two where Slurm has not noticed yet that a node is gone, or one on which a rank cannot even be killed."""
LOST_HOST = re.compile(r"Node failure on ([\w.,\[\]-]+)|failed on node ([\w.-]+)")
"""Which one it was, where srun says so."""
OOM_KILL = re.compile(r"oom[-_ ]kill|out of memory|exceeded (?:job |virtual )?memory limit", re.IGNORECASE)
MEMORY_ERROR = re.compile(r"^(?:\S*OutOfMemoryError|MemoryError)\b", re.MULTILINE)
DISK = re.compile(r"No space left on device|Disk quota exceeded|Errno 5\b|Input/output error|os error (?:28|122|5)\b")
"""What a program says whose disk is full or broken. (A read-only one may be a container's, on purpose.)"""
RENDEZVOUS = re.compile(r"^\S*(?:DistNetworkError|DistStoreError)\b|EADDRINUSE", re.MULTILINE)
OURS = re.compile(r"fairlead: (?:\d+ process\(es\) that|output from byte|the output goes on|\d+ bytes of output)")
"""What host/piped.py adds to a log: no program's last word."""
ABORTED = re.compile(r"^srun: Job step aborted|CANCELLED AT ", re.MULTILINE)
"""What srun says of a step that did not end by itself alone, however well its program left."""
OTHER_EXPERIMENT = re.compile("active experiment ID does not match environment run ID")
OTHER_EXPERIMENT_DO = " (give tracking.experiment the name that the program gives mlflow.set_experiment)"
"""MLflow's client, which is in a run of ours already when the program chooses an experiment."""
UNSAVED = "did not save before the time limit"
NO_MEMORY = "{} when the node had no memory left: that is how Linux makes room"
CRASHES = (signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE, signal.SIGSYS)
DEATHS = {**{signal.strsignal(number) or "": int(number) for number in CRASHES}, "Out Of Memory": int(signal.SIGKILL)}
"""srun's words for a task that a signal killed; of the other signals it may be the sender."""
TASK = re.compile(rf"srun: error: (\S+): tasks? (\d+)\S*: (?:Exited with exit code (\d+)|({'|'.join(DEATHS)}))?")
SRUN_ENDS_IT = re.compile(
    r"^(?:srun: (?:forcing job termination|Job step aborted)|fairlead: the others are told)", re.MULTILINE
)
"""From here on tasks were killed by srun, which was told to, or left as they were told (host/srun.py)."""
KILLED_FIRST = frozenset(CRASHES) - {signal.SIGABRT}
"""What a rank that only lost its peers does not die of; NCCL's watchdog aborts it then."""
GO_ON = "fairlead retry {{job}} [KEY=VALUE ...] goes on from the newest checkpoint: {}"
REMEDIES = {
    "hang": "see what it did last (stacks-<rank>.txt of the attempt, or its log); if it may be silent for so long, "
    "raise the limit that is named, for a command job.silent_min",
    "site": "free space where the runs are, or have the disk mended, then: fairlead retry {job}",
    "timeout": GO_ON.format("if it cannot save within its notice, raise job.notice_s or machine.time_limit_min"),
    "preempted": GO_ON.format("raise job.max_requeues, or save more often"),
    "node_failure": GO_ON.format("raise job.max_requeues, or save more often"),
    "out_of_memory": "lower train.batch_size or raise train.accumulate, or raise machine.mem_gb; then launch again",
}
"""Cause -> what to do about it, where there is one answer."""


@dataclass(frozen=True)
class Hung:
    """Why an attempt that gave no sign was ended, and who kept it, where that can be told."""

    why: str
    since: float
    """The last sign, in seconds since the epoch."""
    rank: int | None = None
    host: str | None = None
    stack: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What the supervisor saw of one attempt."""

    exit_code: int
    """Of the step; negative is the signal that ended it, as subprocess has it."""
    signals: frozenset[str] = frozenset()
    """Signals the supervisor itself was sent."""
    pruned: str = ""
    """Why the judge stopped this trial; empty where it did not."""
    hung: Hung | None = None
    """Why the watchdog ended it; None where it did not."""
    over_memory: str = ""
    """Why we ended it for the memory it took; empty where we did not."""
    left: str = ""
    """What our trainer said of how it left; empty where nothing was lost."""
    cancelled: bool = False
    """The user asked for the end with `fairlead cancel`."""
    job_ending: bool = False
    """Slurm itself is ending the job (its state is no longer RUNNING)."""
    preempted: bool = False
    """Slurm has begun to: its grace time runs, and programs that do not listen to SIGTERM die of it."""
    first_rank: int | None = None
    """The rank seen to leave first with an error, where ranks are our own processes."""
    rank_errors: Sequence[Mapping[str, Any]] = ()
    """rank-<r>.error.json of every rank that wrote one, or that was ended for what it had too much of; `left_behind`
    where its program had gone by then, with whatever status."""
    step_text: str = ""
    """What srun said."""
    worker: str = ""
    """Of several pools: which worker failed for good."""
    offset: int = 0
    """What the ranks that srun names count from."""
    resumes: bool = False
    """It has saved since this attempt began, and will go on from there: our trainer."""
    disk: str = ""
    """Why the supervisor could not write where the run is, after the ranks had left."""
    kernel_kills: int = 0
    """How many processes the kernel ended meanwhile, where the ranks ran, as there was no memory left."""
    tails: Mapping[int, Sequence[str]] = field(default_factory=dict)
    """Last lines of each rank's log."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One attempt's end, for outcome.json."""

    state: State
    cause: str
    exit_code: int
    signal: int | None = None
    first_rank: int | None = None
    host: str | None = None
    message: str = ""
    last_lines: tuple[str, ...] = ()
    """Of the rank's log; of one that hung, of its stack."""
    avoided: str = ""
    """Hosts that the job excludes from now on."""
    hung_since: float | None = None
    """The last sign of one that hung, in seconds since the epoch."""


class Task(NamedTuple):
    """A rank as srun saw it leave."""

    host: str | None = None
    rank: int | None = None
    code: int | None = None


def classify(seen: Evidence) -> Outcome:
    """The outcome of an attempt. The first rule that fits decides."""
    if seen.pruned:  # however it left: it was told to
        return Outcome(state="PRUNED", cause="pruned", exit_code=seen.exit_code, message=seen.pruned)
    over = any(error.get("left_behind") for error in seen.rank_errors)
    if seen.exit_code == 0 and seen.hung is None and not seen.job_ending and not over:
        return Outcome(state="SUCCEEDED", cause="succeeded", exit_code=0)
    task = _first_task(seen.step_text, seen.offset)
    first = _first_error(seen)
    rank, host = _who(seen, first, task)
    lines = tuple(seen.tails.get(rank if rank is not None else 0, ()))
    code = task.code or seen.exit_code or int(over)
    seen = replace(seen, exit_code=code)
    state, cause, message = _state_of(seen, first, "\n".join(lines))
    if cause == "node_failure" and (lost := LOST_HOST.search(seen.step_text)):
        rank, host = None, lost[1] or lost[2]  # the first rank that left was told to, for that host's sake
        message = f"host {host} was lost"
    return Outcome(
        state=state,
        cause=cause,
        exit_code=code,
        signal=_signal_of(code),
        first_rank=rank,
        host=host,
        message=message,
        last_lines=seen.hung.stack if seen.hung and seen.hung.stack else lines,
        hung_since=seen.hung.since if seen.hung else None,
    )


def remedy(cause: str | None, job: str) -> str:
    """What to do about a failed attempt of a job; empty where that depends."""
    return REMEDIES.get(cause or "", "").format(job=job)


def _state_of(seen: Evidence, first: Mapping[str, Any], log: str) -> tuple[State, str, str]:
    """`log` is the end of the first rank's log."""
    said = f"{first['type']}: {first['message']}" if first else ""
    slurm = "\n".join((seen.step_text, *SLURM_SAID.findall(log)))
    died = said if first.get("cause") == "crash" else way_out(seen.exit_code)
    noticed, preempted = "SIGUSR2" in seen.signals, seen.preempted or PREEMPTED.search(slurm)
    out_of_memory = first.get("cause") == "out_of_memory" or OOM_KILL.search(slurm) or MEMORY_ERROR.search(log)
    rules: tuple[tuple[object, State, str, str], ...] = (
        (seen.cancelled, "CANCELLED", "cancelled", "cancelled by the user"),
        (seen.job_ending and not DUE_TO.search(slurm), "CANCELLED", "cancelled", "cancelled in Slurm"),
        (seen.over_memory, "FAILED", "out_of_memory", seen.over_memory),
        (seen.hung and not NODE_FAILURE.search(slurm), "FAILED", "hang", seen.hung.why if seen.hung else ""),
        (seen.exit_code == EX_TEMPFAIL and noticed, "REQUEUED", "timeout", seen.left or "saved before the time limit"),
        (seen.exit_code == EX_TEMPFAIL, "REQUEUED", "preempted", seen.left or "saved when told to leave"),
        (preempted, "REQUEUED", "preempted", "ended by preemption before it could save"),
        (PUT_BACK.search(slurm), "REQUEUED", "preempted", "put back into the queue in Slurm before it could save"),
        (out_of_memory, "FAILED", "out_of_memory", said or _memory_said(slurm, log)),
        (_starved(seen, first), "FAILED", "out_of_memory", NO_MEMORY.format(died)),
        (disk := _disk_said(seen, first, log), "FAILED", "site", said if first else disk),
        (noticed and seen.resumes and not TIMED_OUT.search(slurm), "REQUEUED", "timeout", f"{UNSAVED}, but earlier"),
        (noticed or TIMED_OUT.search(slurm), "FAILED", "timeout", UNSAVED),
        (NODE_FAILURE.search(slurm), "REQUEUED", "node_failure", "a node was lost"),
        (seen.worker, "FAILED", "worker", seen.worker),
        (_crashed(seen, first), "FAILED", "crash", died),
        (_is_rendezvous(first, log), "FAILED", "rendezvous", said or "the ranks did not find each other"),
    )
    for fits, state, cause, message in rules:
        if fits:
            return state, cause, message
    said = said or _last_word(log) or way_out(seen.exit_code)
    return "FAILED", "user_error", said + OTHER_EXPERIMENT_DO if OTHER_EXPERIMENT.search(said) else said


def way_out(code: int) -> str:
    """How a program left that said nothing."""
    number = _signal_of(code)
    return f"exited with status {code}" if number is None else f"killed by signal {number} ({signal.strsignal(number)})"


def _is_rendezvous(first: Mapping[str, Any], log: str) -> bool:
    return first.get("cause") == "rendezvous" or (not first and bool(RENDEZVOUS.search(log)))


def _disk_said(seen: Evidence, first: Mapping[str, Any], log: str) -> str:
    """What speaks for a full or broken disk; a rank that could still write why it died knows better."""
    if first:
        return "its rank says so" if first.get("cause") == "site" else ""
    line = next((line.strip() for line in reversed(log.splitlines()) if DISK.search(line)), "")
    return seen.disk or line[:500]


def _first_error(seen: Evidence) -> Mapping[str, Any]:
    """The earliest error a rank wrote itself; one that is not just the echo of a lost peer, if there is one."""
    errors = sorted(seen.rank_errors, key=lambda e: (e.get("cause") == "rendezvous", e.get("t", 0)))
    return errors[0] if errors else {}


def _who(seen: Evidence, first: Mapping[str, Any], task: Task) -> tuple[int | None, str | None]:
    """The rank that is to blame, and its host. One that says it lost its peers is not, where another left before."""
    if seen.hung is not None:
        return seen.hung.rank, seen.hung.host
    left = (task.rank, task.host) if task.rank is not None else (seen.first_rank, None)
    if first and (first.get("cause") != "rendezvous" or left[0] is None):
        return first.get("rank", left[0]), first.get("host") or left[1]
    return left


def _crashed(seen: Evidence, first: Mapping[str, Any]) -> bool:
    """Whether a rank was killed by what nobody meant for it: it left no error of its own, its peers at most lost it.
    Or a process that reads for one, as that one says."""
    alone = not first or first.get("cause") == "rendezvous"
    killed = _signal_of(seen.exit_code) in CRASHES and alone
    return (killed or first.get("cause") == "crash") and not seen.signals


def _memory_said(slurm: str, log: str) -> str:
    return _line_with(OOM_KILL, slurm) or _last_word(log) or "out of memory"


def _starved(seen: Evidence, first: Mapping[str, Any]) -> bool:
    """Whether it was most likely the kernel that killed it: it kills so, and it killed somebody meanwhile."""
    so = _signal_of(seen.exit_code) == signal.SIGKILL or first.get("cause") == "crash"
    return seen.kernel_kills > 0 and so and _crashed(seen, first)


def _signal_of(code: int) -> int | None:
    """The signal that an exit status tells of; of a shell or a container it is 128 and the signal."""
    return -code if code < 0 else code - 128 if 128 < code < 160 else None


def tasks_of(said: str) -> list[Task]:
    """Ranks that left with an error, in the order in which srun told of them; of several in a line the first."""
    return [
        Task(host, int(rank), int(code) if code else -DEATHS[death] if death else None)
        for host, rank, code, death in TASK.findall(said)
    ]


def _first_task(step_text: str, offset: int) -> Task:
    """The first rank that srun saw leave: the others are taken down for it, and srun itself exits with the highest
    code, which is often theirs (143). A rank that was killed may be seen after a peer that lost it."""
    by_itself = tasks_of(SRUN_ENDS_IT.split(step_text)[0])
    first = next(iter(by_itself or tasks_of(step_text)), Task())
    killed = (task for task in by_itself if task.code is not None and _signal_of(task.code) in KILLED_FIRST)
    found = first if first.code == EX_TEMPFAIL else next(killed, first)
    return found if found.rank is None else found._replace(rank=offset + found.rank)


def _line_with(what: re.Pattern[str], text: str) -> str:
    return next((line.strip()[:500] for line in text.splitlines() if what.search(line)), "")


def _last_word(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip() and not OURS.match(line)]
    return lines[-1][:500] if lines else ""
