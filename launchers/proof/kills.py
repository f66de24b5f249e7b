"""What kills a training run, for a proof: a plan of when and how, and how its ranks are reached.

SIGTERM and SIGUSR2 are the notices that Slurm sends (a preemption, the time limit); SIGKILL of all ranks is everything
that gives none.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from launchers.host.element import steps_of
from launchers.run_folder.record import Attempt, read_json

SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGKILL)


@dataclass(frozen=True)
class Kill:
    """At this step, or as soon after it as it is seen from outside."""

    step: int
    signal: signal.Signals


def planned(count: int, total_steps: int, seed: int) -> list[Kill]:
    """Steps drawn at random, each at most once, in order; the signals take turns."""
    draw = random.Random(seed)
    steps = sorted(draw.sample(range(1, total_steps), min(count, total_steps - 1)))
    turns = itertools.cycle(draw.sample(SIGNALS, len(SIGNALS)))
    return [Kill(step, number) for step, number in zip(steps, turns, strict=False)]


def send(attempt: Attempt, number: signal.Signals) -> None:
    """To all ranks of an attempt that runs; one that has left is no error."""
    begun = read_json(attempt.path / "started.json")
    if job := begun.get("slurm_job_id"):
        _to_job(job, number)
    else:
        _to_processes(int(begun["pid"]), number)


def _to_job(job: str, number: signal.Signals) -> None:
    """The notice before the time limit comes to the batch script, any other signal to the step."""
    name = number.name.removeprefix("SIG")
    where = ["--batch", job] if number == signal.SIGUSR2 else steps_of(job)
    if where:
        subprocess.run(["scancel", f"--signal={name}", *where], timeout=60, check=False, capture_output=True)


def _to_processes(supervisor: int, number: signal.Signals) -> None:
    """The supervisor hands notices on; a kill that nobody announces meets each rank, and what it has started."""
    if number != signal.SIGKILL:
        with contextlib.suppress(ProcessLookupError):
            os.kill(supervisor, number)
        return
    for child in _children(supervisor):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child, number)


def _children(pid: int) -> list[int]:
    """Those that lead a group of their own, as ranks do."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            words = path.read_text().rpartition(")")[2].split()
            if int(words[1]) == pid and words[2] == path.parent.name:
                found.append(int(path.parent.name))
    return found
