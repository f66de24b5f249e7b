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
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from launchers.errors import FairleadError
from launchers.host import element, elsewhere, limits
from launchers.host.every_node import remove_folders
from launchers.host.policy import Course, allowed, decided, often_enough, pause_s, suspect
from launchers.host.reserve import free_space
from launchers.host.trying import Try
from launchers.outcome import DONE, EX_TEMPFAIL, FINAL, Outcome, State
from launchers.plan import Plan, plans_from
from launchers.queue.in_pool import Place
from launchers.queue.throttle import pass_on
from launchers.run_folder.record import (
    Attempt,
    Member,
    Run,
    clock_of,
    gave_up,
    last_sign,
    make_private,
    mark_ended,
    read_json,
    rows_of,
    write_json,
)
from launchers.run_folder.saved import Saved, requeues_in_a_row, saved_by
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

    def supervise(self) -> Outcome:
        """Attempts until one is final or has to go back to the queue; none when its search needs no more."""
        try:
            if (done := self._done_before()) is not None:
                return done
            without = self._point()
        except (FairleadError, OSError) as e:
            return self._put_back(e)
        if without is not None:
            return without
        self.began = time.time()  # what it waited for its point is nobody's work
        limits.keep(self.plan, self.began)
        self._settle_predecessor()
        if (lost := self._lost_again()) is not None:
            return self._returned(lost)
        hosts = list[str | None]()
        while True:
            attempt, known = _new_attempt(self.member), saved_by(self.member)
            self._begin(attempt, known)
            self.trying = Try(self.run, self.plan, attempt, self.signals, self.began)
            outcome = self.trying.outcome()
            # Where the attempts ended since the last new checkpoint, this one included.
            hosts = [*([] if saved_by(self.member) - known else hosts), outcome.host]
            if often := allowed(outcome, self.plan.restarts):
                outcome = decided(outcome, often, self._course(hosts, often))
            outcome = self._limited(outcome)
            self._write(attempt, outcome)
            step = step_of(self.plan, self.member.index, attempt.number)
            remove_folders(step.folders, self.plan)  # after the outcome: Slurm may end this process while it cleans
            if outcome.state == "REQUEUED":
                return self._requeue(attempt, outcome)
            if outcome.state != "RESTARTED":
                return outcome
            self._pause(pause_s(len(hosts) - 1))

    def _to_avoid(self, hosts: Sequence[str | None], at_once: bool = False) -> str:
        """The hosts that the job should do without from now on, as one ended each of its last attempts; `at_once`: and
        where it need not wait for another."""
        before = sum(1 for a in self.member.attempts() if (read_json(a.outcome) or {}).get("avoided"))
        host = suspect(hosts)
        if (
            host is None
            or self.plan.launcher != "slurm"
            or self.plan.components
            or before + at_once >= self.plan.restarts.elsewhere  # the last one is for where nothing else helps
        ):
            return ""
        return elsewhere.hosts_to_avoid(host, at_once)

    def _course(self, hosts: Sequence[str | None], often: int) -> Course:
        """How the member has fared; whether it can go elsewhere is asked where it may not be tried here again."""
        on_slurm = self.plan.launcher == "slurm"
        left_s = element.seconds_left() if on_slurm else limits.ends_at(self.plan, self.began) - time.time()
        return Course(
            barren=len(hosts) - 1,
            left_s=left_s,
            notice_s=self.plan.notice_s,
            told=bool(self.signals),
            queue=self._has_a_queue(),
            avoid=self._to_avoid(hosts) if len(hosts) > often else "",
        )

    def _has_a_queue(self) -> bool:
        """Whether there is one to go back to: whoever ends this process on this machine ends its queue."""
        return self.plan.launcher != "local" or "SIGTERM" not in self.signals

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
        """Where this allocation has a host again with which the last attempts were lost: back to the queue without it.
        After the first only if others are free: a queue costs more than a host that fails once more."""
        attempts = self.member.attempts() if self.plan.launcher == "slurm" else []
        outcomes = [read_json(attempt.outcome) or {} for attempt in attempts]
        host, times = elsewhere.lost_again(outcomes)
        if not host:
            return None
        begun = read_json(attempts[-1].path / "started.json") or {}
        if (once := times < elsewhere.LOST_OFTEN) and not elsewhere.is_known(outcomes[-1], begun):
            return None
        if not (avoided := self._to_avoid([host], at_once=once)):
            return None
        others = ",".join(name for name in avoided.split(",") if name != host)
        undo = f"while it waits, `scontrol update JobId={element.own_id()} ExcNodeList={others}` lets it go there again"
        said = f"{host} was lost {times} time(s) in a row, and is avoided from now on; {undo}"
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
        self._begin(attempt, saved_by(self.member))
        outcome = self._limited(lost)
        self._write(attempt, outcome)
        return self._requeue(attempt, outcome) if outcome.state == "REQUEUED" else outcome

    def _begin(self, attempt: Attempt, saved: Saved) -> None:
        """With what is there already: supervisors after this one tell by it whether the attempt has saved anything."""
        self._started = clock_of(attempt.path)
        write_json(attempt.path / "started.json", {**self._place(), "saved": sorted(saved)})

    def _point(self) -> Outcome | None:
        """A member of a search asks for its point. Returns what becomes of it where there is none, or one that cannot
        be trained: never is it trained with another."""
        (row,) = rows_of(self.run, {self.member.index})
        if row.get("late") and not self.member.point.exists():
            from launchers.search.ask import GivesWay, ask  # with all that suggests points: other jobs do without

            try:
                why = ask(self.run, self.plan, self.member.index)
            except GivesWay as e:
                return self._give_way(str(e))
            if why is not None:
                return self._without_a_point(why)
            (row,) = rows_of(self.run, {self.member.index})
        if wrong := row.get("infeasible"):
            said = f"its point cannot be trained: {wrong}"
            return self._returned(Outcome(state="FAILED", cause="infeasible", exit_code=2, message=said))
        return None

    def _without_a_point(self, why: str) -> Outcome:
        print(f"fairlead: member={self.member.index} has no point: {why}", flush=True)
        return Outcome(state="CANCELLED", cause="not_needed", exit_code=0, message=why)

    def _give_way(self, why: str) -> Outcome:
        """Back to the queue behind those that it waits for, as a member that has not begun: no attempt is counted."""
        from launchers.search.ask import give_up

        print(f"fairlead: member={self.member.index} gives its allocation back: {why}", flush=True)
        if self.plan.launcher == "slurm":
            argv = elsewhere.requeue_argv("", self.plan.max_wait_min is not None)
            if said := element.back_to_the_queue(argv):
                return self._without_a_point(
                    give_up(self.run, self.member.index, f"{why}; it could not be requeued: {said}")
                )
        return Outcome(state="REQUEUED", cause="not_needed", exit_code=EX_TEMPFAIL, message=why)

    def _limited(self, outcome: Outcome) -> Outcome:
        """The outcome, or a final one where it may not be requeued again."""
        if outcome.state == "REQUEUED":
            if not self._has_a_queue():
                return dataclasses.replace(outcome, state="CANCELLED", cause="cancelled")
            before = requeues_in_a_row(self.member)
            if before >= self.plan.max_requeues:
                return often_enough(outcome, before, self.plan.max_requeues)
        return outcome

    def _requeue(self, attempt: Attempt, outcome: Outcome) -> Outcome:
        """Back to the queue under the same job id, unless Slurm is ending the job anyhow. On this machine and in a
        held allocation the queue that started this process sees to it (local.py, in_pool.py)."""
        if self.plan.launcher != "slurm":
            return outcome
        argv = elsewhere.requeue_argv(outcome.avoided, self.plan.max_wait_min is not None)
        if element.job_state() in ("running", "preempted") and (said := element.back_to_the_queue(argv)):
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
                begun = read_json(attempt.path / "started.json") or {}
                gone = elsewhere.lost_host(begun) if self.plan.launcher == "slurm" else None
                host = gone or begun.get("host")
                said = f"ended without a word on {host}" if host else "ended without a word"
                said = f"host {gone} was lost" if gone else said
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
        if name == signal.SIGUSR2 and name.name not in self.signals:
            limits.end_after_notice(self.plan, self._kill)
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


def _beside(run: Run, index: int) -> contextlib.AbstractContextManager[None]:
    """What writes TensorBoard's files meanwhile, where the job asks for them."""
    if not (read_json(run.spec).get("tracking") or {}).get("tensorboard"):
        return contextlib.nullcontext()
    from launchers.delivery import board

    return board.beside(run, index)


def run_element(run: Run, plan: Plan, number: int) -> int:
    """The members of an allocation, one after the other; the exit status of the batch step.

    Begins no member that would probably not end in time: the job goes back to the queue instead. Where one got no
    point, none that lacks one asks for it: if it gave up, so do they.
    """
    failed, begun, told, in_vain = False, False, set[str](), -1
    for index in element.waiting(run, plan, number):
        if in_vain >= 0 and not run.member(index).point.exists():
            _give_up_as(run, in_vain, index)
            continue
        if begun and (told or not element.fits(element.longest_s(run, plan, number), plan.notice_s)):
            element.back_to_the_queue()
            return 1
        supervisor, begun = Supervisor(run, plan, index), True
        with _beside(run, index):
            outcome, told = supervisor.supervise(), supervisor.signals
        failed = failed or (outcome.state not in DONE and outcome.cause != "not_needed")
        if (outcome.state, outcome.cause) == ("CANCELLED", "not_needed"):
            in_vain = index
        elif outcome.state in ("REQUEUED", "CANCELLED"):
            break
    return int(failed)


def _give_up_as(run: Run, before: int, index: int) -> None:
    """Where that member gave up, and is not simply needed no more."""
    from launchers.search.ask import give_up

    if said := read_json(gave_up(run, before)):
        give_up(run, index, said["why"])


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
        code = outcome.exit_code if outcome.cause == "not_needed" else int(outcome.state not in DONE)
    if plan.launcher == "slurm":
        pass_on(run, plan)
    return code


if __name__ == "__main__":
    sys.exit(main())
