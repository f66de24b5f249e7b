"""Does an attempt hang? Watches the signs of its ranks while they run, and ends one that gives none for too long.

Our trainer's ranks beat (beats.py), each section with its own limit; any other program shows by its output and its
reports that it lives, where `job.silent_min` asks for that. Before a rank of ours is killed, all of them write their
stacks. A thread of the supervisor, which it never disturbs.
"""

from __future__ import annotations

import dataclasses
import math
import signal
import threading
import time
from collections.abc import Callable, Hashable, Sequence

from conf import job_schema
from launchers.contract import REPORT_FILES
from launchers.errors import FairleadError
from launchers.host import beats, outside
from launchers.host.reserve import why_not_writable
from launchers.outcome import Hung
from launchers.plan import Plan
from launchers.run_folder.beat import beat_of
from launchers.run_folder.record import Attempt

DUMPED_S = 2.0
"""So long ranks may take to write their stacks; most need a millisecond."""
KILL_AGAIN_S = 30.0
LOOK_S = 5.0
"""What one look counts at most as silence: where it took longer, it was us who did not look."""
LOOKS = 20
"""In the shortest limit."""
JOIN_S = 60.0


class Silence:
    """For how long something has looked the same, counted only while somebody looks: not a time in which it could not
    be looked at, or in which this process was stopped as well."""

    def __init__(self) -> None:
        self._seen: Hashable = None
        self._at = math.inf
        self.seconds = 0.0

    def look(self, seen: Hashable) -> float:
        """It looks like this now. Returns for how long it has."""
        now, before, self._at = time.monotonic(), self._at, time.monotonic()
        self.seconds = self.seconds + min(LOOK_S, max(0.0, now - before)) if seen == self._seen else 0.0
        self._seen = seen
        return self.seconds

    def miss(self) -> None:
        """It could not be looked at."""
        self._at = math.inf


class Watchdog:
    """One attempt's."""

    def __init__(
        self, plan: Plan, attempt: Attempt, tell: Callable[[signal.Signals], None], kill: Callable[[], None]
    ) -> None:
        self._plan, self._attempt, self._tell, self._kill = plan, attempt, tell, kill
        self._ranks = plan.ranks
        self._limits = plan.hang
        self._patience_s = math.inf if plan.silent_min is None else 60 * plan.silent_min
        self._beating = Silence()
        self._signs = Silence()
        self._found: Hung | None = None
        self._silent_s = 0.0
        self._said: set[str] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    @property
    def wanted(self) -> bool:
        """Whether there is anything to watch."""
        return self._limits is not None or self._patience_s < math.inf

    @property
    def pause_s(self) -> float:
        """Between two looks: rare on storage that others use too."""
        shortest: float = min([self._patience_s, *(dataclasses.astuple(self._limits) if self._limits else ())])
        return min(LOOK_S, max(0.05, shortest / LOOKS))

    def start(self) -> None:
        """Begin to watch: the ranks run."""
        if self.wanted:
            self._thread.start()

    def finish(self) -> Hung | None:
        """All ranks have left. Returns why they had to, with what they wrote last; None where they left by
        themselves."""
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join(JOIN_S)
        if self._found is None or self._limits is None:
            return self._found
        stacks = beats.keep_stacks(self._attempt.path, self._ranks)  # also what became visible with a rank's end
        outside = beats.seen_from_outside(self._attempt.path, stacks)
        everyone = beats.beats_of(self._attempt.path, self._ranks)
        who = beats.culprit(everyone, stacks, outside)
        why = self._found.why or beats.described(who, self._silent_s, beats.longest(everyone, self._limits))
        return Hung(why, self._found.since, who.rank, who.beat.host, who.stack)

    def _watch(self) -> None:
        while not self._over.wait(self.pause_s):
            try:
                found = self._look()
            except Exception as e:  # the main of this thread: whatever it is, training goes on
                self._signs.miss()
                self._beating.miss()
                self._say(f"{type(e).__name__}: {e}")
                continue
            if found is not None and self._could_be_heard() and not self._over.is_set():
                self._found = found
                return self._end()

    def _look(self) -> Hung | None:
        """Why the attempt hangs; None where it does not."""
        if self._limits is not None and (silent_s := self._without_a_beat(self._limits)):
            self._silent_s = silent_s
            return Hung("", time.time() - silent_s)
        if self._patience_s < math.inf and (silent_s := self._signs.look(self._state())) >= self._patience_s:
            why = f"it printed and reported nothing for {self._patience_s / 60:g} minutes"
            return Hung(why, time.time() - silent_s)
        return None

    def _could_be_heard(self) -> bool:
        """Whether the disk takes a sign at all; while it does not, silence says nothing."""
        if why := why_not_writable(self._attempt.path):
            self._say(f"nobody can say whether it hangs: {why}")
            self._beating, self._signs = Silence(), Silence()
        return not why

    def _without_a_beat(self, limits: job_schema.Hang) -> float:
        """For how long the ranks have been silent that should not be, or 0.

        They wait for each other in every step, so that rank 0 stands for all until it is late; then for the one that
        may take longest, as the others wait for it.
        """
        first = beat_of(self._attempt.beat(0))
        silent_s = self._beating.look(first)
        if silent_s < beats.limit(first, limits).seconds:
            return 0.0
        everyone = beats.beats_of(self._attempt.path, self._ranks)
        return silent_s if silent_s >= beats.longest(everyone, limits).seconds else 0.0

    def _state(self) -> Hashable:
        """What changes while a program prints or reports."""
        folder = self._attempt.path
        names = ("rank-*.log", "metrics.jsonl", "beat-*", *(f"{name}*" for name in REPORT_FILES.values()))
        paths = [path for name in names for path in folder.glob(name)]
        if self._plan.metrics.path is not None:
            paths += [path for path in (folder.parent / self._plan.metrics.path,) if path.exists()]
        states = [path.stat() for path in sorted(paths)]
        return tuple((state.st_size, state.st_mtime_ns) for state in states)

    def _end(self) -> None:
        """Ours are asked for their stacks and killed: ranks that wait for one that hangs cannot save. Any other
        program may save first. Who can give no stack is looked at from outside."""
        self._say("it hangs")
        if self._limits is not None:
            self._from_outside([r for r in range(self._ranks) if not self._attempt.beat(r).exists()])
            self._tell(beats.STACKS)  # which ends one that has no handler for it yet
            until = time.monotonic() + DUMPED_S
            while time.monotonic() < until and self._mute() and not self._over.wait(DUMPED_S / 50):
                pass
            self._from_outside(self._mute())
        else:
            self._from_outside(list(range(self._ranks)))
            self._tell(signal.SIGTERM)
            self._over.wait(self._plan.notice_s)
        while not self._over.is_set():
            self._kill()
            self._over.wait(KILL_AGAIN_S)

    def _mute(self) -> list[int]:
        """Ranks that have not written their stacks, as far as that is visible yet."""
        return [rank for rank in range(self._ranks) if not beats.stacks_of(self._attempt.beat(rank))]

    def _from_outside(self, ranks: Sequence[int]) -> None:
        """Have it written down where these ranks stand, those of which nobody has yet."""
        unknown = [rank for rank in ranks if not (self._attempt.path / f"stacks-{rank}.txt").exists()]
        if unknown and not self._over.is_set():
            try:
                outside.look_everywhere(self._plan, self._attempt.path, unknown)
            except (FairleadError, OSError) as e:
                self._say(f"nobody could look from outside: {e}")

    def _say(self, text: str) -> None:
        """On the supervisor's own output, and each thing once."""
        if text in self._said:
            return
        self._said.add(text)
        member = self._attempt.path.parent.name
        print(f"fairlead: member={member} attempt={self._attempt.number} watchdog: {text}", flush=True)
