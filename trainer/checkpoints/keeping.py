"""When does a run save, and with what does it leave? The occasions, what follows a save that failed, and the end.

How often is best stands in interval.py, what still fits into a grace time in grace.py (both pure); how a checkpoint is
written while training goes on, in saving.py.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NoReturn, get_args

from trainer.checkpoints import interval, limits
from trainer.checkpoints.grace import Means, Parting, parting
from trainer.checkpoints.history import History
from trainer.checkpoints.saving import Saver
from trainer.durable import write_json
from trainer.failure import LEFT
from trainer.insight import pace
from trainer.parallel.group import Group
from trainer.signals import Left, Stopped

if TYPE_CHECKING:
    from trainer.loop import Run

log = logging.getLogger(__name__)

FIRST_LOOK = 3
"""Steps after which it is known how long one takes."""
WEIGHED_S = 2.0
"""So long it may take to find out how much time a notice leaves."""
PATIENCE_S = (5, 15, 30, 60, 120)
"""Pauses between the tries to write the last checkpoint of a run: all its work stands in it."""
PARTINGS: tuple[Parting, ...] = get_args(Parting)


@dataclass
class Keeper:
    """The occasions on which a run saves. All ranks ask it at the same steps, and get the same answers."""

    every: int | Literal["auto"] | None
    """train.checkpoint_every_steps."""
    saver: Saver
    group: Group
    attempt: Path
    mtbf_s: float
    """Between failures of all its nodes together, as the site says."""
    past: History
    step: int
    """Where this attempt began."""
    began_s: float = field(default_factory=lambda: time.monotonic())
    _saved_s: float | None = None
    _looked: tuple[int, float] | None = None
    """The step of the last look at how long it is until the next save, and when that was."""
    _look_at: int = 0
    _passed: int = 0
    """Occasions since the last try to save."""
    _limits: limits.Limits = field(default_factory=limits.Limits)

    def is_due(self, step: int, evaluated: bool) -> bool:
        """Whether to save after the step just made, which may just have been `evaluated`."""
        if isinstance(self.every, int):
            occasion = step > 0 and step % self.every == 0
        else:
            occasion = (self.every is None and evaluated) or self._is_time(step)
        return occasion and self._is_worth_it()

    def begun(self) -> None:
        """A save has begun, on whatever occasion."""
        self._saved_s = time.monotonic()

    def _is_worth_it(self) -> bool:
        """After saves that failed, not every occasion is: a disk that is full stays so for a while."""
        self._passed += 1
        if (
            self.saver.failures
            and not self.saver.wait()
            and self._passed <= interval.occasions_between(self.saver.failures)
        ):
            return False
        self._passed = 0
        return True

    def _is_time(self, step: int) -> bool:
        """Rank 0 says after how many steps to ask again: ranks agree a few times between two saves, not each step."""
        if self._looked is None:
            self._looked, self._look_at = (self.step, self.began_s), self.step + FIRST_LOOK
        if step < self._look_at:
            return False
        ahead = self.group.first(self._steps_ahead(step) if self.group.rank == 0 else 0)
        self._looked, self._look_at = (step, time.monotonic()), step + max(1, ahead)
        if ahead == 0:
            self._saved_s = time.monotonic()
        return ahead == 0

    def _steps_ahead(self, step: int) -> int:
        before, looked_s = self._looked or (self.step, self.began_s)
        now_s = time.monotonic()
        step_s = (now_s - looked_s) / max(1, step - before)
        return interval.steps_ahead(interval.until_save_s(self._now(now_s, step_s)), step_s)

    def _now(self, now_s: float, step_s: float) -> interval.Now:
        if self._limits.ends_at is None:
            self._limits = limits.read(self.attempt)
        ends_at = self._limits.ends_at
        return interval.Now(
            since_s=now_s - (self._saved_s or self.began_s),
            interval_s=self.interval_s(now_s),
            save_s=self.saver.costs.durable_s,
            left_s=None if ends_at is None else ends_at - time.time(),
            notice_s=self._limits.notice_s.get("SIGUSR2"),
            step_s=step_s,
            begun=self._saved_s is not None,
        )

    def chosen(self) -> Mapping[str, float]:
        """For the ledger: how long it may be until the next save; nothing where that goes by steps."""
        return {} if isinstance(self.every, int) else {"interval_s": round(self.interval_s(time.monotonic()), 3)}

    def interval_s(self, now_s: float) -> float:
        """Seconds between two saves, by what they cost and by how often something breaks."""
        seen_s = self.past.seen_s + now_s - self.began_s
        return interval.interval_s(self.saver.costs, interval.mtbf_s(self.mtbf_s, seen_s, self.past.failures))


def stop(run: Run) -> NoReturn:
    """Raise Stopped, on all ranks: one of them was given notice."""
    name = run.notice.signal.name if run.notice.signal else "on another rank"
    log.info("told to stop (%s) at step %d", name, run.progress.step)
    run.ledger.mark("signal", signal=name, step=run.progress.step)
    raise Stopped


def save_if_due(run: Run) -> None:
    """After a step and what followed it; the last one is always saved."""
    step = run.progress.step
    evaluated = step > 0 and run.progress.evaluated == step
    due = run.keeper.is_due(step, evaluated)
    if due or is_over(run) or (evaluated and _best_step(run) == step):
        save(run)


def is_over(run: Run) -> bool:
    """Whether the last step was made: of all that were asked for, or because the objective gets no better."""
    wanted = run.spec.train.stop_after
    return run.progress.step >= run.last_step or (wanted is not None and run.progress.stale.is_over(wanted))


def _best_step(run: Run) -> int | None:
    """The step whose weights will be exported; None for the last."""
    return run.progress.best["step"] if run.spec.train.export == "best" and run.progress.best else None


def save(run: Run) -> None:
    """Begin a checkpoint of this step, unless there is one or there is nothing to save."""
    done, saver, order = run.progress, run.keeper.saver, run.order
    step = done.step
    if step == 0 or saver.is_at(step):
        return
    run.ledger.mark("checkpoint_begin", step=step)
    done.train_s, saver.best = run.clock.seconds(), _best_step(run)
    done.window = pace.kept(run.window, run.group)
    beside = {"epoch": step // order.steps_per_epoch, "samples_seen": order.samples_before(step)}
    with run.clock.stopped():
        run.keeper.begun()
        saver.begin(step, run.engine.state, done.document(**beside), lambda why: _saved(run, step, why))
    run.ledger.mark("checkpoint_end", step=step)


def _saved(run: Run, step: int, why: OSError | None) -> None:
    """A checkpoint is on disk, or could not be brought there. By the thread that writes."""
    if why is None:
        chosen = run.keeper.chosen()
        run.ledger.mark("checkpoint_durable", step=step, **chosen)
        next_s = chosen.get("interval_s") if step < run.last_step else None
        after = "" if next_s is None else f"; the next follows within {next_s:.3g} s"
        log.info("step %d/%d saved%s", step, run.last_step, after)
        return
    kept = run.keeper.saver.kept
    run.ledger.mark("checkpoint_failed", step=step, kept=kept, why=str(why))
    newest = "there is none yet" if kept is None else f"the newest one is of step {kept}"
    log.warning("step %d/%d could not be saved (%s); %s", step, run.last_step, why, newest)


def leave(run: Run) -> None:
    """All ranks were told to: keep what can still be kept, and say what cannot.

    Raises Left where not even a save that is under way can be waited for.
    """
    saver, step = run.keeper.saver, run.progress.step
    if run.notice.given:  # a thread may be slow to find out on a busy machine
        run.notice.weighed.wait(WEIGHED_S)
    means = Means(run.notice.left_s(), saver.costs.durable_s, saver.expected_s())
    how = PARTINGS[run.group.first(PARTINGS.index(parting(means)))]
    if how == "save":
        save(run)
    run.ledger.mark("checkpoint_wait", step=step)
    if how != "leave" or saver.expected_s() is None:  # what is on disk already is told by `wait`, too
        saver.wait()
    kept = saver.kept or 0
    run.ledger.mark("leaving", how=how, step=step, kept=kept, left_s=means.left_s, save_s=means.save_s)
    if kept < step:
        _say_what_is_lost(run, step - kept, how, means)
    if how == "leave":
        raise Left
    run.group.wait()  # who leaves first takes the others along: srun kills the step (--kill-on-bad-exit)


def _say_what_is_lost(run: Run, steps: int, how: Parting, means: Means) -> None:
    """In the log, and in left.json for the supervisor."""
    kept = run.keeper.saver.kept
    why = f"a save takes {means.save_s or 0:.1f} s, and {means.left_s or 0:.1f} s were left"
    if how == "save":
        why = f"step {run.progress.step} could not be saved ({run.keeper.saver.why})"
    text = f"{why}; left with " + ("nothing" if kept is None else f"the checkpoint of step {kept}")
    log.warning("%s: %d step(s) will be computed again", text, steps)
    if run.group.rank == 0:
        with contextlib.suppress(OSError):
            write_json(run.keeper.attempt / LEFT, {"message": text, "steps": steps})


def end(run: Run) -> None:
    """Return when the last checkpoint is on disk. Where it cannot be written, try again for some minutes.

    Raises OSError on all ranks when that was in vain, and Stopped when told to leave meanwhile.
    """
    for pause_s in (*PATIENCE_S, None):
        run.ledger.mark("checkpoint_wait", step=run.progress.step)
        if run.keeper.saver.wait():
            return
        if pause_s is None:
            raise run.keeper.saver.why or OSError("the last checkpoint could not be written")
        log.warning("the last step is not saved: another try in %d s", pause_s)
        for _ in range(pause_s):
            if run.group.any(run.notice.given):
                stop(run)
            run.ledger.beat.begin("checkpoint")
            time.sleep(1)
        save(run)
