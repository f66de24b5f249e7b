"""Start the ranks of one attempt as processes of this machine, and wait for them.

To the supervisor they are a `Ranks`, as a step of Slurm's is (srun.py): started, told something, waited for. Why they
ended is outcome.py's.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from launchers.host.guard import Guard
from launchers.host.settling import settle
from launchers.layout import Unit
from launchers.plan import PoolPlan
from launchers.run_folder.log_parts import files_of
from launchers.run_folder.record import Attempt
from launchers.step import Step

POLL_S = 0.05
DIES_WITH_US = ("setpriv", "--pdeathsig", "KILL")
"""A rank whose supervisor is killed must not go on writing checkpoints beside the next attempt's (util-linux). In a
container it takes more (guard.py)."""
KILL_AFTER_S = 30.0
NOTICES = (signal.SIGTERM, signal.SIGUSR2)
"""What tells a program to save and leave."""
SETTLED_S = 10.0
"""So long what stands beside the ranks (piped.py) may take to clean up after them; it needs a tenth of that."""


class Ranks(Protocol):
    """The running ranks of one attempt."""

    first_rank: int | None
    """Rank that left first with an error, where that can be seen."""
    blame: str
    """Of several pools: which worker failed for good; empty where none did."""
    over_memory: str
    """Why they were ended for the memory they took, of several pools those that decided; empty where they were not."""

    @property
    def offset(self) -> int:
        """What srun's rank numbers count from."""

    @property
    def said(self) -> str:
        """What Slurm said of them; nothing where they are our own processes."""

    def processes(self) -> Mapping[int, int]:
        """Rank and process of those that run on this machine, where we began them ourselves."""

    def tell(self, number: signal.Signals) -> None:
        """Send every rank a signal; one that is gone already is no error. Whom SIGTERM tells to end is ended
        KILL_AFTER_S later."""

    def give_notice(self, number: signal.Signals) -> None:
        """Likewise, but whoever gives it ends those that stay, when their time is over."""

    def kill(self) -> None:
        """End every rank at once, whatever it is doing; one that is gone already is no error."""

    def end_over_memory(self, rank: int, why: str) -> None:
        """End likewise what was started together with this rank, as its node took too much memory: one worker, or
        all."""

    def wait(self) -> int:
        """Exit status of the whole: 0 when every rank's is, else that of the first that failed."""


class Processes:
    """Ranks as processes of this machine, each leader of its own group."""

    blame = said = over_memory = ""
    offset = 0

    def __init__(
        self, step: Step, attempt: Attempt, env: Mapping[str, str], pool: PoolPlan, unit: Unit | None = None
    ) -> None:
        """All ranks, or those of one unit of several pools, whose rank.sh counts from its first."""
        self.first_rank: int | None = None
        self._ranks: list[subprocess.Popen[bytes]] = []
        self._told: float | None = None
        self._noticed = False
        self._guard = Guard(step.folders) if pool.container is not None else None
        self._folder, self._first = str(attempt.path), unit.first_rank if unit else 0
        count, first = (unit.ranks, unit.first_rank) if unit else (pool.ranks, 0)
        for rank in range(count):
            node, local = divmod(rank, pool.ranks_per_node)
            names = {"RANK": rank, "LOCAL_RANK": local, "WORLD_SIZE": count, "NODE_RANK": node}
            with attempt.rank_log(first + rank).open("ab") as log:
                process = subprocess.Popen(
                    (*DIES_WITH_US, *step.argv),
                    env={**env, **{k: str(v) for k, v in names.items()}},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            self._ranks.append(process)
            if self._guard is not None:
                self._guard.watch(process)

    def processes(self) -> Mapping[int, int]:
        running = ((rank, p.pid) for rank, p in enumerate(self._ranks, self._first) if p.returncode is None)
        return dict(running)

    def tell(self, number: signal.Signals) -> None:
        if number == signal.SIGTERM:
            self._told = self._told or time.monotonic()
        _send(self._ranks, number)

    def give_notice(self, number: signal.Signals) -> None:
        self._noticed = self._noticed or number in NOTICES
        _send(self._ranks, number)

    def kill(self) -> None:
        _send(self._ranks, signal.SIGKILL)

    def end_over_memory(self, rank: int, why: str) -> None:
        self.over_memory = self.over_memory or why
        self.kill()

    def wait(self) -> int:
        """As srun.py's: one rank that leaves with an error takes the others down, after a word of warning. One that has
        saved is none after a notice: who gave that ends those that stay."""
        code = 0
        while running := [p for p in self._ranks if p.poll() is None]:
            code = code or self._first_failure()
            code = 0 if self._noticed and code == os.EX_TEMPFAIL else code
            if code and self._told is None:
                self._told = time.monotonic()
                if not self._noticed:  # who has heard that word already may be saving
                    _send(running, signal.SIGTERM)
            if self._told is not None and time.monotonic() - self._told > KILL_AFTER_S:
                _send(running, signal.SIGKILL)
            time.sleep(POLL_S)
        for process in self._ranks:  # what a rank started and left behind is in its group
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        for rank in range(len(self._ranks)):
            settle(self._folder, self._first + rank, SETTLED_S)
        if self._guard is not None:
            self._guard.finish()
        return code or self._first_failure()

    def _first_failure(self) -> int:
        left = [(rank, int(process.returncode)) for rank, process in enumerate(self._ranks) if process.poll()]
        if not left:
            return 0
        # A rank that a signal killed is why its peers left; one that saved is not why others failed.
        rank, code = min(left, key=lambda one: (one[1] == os.EX_TEMPFAIL, one[1] > 0))
        if self.first_rank is None or self._ranks[self.first_rank].returncode == os.EX_TEMPFAIL:
            self.first_rank = rank
        return code


def _send(ranks: Sequence[subprocess.Popen[bytes]], number: signal.Signals) -> None:
    for process in ranks:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)


def last_lines(log: Path, lines: int = 20) -> list[str]:
    """Of a rank's log, whichever of its files they are in."""
    found: list[str] = []
    for path in reversed(files_of(log)):
        found = [*tail(path, lines), *found][-lines:]
        if len(found) == lines:
            break
    return found


def tail(path: Path, lines: int = 20) -> list[str]:
    """Last lines of a log, whatever bytes it holds and however long they are."""
    try:
        with path.open("rb") as f:
            f.seek(0, os.SEEK_END)
            f.seek(max(0, f.tell() - 64_000))
            text = f.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return []
    return [line[:2000] for line in text.splitlines()[-lines:]]
