"""What state a job and its members are in, put together from files first and one squeue call second.

Terminal truth is outcome.json; the queue explains what has not ended; accounting is asked only about
members that neither explains. Reads only (repair.py mends).
"""

from __future__ import annotations

import contextlib
import datetime
import math
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from launchers.errors import CommandError
from launchers.jobs.trouble import Straggler, began_anew, cannot_save, not_near, straggler
from launchers.outcome import FINAL
from launchers.queue import pool, scheduler
from launchers.queue.handover import queue_is_alive
from launchers.run_folder.changes import Change, changes_of
from launchers.run_folder.journal import Journal, Submission
from launchers.run_folder.record import (
    Attempt,
    Run,
    ended_members,
    members_that_gave_up,
    read_json,
    read_lines,
    started_members,
    with_point,
)

State = Literal[
    "QUEUED",
    "PENDING",
    "RUNNING",
    "SUCCEEDED",
    "PRUNED",
    "FAILED",
    "CANCELLING",
    "CANCELLED",
    "SKIPPED",
    "EXPIRED",
    "PARTIALLY_SUCCEEDED",
]
TERMINAL = ("SUCCEEDED", "PRUNED", "FAILED", "CANCELLED", "SKIPPED", "EXPIRED", "PARTIALLY_SUCCEEDED")
SHOWN_MEMBERS = 20
"""A person reads so many lines; the rest is counted."""
STARTING = ("CONFIGURING", "STAGE_IN")


@dataclass(frozen=True)
class MemberStatus:
    """One member now."""

    index: int
    state: State
    point: Mapping[str, Any]
    """Of a search empty where its progress was not read."""
    attempts: int
    cause: str = ""
    message: str = ""
    step: int | None = None
    total_steps: int | None = None
    metrics: Mapping[str, Any] | None = None
    straggler: Straggler | None = None
    """Of one that runs: a rank that keeps the others waiting."""
    lost: str = ""
    """That it had to begin anew, whenever that was."""


@dataclass(frozen=True)
class JobStatus:
    """A job now."""

    job: str
    state: State
    run_dir: str
    members: tuple[MemberStatus, ...]
    slurm_ids: tuple[str, ...]
    finished: bool
    """Whether the finish step has written its result."""
    reason: str = ""
    launched: float | None = None
    """Seconds since the epoch; None for a folder that does not say."""
    ended: float | None = None
    """When its last member did, of a job that has ended."""
    changes: tuple[Change, ...] = ()
    """What `retry` changed of its members, oldest first."""

    @property
    def counts(self) -> Mapping[str, int]:
        """How many members are in each state."""
        return Counter(m.state for m in self.members)


def status_of(run: Run, *, progress_of: int | None = None, alone: bool = False) -> JobStatus:
    """The status of a job, with one squeue call at most.

    `progress_of` is how many members are looked at closely (steps, metrics, why they failed): running ones first;
    None is all. `alone`: the caller holds the run's change lock, so that nobody is submitting.
    Raises SiteError when Slurm is needed for it and does not answer.
    """
    job = _Job(run, submitting=not alone and run.is_submitting())
    live = job.slurm_states() if job.on_slurm else job.local_states()
    job.look_again(i for i, (state, _) in live.items() if state in TERMINAL)
    states = {i: (job.ended[i][1], "") if i in job.ended else live[i] for i in job.rows}
    chosen = _most_telling(states, progress_of)
    members = tuple(job.member(i, states[i], i in chosen) for i in job.rows)
    ids = tuple(s.slurm_id for s in job.submissions if s.slurm_id and s.kind == "members")
    reason = next((live[m.index][1] for m in members if m.index in live and live[m.index][1]), "")
    return JobStatus(
        job=run.id,
        state=(state := _whole(run, members)),
        run_dir=str(run.path),
        members=members,
        slurm_ids=ids,
        finished=run.result.exists(),
        reason=reason,
        launched=_launched(run),
        ended=_ended(run) if state in TERMINAL else None,
        changes=tuple(changes_of(run, {row["shape"] for row in job.rows.values() if row.get("shape")})),
    )


def _most_telling(states: Mapping[int, tuple[State, str]], count: int | None) -> set[int]:
    """Members whose progress is worth reading first."""
    order = sorted(states, key=lambda i: (states[i][0] not in ("RUNNING", "FAILED"), i))
    return set(order if count is None else order[:count])


class _Job:
    """What the run folder says of all members, read once."""

    def __init__(self, run: Run, submitting: bool) -> None:
        self.run, self.submitting = run, submitting
        plan = read_json(run.plan) or {}
        self.on_slurm, self.in_pool = plan.get("launcher") == "slurm", plan.get("launcher") == "pool"
        self.per_allocation: int = plan.get("per_allocation", 1)
        self.max_wait_min = (plan.get("plans") or [{}])[0].get("max_wait_min")
        self.rows = {row["index"]: row for row in read_lines(run.members_file)}
        self.submissions = Journal(run).submissions()
        self.newest = {i: s for s in self.submissions for i in s.indices}
        """Each member's last submission."""
        self.started = started_members(run)
        self.cancelled_at = run.cancelled_at()
        self.over = read_json(run.path / "study" / "over.json")
        self.ended = final_states(run, self.submissions, self.started)
        self.open = [i for i in self.rows if i not in self.ended]

    def look_again(self, gone: Iterable[int]) -> None:
        """Members that nothing runs any more may have left their outcome while the queue was asked."""
        if missing := set(gone):
            self.started = started_members(self.run)
            ended = final_states(self.run, self.submissions, self.started)
            self.ended |= {i: seen for i, seen in ended.items() if i in missing}

    def member(self, index: int, state: tuple[State, str], closely: bool) -> MemberStatus:
        if index not in self.started:
            return MemberStatus(index, state[0], self.rows[index]["point"], 0, message=state[1])
        if index in self.ended and not closely:  # thousands of them: no folder is opened
            return MemberStatus(index, state[0], self.rows[index]["point"], self.ended[index][0] + 1)
        member, cause, message = self.run.member(index), "", state[1]
        point, attempts = with_point(self.run, self.rows[index])["point"], member.attempts()
        if index in self.ended:
            outcome = read_json(attempts[-1].outcome)
            cause, message = outcome["cause"], outcome["message"]
        seen = {**_progress(attempts), "lost": began_anew(member)} if closely else {}
        if closely and state[0] == "RUNNING":
            seen["straggler"] = straggler(attempts, seen.get("metrics", {}))
            message = message or cannot_save(attempts) or not_near(attempts)
            message = message or (_of_pools(attempts[-1]) if attempts else "")
        if closely and state[0] in ("QUEUED", "PENDING", "RUNNING"):
            message = "; ".join(word for word in (message, _put_back(attempts)) if word)
        return MemberStatus(index, state[0], point, len(attempts), cause, message, **seen)

    def slurm_states(self) -> dict[int, tuple[State, str]]:
        """Members without a final outcome: what the queue says, then accounting, then the journal."""
        if not self.open:
            return {}
        names = [s.intent for s in self.submissions if s.kind == "members" and s.slurm_id]
        states: dict[int, tuple[State, str]] = {}
        for job in scheduler.queue(names) if names else []:
            for index in self.members_of(job.name, job.indices):
                states[index] = self._queued(index, job)
        unexplained = [i for i in self.open if i not in states]
        if self.over:  # elements that found the search over have ended well, and are accounted for as such
            skipped = [i for i in unexplained if not self._has_point(i)]
            states |= {i: ("SKIPPED", self.over["why"]) for i in skipped}
            unexplained = [i for i in unexplained if i not in states]
        waiting = "waits for a place, or for GPU-hours: it is queued again when the others have ended"
        gave_up = members_that_gave_up(self.run)
        states |= {i: ("QUEUED", waiting) for i in unexplained if i in gave_up and not self.cancelled_at}
        unexplained = [i for i in unexplained if i not in states]
        ended = self._accounted(names) if unexplained and names else {}
        for index in unexplained:
            states[index] = ended.get(index) or self._unsubmitted(index)
        return states

    def local_states(self) -> dict[int, tuple[State, str]]:
        """Members without a final outcome: what the queue of this machine, or in a held allocation, does."""
        if not self.open:
            return {}
        alive, run = queue_is_alive(self.run), self.run
        turn = "waits for its turn in the pool" if self.in_pool else "waits for its turn on this machine"
        states: dict[int, tuple[State, str]] = {}
        for index in self.open:
            started = index in self.started and bool(run.member(index).attempts())
            if self.submitting and not alive:
                states[index] = ("QUEUED", "is being started")
            elif alive and run.cancelled.exists():
                states[index] = ("CANCELLING", "")
            elif alive:
                waits = not started or (self.in_pool and _waits(run, index))
                states[index] = ("QUEUED", turn) if waits else ("RUNNING", "")
            else:
                why = "its supervisor is gone" if started else "it was never started"
                states[index] = self._unsubmitted(index, pool.why_gone(run) if self.in_pool else why)
        return states

    def _unsubmitted(self, index: int, why: str = "") -> tuple[State, str]:
        """Nothing runs it and it left no outcome: is it on its way, ended by the user, not needed, or lost?"""
        last = self.newest.get(index)
        if self.submitting and (last is None or last.is_open):
            return "QUEUED", "is being submitted"
        if self.cancelled_at > (last.t if last else 0.0):
            return "CANCELLED", "cancelled by the user"
        if self.over and not self._has_point(index):
            return "SKIPPED", self.over["why"]
        wait_s = 60 * (self.max_wait_min or math.inf)
        if last and last.slurm_id and index not in self.started and time.time() > last.t + wait_s:
            return self._expired(index)  # where no accounting says DEADLINE
        if last is None or last.abandoned:
            why = why or (last.abandoned if last else None) or "the launch was interrupted before it reached Slurm"
        again = f"`fairlead retry {self.run.id}` runs it again"
        return (
            "FAILED",
            f"{(why or 'Slurm no longer knows it, and its supervisor left no outcome').splitlines()[0]}: {again}",
        )

    def _has_point(self, index: int) -> bool:
        return index in self.started and self.run.member(index).point.exists()

    def members_of(self, name: str, indices: Sequence[int]) -> list[int]:
        """Members behind the elements of a Slurm job; all of a submission that has one element."""
        submission = next((s for s in self.submissions if s.intent == name), None)
        if submission is None:
            return []
        elements = {i + submission.offset for i in indices}
        return [i for i in submission.indices if not elements or i // self.per_allocation in elements]

    def _queued(self, index: int, job: scheduler.Queued) -> tuple[State, str]:
        if self.run.cancelled.exists():
            return "CANCELLING", ""
        if job.state == "PENDING":
            return "QUEUED", job.reason
        if self.per_allocation > 1 and (index not in self.started or _waits(self.run, index)):
            return "QUEUED", "waits for its turn in its allocation"
        return ("PENDING" if job.state in STARTING else "RUNNING"), ""

    def _accounted(self, names: Sequence[str]) -> dict[int, tuple[State, str]]:
        """Members that Slurm has let go without an outcome of ours (killed with their supervisor)."""
        since = datetime.datetime.fromtimestamp(min(s.t for s in self.submissions) - 60).strftime("%Y-%m-%dT%H:%M:%S")
        states: dict[int, tuple[State, str]] = {}
        with contextlib.suppress(CommandError):  # a site without accounting
            for job_id, name, state in scheduler.accounted(names, since):
                _, _, array = job_id.partition("_")
                for index in self.members_of(name, tuple(scheduler.indices_of(array))):
                    states[index] = self._expired(index) if state == "DEADLINE" else _ended_state(state)
        return states

    def _expired(self, index: int) -> tuple[State, str]:
        """Slurm gave it up, because it waited for too long."""
        again = f"`fairlead retry {self.run.id}` queues it again"
        limit = f"launcher.max_wait_min is {self.max_wait_min:g}" if self.max_wait_min else "its deadline in Slurm"
        if index in self.started:
            again = f"the job's last step queues it again, or {again.removesuffix(' queues it again')} does"
            return "EXPIRED", f"had begun, went back into the queue and expired there ({limit}): {again}"
        return "EXPIRED", f"did not begin in time ({limit}): {again}"


def final_states(run: Run, submissions: Sequence[Submission], started: Collection[int]) -> dict[int, tuple[int, State]]:
    """Attempt and state of members that have ended; one that was submitted again has not, until it ends again.

    The index of outcomes answers for most; a supervisor that was killed between the outcome and its entry
    there left the outcome itself.
    """
    before: dict[int, int] = {}
    for submission in submissions:
        before.update({int(i): n for i, n in submission.tried.items()})
    found = {i: seen for i, seen in ended_members(run).items() if seen[0] >= before.get(i, 0)}
    for index in set(started) - found.keys():
        attempts = run.member(index).attempts()
        outcome = read_json(attempts[-1].outcome) if len(attempts) > before.get(index, 0) else None
        if outcome and outcome["state"] in FINAL:
            found[index] = (attempts[-1].number, outcome["state"])
    return cast("dict[int, tuple[int, State]]", found)


def _launched(run: Run) -> float | None:
    with contextlib.suppress(KeyError, TypeError, ValueError):
        return datetime.datetime.fromisoformat(read_json(run.provenance)["created"]).timestamp()
    return None


def _ended(run: Run) -> float | None:
    """When the index of outcomes got its last entry, without a look at ten thousand of them."""
    with contextlib.suppress(FileNotFoundError):
        return run.ended.stat().st_mtime
    return run.cancelled_at() or None


def _waits(run: Run, index: int) -> bool:
    attempts = run.member(index).attempts()
    return not attempts or attempts[-1].outcome.exists()


def _progress(attempts: Sequence[Attempt]) -> dict[str, Any]:
    """Last step and metrics that the newest attempt with any wrote."""
    for attempt in reversed(attempts):
        rows = [r for r in read_lines(attempt.metrics) if "metrics" in r]
        rows = rows or [r for r in read_lines(attempt.path / "reports.jsonl") if "metrics" in r]
        if rows:
            metrics = {k: v for row in rows for k, v in row["metrics"].items()}
            return {"step": rows[-1]["step"], "total_steps": rows[-1].get("total_steps"), "metrics": metrics}
    return {}


def _of_pools(attempt: Attempt) -> str:
    """Where the pools of a member run, and which workers had to be started again; empty where it has one."""
    pools = read_json(attempt.path / "pools.json") or []
    again = Counter(row["replica"] for row in read_lines(attempt.path / "workers.jsonl"))
    said = [f"{pool['name']} on {','.join(dict.fromkeys(pool['hosts']))}" for pool in pools]
    return ", ".join(said) + "".join(f"; {name} started again ({n})" for name, n in sorted(again.items()))


def _put_back(attempts: Sequence[Attempt]) -> str:
    """Why a member is tried again: how its last attempt ended; empty for one in its first."""
    for attempt in reversed(attempts[-2:]):
        if outcome := read_json(attempt.outcome):
            return f"tried again after {outcome['cause']}: {outcome['message']}"
    return ""


def _ended_state(state: str) -> tuple[State, str]:
    if state.startswith("CANCELLED"):
        return "CANCELLED", "cancelled in Slurm"
    if state in ("RUNNING", "COMPLETING", "REQUEUED", "PENDING", "SUSPENDED"):
        return "RUNNING", ""
    return "FAILED", f"Slurm says {state}, and its supervisor left no outcome"


def _whole(run: Run, members: Sequence[MemberStatus]) -> State:
    """One word for all members; a pruned one did its work, and one that was not needed counts for nothing."""
    states = {"SUCCEEDED" if m.state == "PRUNED" else m.state for m in members}
    states = states - {"SKIPPED"} or {"CANCELLED"}
    for state in ("CANCELLING", "RUNNING", "PENDING"):
        if state in states:
            return state
    if "QUEUED" in states:
        return "RUNNING" if states & set(TERMINAL) else "QUEUED"
    if len(states) == 1:
        return states.pop()
    if "SUCCEEDED" in states:
        return "PARTIALLY_SUCCEEDED"
    return "FAILED" if "FAILED" in states else "CANCELLED"
