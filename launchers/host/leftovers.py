"""Which processes of this node belong to a program, and the end of those that outlive it.

Found by a variable that the program starts with and hands on, by the output they still hold, and by descent as it was
seen while they had a parent: one that does away with all three within a second is not found. Where the program leads a
session, guard.py finds all who stay in that. Reads /proc; standard library only, as it runs beside each rank.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

MARK = "FAIRLEAD_PROCESS"
"""Variable with the number and the start of the program's first process: no other has both."""
ROUNDS = 200
"""Looks for processes that were begun while others were ended."""


class Family:
    """The program's processes, its first one among them."""

    def __init__(self, first: int, mark: str, output: int) -> None:
        """`output` is the end of the pipe that the program prints into, or the other one."""
        self._first, self._mark, self._output = first, f"{MARK}={mark}\0".encode(), os.fstat(output).st_ino
        self._own = os.getpid()
        self._group = os.getpgid(first)
        """Of the program; srun gives all ranks of a node the same."""
        self._known: dict[int, str] = {}
        """Their numbers, and when they started."""

    def count(self) -> int:
        """How many there are now, by descent: cheap, and what is seen now is remembered. With others of the program's
        group, who may have lost their parents sooner than anybody looked."""
        there = self._look()
        return len(self._known.keys() | {pid for pid, process in there.items() if process.group == self._group})

    def _look(self) -> dict[int, Process]:
        there = processes()
        there.pop(self._own, None)
        still = (pid for pid, start in self._known.items() if pid in there and there[pid].start == start)
        self._known = descended([self._first, *still], there)
        return there

    def living(self) -> Iterator[int]:
        """All that can be found, each as soon as it is."""
        self._look()
        known = set(self._known)
        yield from known
        yield from (pid for pid in _numbers() if pid not in known and pid != self._own and self._is_ours(pid))

    def end(self) -> int:
        """End every one of them, and return how many there were."""
        return end_all(self.living)

    def end_group(self) -> None:
        """End the program's group with one signal, which no process of it that is being begun escapes (fork(2) sees it
        first, or is seen by it): those that fork faster than they are found, and with srun the node's other ranks."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._group, signal.SIGKILL)

    def _is_ours(self, pid: int) -> bool:
        try:
            with open(f"/proc/{pid}/environ", "rb") as f:  # noqa: PTH123 (without pathlib: a process beside each rank)
                if self._mark in f.read():
                    return True
            return any(os.readlink(f"/proc/{pid}/fd/{fd}") == f"pipe:[{self._output}]" for fd in (1, 2))  # noqa: PTH115
        except OSError:
            return False


def end_all(living: Callable[[], Iterable[int]]) -> int:
    """End all processes that are found, and return how many there were. First each is stopped when it is found, so that
    it begins no other and takes nobody's time."""
    stopped: set[int] = set()
    for _ in range(ROUNDS):
        before = len(stopped)
        for pid in living():
            if pid not in stopped:
                _send(pid, signal.SIGSTOP)
                stopped.add(pid)
        if len(stopped) == before:
            break
    for pid in stopped:
        _send(pid, signal.SIGKILL)
    return len(stopped)


def in_session(leader: int, start: str) -> set[int]:
    """Processes of the session that this one leads, or led before it ended; none where its number is another's now."""
    found = {pid: process for pid, process in processes().items() if process.session == leader}
    return set() if leader in found and found[leader].start != start else set(found)


def start_of(pid: int) -> str | None:
    """When a process started, in clock ticks since boot; None where there is none, or only what its parent has not
    collected. (process.py's, in a process that loads little.)"""
    return process.start if (process := _stat(pid)) else None


class Process(NamedTuple):
    """What proc(5) says of one in its stat."""

    parent: int
    group: int
    session: int
    start: str


def descended(first: Iterable[int], there: Mapping[int, Process]) -> dict[int, str]:
    """Those of these processes that are there, all that they began, and when each started. Pure."""
    children: dict[int, list[int]] = {}
    for pid, process in there.items():
        children.setdefault(process.parent, []).append(pid)
    waiting, found = list(first), dict[int, str]()
    while waiting:
        pid = waiting.pop()
        if pid in there and pid not in found:
            found[pid] = there[pid].start
            waiting += children.get(pid, ())
    return found


def processes() -> dict[int, Process]:
    """Those of this machine, by number; none that has ended."""
    return {pid: process for pid in _numbers() if (process := _stat(pid))}


def _stat(pid: int) -> Process | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as f:  # noqa: PTH123
            fields = f.read().rpartition(b")")[2].split()
    except OSError:
        return None
    if fields[0] in (b"Z", b"X"):
        return None
    parent, group, session = map(int, fields[1:4])
    return Process(parent, group, session, start=fields[19].decode())


def _numbers() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)
