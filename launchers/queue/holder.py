"""The process that holds an allocation open and runs what is handed to it: `python -m launchers.queue.holder POOL`.

Started by the pool's batch script, again when it was killed. Each job gets a queue of its own (local.py, from the
job's snapshot), which asks for places (places.py) and starts supervisors; each of these ends when its parent does, so
that a new holder finds nothing running, and begins with what was taken and has not ended. Standard library only.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from launchers.command import output_of
from launchers.errors import SiteError
from launchers.queue import scheduler
from launchers.queue.slurm import client_environment
from launchers.run_folder.pool_folder import PoolFolder
from launchers.run_folder.record import make_private, read_json, write_json

POLL_S = 0.05
TRIES = 5
"""A queue that ends badly so often is not started again."""
PAUSE_S = 2.0
LEAVE_S = 3600.0
"""How long the queues are waited for when the allocation ends. Slurm ends it sooner."""
DIES_WITH_US = ("setpriv", "--pdeathsig", "KILL")


class Holder:
    """What runs in one allocation."""

    def __init__(self, pool: PoolFolder) -> None:
        self.pool = pool
        self.queues: dict[str, subprocess.Popen[bytes]] = {}
        self.tries: dict[str, int] = {}
        self.rest_until: dict[str, float] = {}
        self.told: list[signal.Signals] = []
        for number in (signal.SIGUSR2, signal.SIGTERM):
            signal.signal(number, self._on_signal)

    def work(self) -> None:
        """Until the allocation ends, or the user wants its end and nothing runs in it."""
        for folder in (self.pool.inbox, self.pool.taken, self.pool.failed, self.pool.path / "logs"):
            make_private(folder)
        if self.pool.held is None:
            write_json(self.pool.path / "held.json", held_now(self.pool))
        print(f"fairlead: pool {self.pool.id} is up", flush=True)
        while not self.told:
            self._look_after()
            self._take_in()
            self._begin()
            if self.pool.down.exists() and not self.pool.jobs():
                return
            time.sleep(POLL_S)
        self._leave()

    def _take_in(self) -> None:
        """What was handed in. Of a job whose queue is just ending, when it has ended."""
        for path in self.pool.inbox.glob("[!.]*.json"):
            if path.stem not in self.queues:
                path.rename(self.pool.taken / path.name)
                self.tries[path.stem] = 0

    def _begin(self) -> None:
        for path in self.pool.taken.glob("[!.]*.json"):
            if path.stem not in self.queues and time.monotonic() >= self.rest_until.get(path.stem, 0):
                with contextlib.suppress(FileNotFoundError):
                    self.queues[path.stem] = self._queue(read_json(path))

    def _queue(self, asked: dict[str, Any]) -> subprocess.Popen[bytes]:
        run = Path(asked["run_dir"])
        argv = [asked["python"], "-m", "launchers.queue.local", str(run), "--members", asked["members"]]
        env = {**os.environ, "PYTHONPATH": str(run / "code" / "fairlead"), "PYTHONUNBUFFERED": "1"}
        with (run / "logs" / "pool.log").open("ab") as log:
            return subprocess.Popen(
                [*DIES_WITH_US, *argv, "--pool", str(self.pool.path)],
                env=env,
                cwd=run,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def _look_after(self) -> None:
        for job, queue in list(self.queues.items()):
            code = queue.poll()
            if code is None:
                continue
            del self.queues[job]
            if code == 0:
                (self.pool.taken / f"{job}.json").unlink(missing_ok=True)
                continue
            self.tries[job] = self.tries.get(job, 0) + 1
            self.rest_until[job] = time.monotonic() + PAUSE_S
            print(f"fairlead: the queue of {job} ended with {code}, time {self.tries[job]}", flush=True)
            if self.tries[job] >= TRIES:
                (self.pool.taken / f"{job}.json").rename(self.pool.failed / f"{job}.json")

    def _leave(self) -> None:
        """Every queue is told what we were told, until none is left."""
        until, said = time.monotonic() + LEAVE_S, 0
        while self.queues and time.monotonic() < until:
            for number in self.told[said:]:
                said += 1
                for queue in self.queues.values():
                    queue.send_signal(number)
            self.queues = {job: queue for job, queue in self.queues.items() if queue.poll() is None}
            time.sleep(POLL_S)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self.told.append(signal.Signals(number))


def held_now(pool: PoolFolder) -> dict[str, Any]:
    """What this job got, from what Slurm put into its environment."""
    job, asked = os.environ["SLURM_JOB_ID"], pool.asked
    names = output_of(["scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]], timeout_s=30).split()
    cpus = list(_repeated(os.environ["SLURM_JOB_CPUS_PER_NODE"]))
    mem = int(os.environ.get("SLURM_MEM_PER_NODE") or asked["mem_mb"])
    rooms = {n: {"cpus": c, "mem_mb": mem, "gpus": asked["gpus"]} for n, c in zip(names, cpus, strict=True)}
    ends_at = time.time() + asked["time_limit_min"] * 60
    with contextlib.suppress(SiteError, ValueError):
        ends_at = scheduler.ends_at(job, env=client_environment())
    place = {"slurm_job_id": job, "host": socket.gethostname(), "nodes": rooms}
    return {**place, "started": time.time(), "ends_at": ends_at}


def _repeated(text: str) -> Iterator[int]:
    """8(x2),4 is 8, 8, 4 (sbatch(1), SLURM_JOB_CPUS_PER_NODE)."""
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", text):
        yield from [int(count)] * int(times or 1)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Hold an allocation and run what is handed to it.")
    parser.add_argument("pool", type=Path)
    arguments = parser.parse_args(argv)
    os.umask(0o077)
    Holder(PoolFolder(arguments.pool)).work()
    return 0


if __name__ == "__main__":
    sys.exit(main())
