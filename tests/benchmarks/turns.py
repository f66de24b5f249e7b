"""Programs that are compared by turns: all are alive, and one at a time runs, again and again (SIGCONT, SIGSTOP).

What others do to a shared machine within a minute hits all programs alike. What sets one process apart from the next as
long as it lives (where its memory came to lie: some percent) shows where several of each program take part.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.trainer.ranks import Member

WARM_REPORTS = 3
"""Before a program's first turn: its first steps are not like the others."""
START_LIMIT_S = 120.0


@dataclass(frozen=True)
class Turn:
    """When a program ran, and the CPU time of its rank 0 (user and system, all threads)."""

    begin_s: float
    end_s: float
    cpu_s: float


@dataclass(frozen=True)
class Pace:
    """In one turn."""

    steps_per_s: float
    cpu_ms: float
    """Of a step: steadier than the clock where others use the machine too."""


def begin(member: Member) -> float:
    """Start the ranks, and stop them once they have warmed up. Returns the seconds until the end of the first step.

    Raises RuntimeError if they do not get there, with the end of rank 0's log.
    """
    begun = time.time()
    member.start()
    while len(reports(member)) < WARM_REPORTS:
        _living(member)
        if time.time() > begun + START_LIMIT_S:
            raise RuntimeError(f"no steps in {START_LIMIT_S:.0f} s: {member.log()[-2000:]}")
        time.sleep(0.05)
    _tell(member, signal.SIGSTOP)
    first = next(line["t"] for line in member.lines("ledger.jsonl") if line["event"] == "first_step")
    return float(first - begun)


def take(member: Member, seconds: float) -> Turn:
    """Let the ranks run for so long."""
    before, begun = cpu_of(member), time.time()
    _tell(member, signal.SIGCONT)
    time.sleep(seconds)
    _tell(member, signal.SIGSTOP)
    ended = time.time()
    _living(member)
    return Turn(begun, ended, cpu_of(member) - before)


def paces(turns: Sequence[Turn], lines: Sequence[dict[str, Any]]) -> list[Pace]:
    """How fast it went in each turn but the first and the last, in which there are steps that no report tells of.

    A report says how many steps there were until then; between two it goes by the time that the program had.
    """
    ends = np.cumsum([turn.end_s - turn.begin_s for turn in turns])[:-1]
    had = [(_had(line["t"] / 1000, turns), line["step"]) for line in lines if line["t"] / 1000 > turns[0].begin_s]
    assert had[0][0] <= ends[0] and had[-1][0] >= ends[-1], f"turns of {turns[0]} are too short for a report: {had}"
    steps = np.diff(np.interp(ends, *zip(*had, strict=True)))
    return [
        Pace(float(made / seconds), 1000 * turn.cpu_s / float(made))
        for made, seconds, turn in zip(steps, np.diff(ends), turns[1:-1], strict=True)
    ]


def reports(member: Member) -> list[dict[str, Any]]:
    """What rank 0 has written about its steps so far."""
    if not (member.attempt / "metrics.jsonl").exists():
        return []
    return [line for line in member.lines("metrics.jsonl") if "train/loss" in line.get("metrics", ())]


def cpu_of(member: Member) -> float:
    """Seconds of rank 0's threads, user and system (proc_pid_stat(5))."""
    fields = Path(f"/proc/{member.running[0].pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_mb(member: Member) -> float:
    """The most memory that rank 0 has held so far (proc_pid_status(5), VmHWM)."""
    lines = Path(f"/proc/{member.running[0].pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def _had(moment_s: float, turns: Sequence[Turn]) -> float:
    """Seconds that a program had run in its turns until then."""
    return sum(max(0.0, min(moment_s, turn.end_s) - turn.begin_s) for turn in turns)


def _tell(member: Member, number: signal.Signals) -> None:
    for process in member.running:
        os.killpg(process.pid, number)


def _living(member: Member) -> None:
    for rank, process in enumerate(member.running):
        if (code := process.poll()) is not None:
            raise RuntimeError(f"rank {rank} ended with {code}: {member.log(rank)[-2000:]}")
