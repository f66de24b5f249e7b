"""The replicas of several pools: started together, and at an end when the chief is.

A worker that fails is started again where it was, as often as the job allows, while the others run on. When the
chief has ended, however it did, the others are told by SIGTERM, and ended after a grace time. What one step or one
set of processes is, is ranks.py's.
"""

from __future__ import annotations

import queue
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from launchers.host.ranks import KILL_AFTER_S, NOTICES, Ranks, tail
from launchers.layout import Unit
from launchers.outcome import NODE_FAILURE, way_out
from launchers.run_folder.record import Attempt, append_line

LAST_PAUSE_S = 16.0
GONE_S = 60.0
"""How long a step may take that was killed."""


class Replicas:
    """All pools' units as one to the supervisor."""

    def __init__(
        self, attempt: Attempt, units: Sequence[Unit], begin: Callable[[Unit], Ranks], restarts: int,
        may_restart: Callable[[], bool],
    ) -> None:  # fmt: skip
        """`begin` starts a unit; `restarts` is how often each worker may be started again, and `may_restart` whether
        any may now."""
        self._attempt, self._begin, self._limit, self._may = attempt, begin, restarts, may_restart
        self._units, self._chief = units, units[0]
        self._decided = units[0]
        self._ended: queue.SimpleQueue[tuple[Unit, int | None]] = queue.SimpleQueue()
        """Exit statuses; None where it is time to start a worker again."""
        self._running: dict[str, Ranks] = {}
        self._restarted: dict[str, int] = {}
        self._said: dict[str, str] = {}
        """Of those that have left."""
        self._told = threading.Event()
        self._killed = False
        self.first_rank: int | None = None
        self.blame = self.over_memory = ""
        for unit in units:
            self._start(unit)

    @property
    def said(self) -> str:
        """What Slurm said of the step whose end decided, and of those that lost their host: Slurm ends the others for
        them, whose end may be seen first."""
        decided = self._decided
        lost = [self._said_of(unit) for unit in self._units if unit != decided and self._lost_its_node(unit)]
        printed = tail(self._attempt.path / f"step-{decided.name}.log", 100)
        return "\n".join((self._said_of(decided), *printed, *lost))

    @property
    def offset(self) -> int:
        """The first rank of that step."""
        return self._decided.first_rank

    def processes(self) -> Mapping[int, int]:
        return {rank: pid for ranks in list(self._running.values()) for rank, pid in ranks.processes().items()}

    def tell(self, number: signal.Signals) -> None:
        for ranks in self._to_be_told(number):
            ranks.tell(number)

    def give_notice(self, number: signal.Signals) -> None:
        for ranks in self._to_be_told(number):
            ranks.give_notice(number)

    def _to_be_told(self, number: signal.Signals) -> list[Ranks]:
        if number in NOTICES:
            self._told.set()
        return list(self._running.values())

    def kill(self) -> None:
        self._killed = True
        self._told.set()
        for ranks in list(self._running.values()):
            ranks.kill()

    def end_over_memory(self, rank: int, why: str) -> None:
        unit = next(unit for unit in reversed(self._units) if unit.first_rank <= rank)
        if (ranks := self._running.get(unit.name)) is not None:
            ranks.end_over_memory(rank, why)

    def wait(self) -> int:
        """The chief's exit status, or that of a worker that failed for good."""
        while True:
            unit, code = self._ended.get()
            if code is None:  # here, as a process of this machine dies with the thread that started it
                if not self._told.is_set():
                    self._start(unit)
                continue
            ranks = self._left(unit)
            if unit == self._chief or (code != 0 and self._is_the_end(unit, code)):
                self._decided = unit
                first = ranks.first_rank if ranks is not None else None
                self.first_rank = None if first is None else unit.first_rank + first
                self.over_memory = ranks.over_memory if ranks is not None else ""
                self._end_others()
                return code

    def _is_the_end(self, unit: Unit, code: int) -> bool:
        """Of a worker that failed. Whoever is told to leave may leave as it likes: the chief says how that ended."""
        if self._lost_its_node(unit):
            return True
        if self._told.is_set() or not self._may():
            return False
        before = self._restarted.get(unit.name, 0)
        if before < self._limit:
            self._restarted[unit.name] = before + 1
            self._note(unit, code, before + 1)
            threading.Thread(target=self._later, args=(unit, code, before), daemon=True).start()
            return False
        times = f" {before + 1} times" if before else ""
        self.blame = f"{unit.name} failed{times}, and last {way_out(code)}"
        return True

    def _lost_its_node(self, unit: Unit) -> bool:
        return bool(NODE_FAILURE.search(self._said_of(unit)))

    def _said_of(self, unit: Unit) -> str:
        """Of the last time that it was started."""
        ranks = self._running.get(unit.name)
        return ranks.said if ranks is not None else self._said.get(unit.name, "")

    def _left(self, unit: Unit) -> Ranks | None:
        ranks = self._running.pop(unit.name, None)
        if ranks is not None:
            self._said[unit.name] = ranks.said
        return ranks

    def _later(self, unit: Unit, code: int, before: int) -> None:
        """After a pause, as what is wrong with a worker's place may pass; not when all are told to leave meanwhile."""
        self._ended.put((unit, code if self._told.wait(min(LAST_PAUSE_S, 2.0**before)) else None))

    def _start(self, unit: Unit) -> None:
        ranks = self._begin(unit)
        self._running[unit.name] = ranks
        threading.Thread(target=lambda: self._ended.put((unit, ranks.wait())), name=unit.name, daemon=True).start()
        if self._killed:
            ranks.kill()
        elif self._told.is_set():  # meanwhile, when it could not hear that yet
            ranks.give_notice(signal.SIGTERM)

    def _note(self, unit: Unit, code: int, number: int) -> None:
        row = {"t": time.time(), "replica": unit.name, "exit_code": code, "restart": number}
        append_line(self._attempt.path / "workers.jsonl", row)
        print(f"fairlead: {unit.name} {way_out(code)}, and is started again ({number} of {self._limit})", flush=True)

    def _end_others(self) -> None:
        if self._running:
            self.tell(signal.SIGTERM)
            self._drain(KILL_AFTER_S)
        if self._running:
            self.kill()
            self._drain(GONE_S)

    def _drain(self, limit_s: float) -> None:
        """Until all have left, or that time is over."""
        until = time.monotonic() + limit_s
        while self._running:
            try:
                unit, _ = self._ended.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                return
            self._left(unit)
