"""The host side of a member: one attempt after the other, until there is nothing more to try.

Runs as the batch step on Slurm and as a process on a laptop: `python -m launchers.host.supervise RUN [--member K]`.
Finds its member, asks for its point, relays signals, writes outcome.json, starts again, requeues. How one attempt is
run is trying.py's. Standard library only, from the run's own snapshot.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import math
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from launchers.errors import FairleadError
from launchers.host import element, elsewhere, held, limits
from launchers.host.policy import Course, allowed, decided, pause_s, suspect
from launchers.host.ranks import remove_folders
from launchers.host.reserve import free_space
from launchers.host.trying import Try
from launchers.outcome import DONE, FINAL, Outcome, State
from launchers.plan import Plan, plans_from
from launchers.queue.in_pool import Place
from launchers.queue.throttle import pass_on
from launchers.run_folder.record import (
    Attempt,
    Member,
    Run,
    clock_of,
    last_sign,
    make_private,
    mark_ended,
    read_json,
    rows_of,
    write_json,
)
from launchers.step import step_of

RELAYED = (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)


class Supervisor:
    """One member's life on this host."""

    def __init__(self, run: Run, plan: Plan, index: int) -> None:
        self.run, self.plan, self.member = run, plan, run.member(index)
        self.signals: set[str] = set()
        self.trying: Try | None = None
        self.began = time.time()
        for number in RELAYED:
            signal.signal(number, self._on_signal)
        if plan.launcher == "pool":
            held.notice_later(plan)

    def supervise(self) -> Outcome:
        """Attempts until one is final or has to go back to the queue; none when its search needs no more."""
        try:
            if (done := self._done_before()) is not None:
                return done
            why = self._point()
        except (FairleadError, OSError) as e:
            return self._put_back(e)
        if why is not None:
            print(f"fairlead: member={self.member.index} has no point: {why}", flush=True)
            return Outcome(state="CANCELLED", cause="not_needed", exit_code=0, message=why)
        self._settle_predecessor()
        if (lost := self._lost_again()) is not None:
            return self._returned(lost)
        hosts = list[str | None]()
        while True:
            attempt, known = _new_attempt(self.member), _checkpoints(self.member)
            self._begin(attempt)
            self.trying = Try(self.run, self.plan, attempt, self.signals)
            outcome = self.trying.outcome()
            # Where the attempts ended since the last new checkpoint, this one included.
            hosts = [*([] if _checkpoints(self.member) - known else hosts), outcome.host]
            if often := allowed(outcome, self.plan.restarts):
                outcome = decided(outcome, often, self._course(hosts, often))
            outcome = self._limited(outcome)
            self._write(attempt, outcome)
            step = step_of(self.plan, self.member.index, attempt.number)
            remove = held.remove_folders if self.plan.launcher == "pool" else remove_folders
            remove(step.folders, self.plan)  # after the outcome: Slurm may end this process while it cleans
            if outcome.state == "REQUEUED":
                return self._requeue(attempt, outcome)
            if outcome.state != "RESTARTED":
                return outcome
            self._pause(pause_s(len(hosts) - 1))

    def _to_avoid(self, hosts: Sequence[str | None]) -> str:
        """The hosts that the job should do without from now on, as one ended each of its last attempts."""
        before = sum(1 for a in self.member.attempts() if (read_json(a.outcome) or {}).get("avoided"))
        host = suspect(hosts)
        if (
            host is None
            or self.plan.launcher != "slurm"
            or self.plan.components
            or before >= self.plan.restarts.elsewhere
        ):
            return ""
        return elsewhere.hosts_to_avoid(host)

    def _course(self, hosts: Sequence[str | None], often: int) -> Course:
        """How the member has fared; whether it can go elsewhere is asked where it may not be tried here again."""
        launcher, left_s = self.plan.launcher, math.inf
        if launcher == "slurm":
            left_s = element.seconds_left()
        elif launcher == "pool":
            left_s = limits.ends_at(self.plan, self.began) - time.time()
        return Course(
            barren=len(hosts) - 1,
            left_s=left_s,
            notice_s=self.plan.notice_s,
            told=bool(self.signals),
            queue=launcher != "local",
            avoid=self._to_avoid(hosts) if len(hosts) > often else "",
        )

    def _pause(self, seconds: float) -> None:
        """Unless somebody asks for the end meanwhile: then the ranks are told when they have started."""
        until = time.monotonic() + seconds
        while not self.signals and not self.run.cancelled.exists() and time.monotonic() < until:
            time.sleep(0.1)

    def _done_before(self) -> Outcome | None:
        """How this very job has ended already, where Slurm runs it once more because its node was lost afterwards."""
        if self.plan.launcher != "slurm" or not (attempts := self.member.attempts()):
            return None
        begun = read_json(attempts[-1].path / "started.json") or {}
        said = read_json(attempts[-1].outcome) or {}
        if said.get("state") not in DONE or begun.get("slurm_job_id") != os.environ.get("SLURM_JOB_ID"):
            return None
        mark_ended(self.run, self.member.index, attempts[-1].number, said["state"])
        print(f"fairlead: member={self.member.index} has ended before: {said['state']}", flush=True)
        return Outcome(state=said["state"], cause=said["cause"], exit_code=0, message=said["message"])

    def _lost_again(self) -> Outcome | None:
        """Where this allocation has a host again that was lost in the last attempts: back to the queue without it."""
        outcomes = [read_json(attempt.outcome) or {} for attempt in self.member.attempts()]
        host = elsewhere.lost_again(outcomes) if self.plan.launcher == "slurm" else None
        avoided = self._to_avoid([host]) if host else ""
        if not avoided:
            return None
        said = f"{host} was lost in the last {elsewhere.LOST_OFTEN} attempts, and is avoided from now on"
        lost = Outcome(state="REQUEUED", cause="node_failure", exit_code=1, message=said, host=host, avoided=avoided)
        return lost if self._limited(lost).state == "REQUEUED" else None  # rather there than nowhere

    def _put_back(self, error: Exception) -> Outcome:
        """A member that could not ask for its point is asked to run again, as often as its job may."""
        state: State = "REQUEUED" if self.plan.launcher != "local" else "FAILED"
        lost = Outcome(state=state, cause="site", exit_code=3, message=str(error), host=socket.gethostname())
        return self._returned(lost)

    def _returned(self, lost: Outcome) -> Outcome:
        """An attempt that starts no ranks."""
        attempt = _new_attempt(self.member)
        self._begin(attempt)
        outcome = self._limited(lost)
        self._write(attempt, outcome)
        return self._requeue(attempt, outcome) if outcome.state == "REQUEUED" else outcome

    def _begin(self, attempt: Attempt) -> None:
        self._started = clock_of(attempt.path)
        write_json(attempt.path / "started.json", self._place())

    def _point(self) -> str | None:
        """A member of a search asks for its point. Returns why there is none."""
        (row,) = rows_of(self.run, {self.member.index})
        if not row.get("late") or self.member.point.exists():
            return None
        from launchers.search.ask import ask  # with all that suggests points, which other jobs do without

        return ask(self.run, self.plan, self.member.index)

    def _limited(self, outcome: Outcome) -> Outcome:
        """The outcome, or a final one where it may not be requeued again."""
        if outcome.state == "REQUEUED":
            before = sum(1 for a in self.member.attempts() if (read_json(a.outcome) or {}).get("state") == "REQUEUED")
            if self.plan.launcher == "local":
                return dataclasses.replace(outcome, state="CANCELLED", cause="cancelled")
            if before >= self.plan.max_requeues:
                said = (
                    f"{outcome.message}; job.max_requeues is {self.plan.max_requeues}, and it was requeued that often"
                )
                return dataclasses.replace(outcome, state="FAILED", message=said)
        return outcome

    def _requeue(self, attempt: Attempt, outcome: Outcome) -> Outcome:
        """Back to the queue under the same job id, unless Slurm is ending the job anyhow. In a held allocation the
        queue that started this process sees to it (in_pool.py)."""
        if self.plan.launcher == "pool":
            return outcome
        argv = elsewhere.requeue_argv(outcome.avoided, self.plan.max_wait_min is not None)
        if element.job_state() == "running" and (said := element.back_to_the_queue(argv)):
            outcome = dataclasses.replace(outcome, state="FAILED", message=f"could not be requeued: {said}")
            self._write(attempt, outcome)
        return outcome

    def _settle_predecessor(self) -> None:
        """Say what became of an attempt whose supervisor died with its node."""
        for attempt in self.member.attempts():
            if not attempt.outcome.exists():
                ended = last_sign(attempt)
                if self.plan.metrics.kind != "none":
                    from launchers.host.judge import recover

                    recover(self.plan, attempt)
                host = (read_json(attempt.path / "started.json") or {}).get("host")
                said = f"ended without a word on {host}" if host else "ended without a word"
                lost = Outcome(state="REQUEUED", cause="node_failure", exit_code=1, message=said, host=host)
                write_json(attempt.outcome, {**dataclasses.asdict(lost), "ended": ended})

    def _place(self) -> dict[str, Any]:
        names = (
            "SLURM_JOB_ID",
            "SLURM_ARRAY_JOB_ID",
            "SLURM_ARRAY_TASK_ID",
            "SLURM_RESTART_COUNT",
            "SLURM_JOB_NODELIST",
        )
        place: dict[str, Any] = {
            name.lower(): os.environ[name] for name in names if name in os.environ and self.plan.launcher == "slurm"
        }
        if self.plan.launcher == "pool":
            given = Place.given()
            place = {"pool": given.pool, "slurm_job_id": given.job, "nodes": given.nodes}
        return {"host": socket.gethostname(), "pid": os.getpid(), "started": self._started, **place}

    def _write(self, attempt: Attempt, outcome: Outcome) -> None:
        free_space(attempt.path)
        document = {**dataclasses.asdict(outcome), "started": self._started, "ended": clock_of(attempt.path)}
        write_json(attempt.outcome, document)
        if outcome.state in FINAL:
            mark_ended(self.run, self.member.index, attempt.number, outcome.state)
        print(
            f"fairlead: member={self.member.index} attempt={attempt.number} {json.dumps(document)}",
            flush=True,
        )

    def _kill(self) -> None:
        if self.trying is not None:
            self.trying.kill()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        name = signal.Signals(number)
        if name == signal.SIGUSR2 and name.name not in self.signals and self.plan.launcher == "pool":
            held.later(limits.after_notice_s(self.plan), self._kill)
        if name == signal.SIGUSR2 and name.name not in self.signals and self.plan.launcher == "slurm":
            cut_s = limits.cut_s(self.plan.notice_s)
            threading.Thread(target=element.before_the_limit, args=(cut_s, self._kill), daemon=True).start()
        self.signals.add("SIGTERM" if name == signal.SIGINT else name.name)
        if self.trying is not None and not (self.plan.launcher == "slurm" and name != signal.SIGUSR2):
            self.trying.tell(name)


def _new_attempt(member: Member) -> Attempt:
    """The next number, claimed by making its folder."""
    make_private(member.path)
    number = max((a.number for a in member.attempts()), default=-1) + 1
    path = member.path / f"attempt-{number}"
    path.mkdir(mode=0o700)
    return Attempt(path)


def _checkpoints(member: Member) -> frozenset[tuple[str, int]]:
    """What a member has saved: names and times, without what is not whole."""
    found = set()
    with contextlib.suppress(FileNotFoundError):
        for path in member.checkpoints.iterdir():
            if not path.name.startswith(".") and ".tmp." not in path.name and not path.name.endswith(".damaged"):
                with contextlib.suppress(FileNotFoundError):
                    found.add((path.name, path.stat().st_mtime_ns))
    return frozenset(found)


def _beside(run: Run, index: int) -> contextlib.AbstractContextManager[None]:
    """What writes TensorBoard's files meanwhile, where the job asks for them."""
    if not (read_json(run.spec).get("tracking") or {}).get("tensorboard"):
        return contextlib.nullcontext()
    from launchers.delivery import board

    return board.beside(run, index)


def run_element(run: Run, plan: Plan, number: int) -> int:
    """The members of an allocation, one after the other; the exit status of the batch step.

    Begins no member that would probably not end in time: the job goes back to the queue instead.
    """
    failed, begun, told = False, False, set[str]()
    for index in element.waiting(run, plan, number):
        if begun and (told or not element.fits(element.longest_s(run, plan, number), plan.notice_s)):
            element.back_to_the_queue()
            return 1
        supervisor, begun = Supervisor(run, plan, index), True
        with _beside(run, index):
            outcome, told = supervisor.supervise(), supervisor.signals
        failed = failed or (outcome.state not in DONE and outcome.cause != "not_needed")
        if outcome.state in ("REQUEUED", "CANCELLED"):
            break
    return int(failed)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Supervise the members of an allocation on this host.")
    parser.add_argument("run", type=Path)
    parser.add_argument("--element", type=int, help="number of the allocation (default: the array's index + offset)")
    parser.add_argument("--offset", type=int, default=0)
    parser.add_argument("--shape", type=int, default=0, help="which of the job's plans")
    parser.add_argument("--member", type=int, help="this member alone")
    arguments = parser.parse_args(argv)
    os.umask(0o077)
    run = Run(arguments.run)
    plan = plans_from(read_json(run.plan))[arguments.shape]
    number = arguments.element
    if number is None:
        number = int(os.environ.get("SLURM_ARRAY_TASK_ID", "0")) + arguments.offset
    if plan.per_allocation > 1 and arguments.member is None:
        code = run_element(run, plan, number)
    else:
        index = number if arguments.member is None else arguments.member
        with _beside(run, index):
            outcome = Supervisor(run, plan, index).supervise()
        code = int(outcome.state not in DONE and outcome.cause != "not_needed")
    if plan.launcher == "slurm":
        pass_on(run, plan)
    return code


if __name__ == "__main__":
    sys.exit(main())
