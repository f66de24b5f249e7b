"""Watches one attempt while its ranks run: collects what the program reports, shows that somebody is there, and
stops a trial that will not win. (One that hangs is watchdog.py's.)

A thread of the supervisor, which it never disturbs: what goes wrong here (a full disk, a damaged file) is
printed once and tried again. Whether a trial should stop is sweeps/pruning.py's, what a report is reports.py's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from launchers.errors import SiteError
from launchers.host.reports import Reports, Row, Spool
from launchers.plan import Plan
from launchers.run_folder.record import Attempt, Member, Run, read_json, write_json
from sweeps.trials import Report, Trial

if TYPE_CHECKING:
    from launchers.search.study import Study

PRUNED = "pruned.json"
ALIVE_EVERY_S = 10.0
OTHERS_EVERY_S = 5.0
SHARE = 0.005
"""Of a processor, at most, for judging: what a look at the others or a verdict cost decides when the next one is."""
KILL_AGAIN_S = 30.0
JOIN_S = 60.0
"""A judge that hangs on slow storage, or in scancel, must not hold the allocation for ever."""
MOST_STEPS = 100_000


class Judge:
    """One attempt's."""

    def __init__(
        self, run: Run, plan: Plan, attempt: Attempt, leave: Callable[[], None], kill: Callable[[], None]
    ) -> None:
        """Made before the ranks start: what stands in the program's files by then is not of this attempt.

        `leave` tells the ranks to save and leave, `kill` ends them.
        """
        self._run, self._plan, self._attempt = run, plan, attempt
        self._index = Member(attempt.path.parent).index
        self._leave, self._kill = leave, kill
        self._source: Reports | Spool | None = None
        self._rows: list[Row] = []
        """Heard and not yet looked at."""
        self._trial: Trial | None = None
        self._reports: dict[int, Report] = {}
        self._others: list[Trial] = []
        self._fresh = False
        """Whether there is a report that no verdict has seen."""
        self._why: str | None = None
        self._told = False
        self._alive_at = self._others_at = self._verdict_at = self._kill_at = 0.0
        """When each is due next, by the monotonic clock."""
        self._complained: set[str] = set()
        self.hidden: Sequence[str] = ()
        """What no report may name."""
        self._failed = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="judge", daemon=True)
        self._try(self._open)

    def start(self) -> None:
        """Begin to watch: the ranks run."""
        self._thread.start()

    def finish(self, code: int = 0) -> str:
        """Collect the last reports, when all ranks have left with this status. Returns why the trial was told to
        leave; empty where it was not: it ended by itself.
        """
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join(JOIN_S)
        if self._thread.is_alive():
            self._say(f"the last reports were not collected: the judge hung for {JOIN_S:g} s")
        else:
            self._try(functools.partial(self._listen, last=True, torn=code == 0))
            if isinstance(self._source, Reports) and self._source.passed_over:
                self._say(f"{self._source.passed_over / 1e6:.0f} MB of output were not searched for reports")
        return (self._why or "") if self._told else ""

    def _watch(self) -> None:
        while not self._over.wait(1.0 if self._failed or self._source is None else self._source.pause_s):
            self._failed = False
            for act in (self._beat, self._listen, self._decide, self._insist):
                self._try(act)

    def _try(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as e:  # the main of this thread: whatever it is, training goes on
            self._failed = True
            self._say(f"{type(e).__name__}: {e}")

    def _say(self, text: str) -> None:
        """On the supervisor's own output, and each thing once."""
        if text not in self._complained and len(self._complained) < 100:
            self._complained.add(text)
            print(f"fairlead: member={self._index} attempt={self._attempt.number} judge: {text}", flush=True)

    @functools.cached_property
    def _study(self) -> Study:
        from launchers.search.study import Study

        return Study(self._run)

    @functools.cached_property
    def _prunes(self) -> bool:
        return self._plan.search and self._study.search.pruning is not None

    def _open(self) -> None:
        if self._plan.metrics.kind != "none":
            self._source = Reports(self._plan.metrics, self._attempt)
        else:
            self._source = Spool(self._attempt, self._study.metrics)

    def _beat(self) -> None:
        """The lease of a trial: others take one that is silent for lost, if Slurm agrees."""
        if self._plan.search and time.monotonic() >= self._alive_at:
            (self._attempt.path / "alive").touch()
            self._alive_at = time.monotonic() + ALIVE_EVERY_S

    def _listen(self, last: bool = False, torn: bool = False) -> None:
        if isinstance(self._source, Reports):
            self._source.hidden = self.hidden
        if self._source is None:
            self._open()
        elif (rows := self._source.collect(last, torn)) and self._prunes:
            self._rows = [*self._rows, *rows][-MOST_STEPS:]
        if isinstance(self._source, Reports) and self._source.trouble:
            self._say(self._source.trouble)

    def _decide(self) -> None:
        """Stop the trial if it should be: first a word on disk, which decides also when this process dies now."""
        if not self._prunes or self._told:
            return
        if self._why is None:
            self._why = self._verdict()
        if self._why is not None and not self._over.is_set():
            write_json(self._attempt.path / PRUNED, {"why": self._why, "t": time.time()})
            self._tell(self._why)

    def _tell(self, why: str) -> None:
        self._told, self._kill_at = True, time.monotonic() + self._plan.notice_s
        self._say(f"pruned: {why}")
        self._leave()

    def _insist(self) -> None:
        if self._told and time.monotonic() >= self._kill_at:
            self._kill_at = time.monotonic() + KILL_AGAIN_S
            self._kill()

    def _verdict(self) -> str | None:
        """Why the trial should stop, as far as its reports and the others' are known."""
        from sweeps.pruning import verdict

        trial = self._own()
        now, begun = time.monotonic(), time.thread_time()
        if trial is None or not self._fresh or now < self._verdict_at:
            return None
        if now >= self._others_at:
            self._others_at = now + OTHERS_EVERY_S
            self._others = self._study.trials()
            self._others_at = now + max(OTHERS_EVERY_S, (time.thread_time() - begun) / SHARE)
        self._fresh = False
        why = verdict(self._study.search, self._study.goals[0], trial, self._others)
        self._verdict_at = now + (time.thread_time() - begun) / SHARE
        return why

    def _own(self) -> Trial | None:
        """This trial with all its reports: of earlier attempts from disk, of this one as they came."""
        if not self._rows and self._trial is None:
            return None
        if self._trial is None:
            self._trial = self._study.trial(self._index)
            self._reports = {r.step: r for r in self._trial.reports} if self._trial else {}
        if self._trial is None:
            return None
        if self._rows:
            rows, self._rows = self._rows, []
            for row in rows:
                self._add(row)
            ordered = tuple(self._reports[step] for step in sorted(self._reports))
            self._trial = dataclasses.replace(self._trial, reports=ordered)
        return self._trial

    def _add(self, row: Row) -> None:
        """As Study does: of a step that is said again, the last word counts."""
        said = row["metrics"]
        metrics = {name: float(said[name]) for name in self._study.metrics if name in said}
        step = int(row.get("step") or 0)
        before = self._reports.get(step)
        if metrics and (before or len(self._reports) < MOST_STEPS):
            known = before.metrics if before else {}
            self._reports[step] = Report(step=step, metrics={**known, **metrics}, t=row.get("t"))
            self._fresh = self._fresh or self._study.goals[0].metric in metrics


def why_pruned(member: Member) -> str | None:
    """Why a trial was stopped in one of its attempts; None for one that was not."""
    for attempt in member.attempts():
        path = attempt.path / PRUNED
        if path.exists():
            with contextlib.suppress(SiteError, KeyError, TypeError):
                return str(read_json(path)["why"])
            return "pruned"
    return None


def recover(plan: Plan, attempt: Attempt) -> None:
    """Collect what an attempt said whose supervisor was killed before it could."""
    if plan.metrics.path is None or plan.metrics.kind in (
        "tensorboard",
        "mlflow",
    ):  # else nobody can tell what was said when
        try:
            Reports(plan.metrics, attempt).collect(last=True)
        except (SiteError, OSError, ValueError, KeyError, TypeError) as e:
            print(f"fairlead: attempt={attempt.number}: its last reports cannot be read: {e}", flush=True)
