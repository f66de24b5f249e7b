"""A look at some steps with torch.profiler, on the ranks that were asked to (train.profile).

profile/rank-<r>.trace.json.gz   a trace of each such rank, for ui.perfetto.dev or chrome://tracing
profile/summary.md, .json        what bounds the run (profile_page.py), of the attempt so far; anew at its end

Nothing here is imported unless it is asked for, and nothing that goes wrong here ends a run.
"""

from __future__ import annotations

import logging
import os
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function, schedule

from conf.train_schema import Profile
from trainer.durable import write_json
from trainer.insight import profile_page
from trainer.insight.bottleneck import SECTION, SEPARATE, Event
from trainer.insight.profile_page import Measured, Seen
from trainer.insight.spool import Ledger

if TYPE_CHECKING:
    from trainer.data.feed import Batch
    from trainer.loop import Run

log = logging.getLogger(__name__)


class Profiler:
    """Every rank has one, and calls every method at the same step; those that were not asked only count."""

    def __init__(self, wanted: Profile, rank: int, attempt: Path) -> None:
        self.wanted, self.rank, self.folder = wanted, rank, attempt / "profile"
        self.looks = wanted.ranks == "all" or rank in wanted.ranks
        self.steps, self.begun_s, self.lasted_s, self.aside_s = 0, 0.0, 0.0, 0.0
        self.sections = Sections()
        self._profile: Any = None
        self._seen: Seen | None = None

    def begin(self, run: Run, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The same batches, with the wait for each measured; from here on steps are counted."""
        run.ledger = Marks(run.ledger, self.sections)
        self.begun_s = time.perf_counter()
        self._act(run)
        return self._timed(batches)

    def step(self, run: Run) -> None:
        """A step has been made, and reported, evaluated and saved."""
        self.steps += 1
        self.lasted_s = time.perf_counter() - self.begun_s - self.aside_s
        self._act(run)

    def end(self, run: Run) -> None:
        """Write the summary anew: now it is known what the whole attempt took."""
        wait, warmup = self.wanted.wait, self.wanted.warmup
        if self.steps <= wait + warmup:
            if self.rank == 0:
                log.warning(
                    "no profile: %d steps were made, and it begins after %d (train.profile.wait, warmup)",
                    self.steps,
                    wait + warmup,
                )
        elif self.steps < wait + warmup + self.wanted.active:
            self._look_back(run)
        else:
            self._report(run)

    def _act(self, run: Run) -> None:
        begin = self.wanted.wait
        end = begin + self.wanted.warmup + self.wanted.active
        if not begin <= self.steps <= end:
            return
        begun = time.perf_counter()
        with run.clock.stopped():
            run.ledger.beat.begin("profile")
            if self.looks and self.steps == begin:
                self._start(run)
            elif self._profile is not None:
                with _harmless("the profiler of rank %d stopped", self.rank):
                    self._profile.step()
            if self.steps == end:
                self._look_back(run)
            run.ledger.beat.begin("train")
        self.aside_s += time.perf_counter() - begun

    def _start(self, run: Run) -> None:
        kinds = {ProfilerActivity.CPU} | ({ProfilerActivity.CUDA} if torch.cuda.is_initialized() else set())
        plan = schedule(wait=0, warmup=self.wanted.warmup, active=self.wanted.active, repeat=1)
        with _harmless("rank %d cannot be profiled", self.rank):
            made = profile(activities=kinds, schedule=plan, on_trace_ready=lambda p: self._take(p, run))
            made.start()
            self._profile = made

    def _take(self, traced: Any, run: Run) -> None:
        """What the profiler saw, as a file and as what it comes to."""
        with _harmless("rank %d was profiled in vain", self.rank):
            self.folder.mkdir(exist_ok=True)
            name = f"rank-{self.rank}.trace.json.gz"
            aside = self.folder / f".{os.getpid()}.{name}"
            traced.export_chrome_trace(str(aside))
            aside.replace(self.folder / name)
            first = run.first_step + self.wanted.wait + self.wanted.warmup + 1
            self._seen = Seen.of(self.rank, (first, run.first_step + self.steps), events_of(traced))

    def _look_back(self, run: Run) -> None:
        if self._profile is not None:
            with _harmless("the profiler of rank %d did not stop", self.rank):
                self._profile.stop()
            self._profile = None
        self._report(run, aloud=True)

    def _report(self, run: Run, aloud: bool = False) -> None:
        """Rank 0 writes what all of them saw."""
        measured = Measured(self.steps, self.lasted_s, dict(self.sections.seconds))
        told = run.group.gather((self._seen, measured))
        if self.rank == 0:
            with _harmless("the summary of the profile was not written (rank %d)", self.rank):
                self._write(run, told, aloud)

    def _write(self, run: Run, told: Sequence[tuple[Seen | None, Measured]], aloud: bool) -> None:
        found = profile_page.summary(told, run.spec, run.training.spare_cores)
        if found is None:
            log.warning("no profile: torch.profiler saw no step of ranks %s (train.profile.ranks)", self.wanted.ranks)
            return
        self.folder.mkdir(exist_ok=True)
        write_json(self.folder / "summary.json", found)
        (self.folder / "summary.md").write_text(profile_page.page(found), encoding="utf-8")
        for line in profile_page.lines(found) if aloud else ():
            log.info("%s", line)

    def _timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        while True:
            with self.sections.during("data"):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch


@contextmanager
def _harmless(what: str, rank: int) -> Iterator[None]:
    """Whatever goes wrong here is told and ends nothing."""
    try:
        yield
    except Exception:
        log.warning(what, rank, exc_info=True)


class Sections:
    """What goes on besides training, in seconds and in the trace."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def during(self, name: str) -> Iterator[None]:
        begun = time.perf_counter()
        with record_function(SECTION + name):
            yield
        self.seconds[name] += time.perf_counter() - begun


class Marks(Ledger):
    """A ledger whose evaluations and checkpoints are sections, too."""

    def __init__(self, ledger: Ledger, sections: Sections) -> None:
        self.ledger, self.sections, self.beat = ledger, sections, ledger.beat
        self.open = ExitStack()

    def mark(self, event: str, **beside: Any) -> None:
        self.ledger.mark(event, **beside)
        name, _, edge = event.rpartition("_")
        if name in SEPARATE and edge in ("begin", "end"):
            self.open.close()  # one that a notice broke off has no end of its own
            if edge == "begin":
                section: AbstractContextManager[None] = self.sections.during(name)
                self.open.enter_context(section)

    def close(self) -> None:
        self.open.close()
        self.ledger.close()


def events_of(traced: Any) -> list[Event]:
    """What torch.profiler collected, plain."""
    found = []
    for event in traced.events():
        on_card = event.device_type != DeviceType.CPU
        lasted = event.time_range.end - event.time_range.start
        own = lasted if on_card or event.is_async else event.self_cpu_time_total
        span = (event.time_range.start, event.time_range.end)
        found.append(Event(event.name, *span, event.thread, own, on_card, event.is_user_annotation))
    return found
