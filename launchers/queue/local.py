"""A laptop's queue: runs the members of a job on this machine, a few at a time, then the finish step.

`python -m launchers.queue.local RUN [--members 0,3] [--pool POOL]`: in a session of its own, so that it outlives the
shell that launched it; or inside a held allocation, whose holder starts it (in_pool.py says what is different there).
`start` is what the client calls; how a member runs is supervise.py's.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

from launchers.errors import EXIT_DONE, EXIT_SITE, SiteError
from launchers.parts import numbers, ranges
from launchers.plan import Plan, plans_from
from launchers.process import start_of
from launchers.queue.in_pool import InPool
from launchers.queue.slurm import client_environment, private_variables
from launchers.run_folder.journal import Journal
from launchers.run_folder.pool_folder import PoolFolder
from launchers.run_folder.record import LockBusy, Run, locked, read_json, read_lines, write_json

POLL_S = 0.05
START_LIMIT_S = 60
LOOK_EVERY_S = 2.0
"""How soon members are seen that were added to a running job."""
FINISH_LIMIT_S = 1800
ENDED = signal.SIGUSR1
"""To what delivers beside the queue: no member runs any more, the finish step is due."""


def start(run: Run, plan: Plan, indices: Sequence[int]) -> None:
    """Start the queue of a run, detached from the caller's terminal; returns when it has said that it is there.

    Raises SiteError when it ends or says nothing within START_LIMIT_S.
    """
    _known(run).unlink(missing_ok=True)
    env = {
        **client_environment(secrets=private_variables([plan])),
        "PYTHONPATH": str(run.code / "fairlead"),
        "PYTHONUNBUFFERED": "1",
    }
    members = ranges(indices)
    with (run.logs / "local.log").open("ab") as log:
        queue = subprocess.Popen(
            [plan.python, "-m", "launchers.queue.local", str(run.path.absolute()), "--members", members],
            env=env,
            cwd=run.path,  # as on Slurm; and `-m` would find packages of the caller's folder before ours
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    deadline = time.monotonic() + START_LIMIT_S
    while not _known(run).exists():
        if queue.poll() is not None or time.monotonic() > deadline:
            raise SiteError("the queue of this machine did not start", where=str(run.logs / "local.log"), do="read it")
        time.sleep(POLL_S / 5)


def is_alive(run: Run) -> bool:
    """Whether the queue of a run is still there (the process itself, not one that got its number)."""
    known = read_json(_known(run))
    return known is not None and known["start"] == start_of(known["pid"])


def takes_more(run: Run) -> bool:
    """Whether members that are written into the journal now will be run by the queue that is there.

    The caller holds the journal's lock.
    """
    return is_alive(run) and bool(read_json(_known(run)).get("open"))


def stop(run: Run) -> None:
    """Tell the queue of a run to end."""
    if is_alive(run):
        os.kill(read_json(_known(run))["pid"], signal.SIGTERM)


def _known(run: Run) -> Path:
    """Which process is the queue."""
    return run.path / "runner.json"


class Queue:
    """Members waiting and running on this machine, or in a held allocation."""

    def __init__(self, run: Run, indices: Sequence[int], pool: PoolFolder | None = None) -> None:
        self.run, self.waiting, plans = run, list(indices), plans_from(read_json(run.plan))
        self.plan = plans[0]
        self.places = None if pool is None else InPool(run, plans, pool)
        if self.places is not None:
            self.waiting = self.places.todo(indices)
        self.shapes = _shapes(run)
        self.running: dict[subprocess.Popen[bytes], int] = {}
        self.tried: dict[int, int] = {}
        """How many attempts a member had made when it began its turn."""
        self.leaving = False
        self.seen = {s.intent for s in Journal(run).submissions()}
        self.looked = time.monotonic()
        for number in (signal.SIGTERM, signal.SIGINT, *((signal.SIGUSR2,) if pool else ())):
            signal.signal(number, self._on_signal)

    def work(self) -> None:
        """Until no member is left; then deliver, register and report."""
        self._announce(is_open=True)
        follower = self._module("launchers.delivery.follow", "--watch-pid", str(os.getpid()))
        try:
            while self.waiting or self.running or self._more():
                if time.monotonic() - self.looked > LOOK_EVERY_S:
                    self._look()
                self._see_who_left()
                self._begin()
                time.sleep(POLL_S)
        except BaseException:
            follower.terminate()
            _wait(follower)
            raise
        follower.send_signal(ENDED)
        if _wait(follower, FINISH_LIMIT_S) not in (EXIT_DONE, EXIT_SITE):  # it was still starting, or is broken
            _wait(self._module("launchers.delivery.finish"), FINISH_LIMIT_S)

    def _announce(self, is_open: bool) -> None:
        document = {"pid": os.getpid(), "start": start_of(os.getpid()), "open": is_open}
        write_json(_known(self.run), document)

    def _see_who_left(self) -> None:
        for process, index in list(self.running.items()):
            if (code := process.poll()) is not None:
                del self.running[process]
                if self._comes_back(index, code):
                    begun = bool(self.run.member(index).attempts())  # then others may wait for it
                    self.waiting.insert(0 if begun else len(self.waiting), index)
        if self.places is not None and self.places.is_cancelled() and not self.leaving:
            self._on_signal(signal.SIGTERM, None)
        if self.places is not None and self.leaving and self.waiting:
            self.waiting.clear()
            self.places.nothing_waits()

    def _comes_back(self, index: int, code: int) -> bool:
        """Whether a member that has left waits for another turn: on this machine one that was put back."""
        if self.places is not None:
            return self.places.again(index, self.shapes.get(index, 0), code)
        attempts = self.run.member(index).attempts()
        last = (read_json(attempts[-1].outcome) or {}) if len(attempts) > self.tried[index] else {}
        return bool(last.get("state") == "REQUEUED")

    def _begin(self) -> None:
        while self.waiting and (told := self._told(self.waiting[0])) is not None:
            index = self.waiting.pop(0)
            self.tried[index] = len(self.run.member(index).attempts())
            self.running[self._supervisor(index, told)] = index

    def _told(self, index: int) -> dict[str, str] | None:
        """What the supervisor of the next member is told of its place; None where there is none yet."""
        if self.places is not None:
            return None if self.leaving else self.places.place(index, self.shapes.get(index, 0), len(self.running))
        return {} if len(self.running) < (self.plan.max_parallel or 1) else None

    def _look(self) -> None:
        """Take in members that were added to the job meanwhile."""
        self.looked = time.monotonic()
        for submission in Journal(self.run).submissions():
            if submission.slurm_id and submission.intent not in self.seen:
                self.seen.add(submission.intent)
                self.waiting += submission.indices
                self.shapes = _shapes(self.run)  # they may have come back with another plan

    def _more(self) -> bool:
        """Whether something was added just now; from then on, if not, nothing can be."""
        try:
            with locked(self.run.path / "submit.lock"):
                self._look()
                if not self.waiting:
                    self._announce(is_open=False)
        except LockBusy:
            return True
        return bool(self.waiting)

    def _supervisor(self, index: int, told: Mapping[str, str]) -> subprocess.Popen[bytes]:
        argv = ["--member", str(index), "--shape", str(self.shapes.get(index, 0))]
        return subprocess.Popen(
            [*(self.places.beside if self.places else ()), *self._argv("launchers.host.supervise", *argv)],
            env={**os.environ, **told},
            stdin=subprocess.DEVNULL,
        )

    def _module(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._argv(name, *arguments), stdin=subprocess.DEVNULL)

    def _argv(self, name: str, *arguments: str) -> list[str]:
        return [self.plan.python, "-m", name, str(self.run.path), *arguments]

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self.leaving = True
        for process in list(self.running):
            process.send_signal(signal.SIGTERM if number == signal.SIGINT else number)


def _shapes(run: Run) -> dict[int, int]:
    """The plan of each member whose is not the first."""
    return {row["index"]: row["shape"] for row in read_lines(run.members_file) if row.get("shape")}


def _wait(process: subprocess.Popen[bytes], limit_s: float = 60) -> int:
    """Its exit status; it is ended where it takes longer than that."""
    try:
        return process.wait(limit_s)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Run members of a job on this machine.")
    parser.add_argument("run", type=Path)
    parser.add_argument("--members", required=True)
    parser.add_argument("--pool", type=lambda text: PoolFolder(Path(text)), help="folder of the held allocation")
    arguments = parser.parse_args(argv)
    os.umask(0o077)
    Queue(Run(arguments.run), list(numbers(arguments.members)), arguments.pool).work()
    return 0


if __name__ == "__main__":
    sys.exit(main())
