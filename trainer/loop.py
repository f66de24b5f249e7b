"""The training loop. Read it from top to bottom: this is all that happens between the first step and the last.

How the parts are made is in assemble.py; what a step does across ranks is the engine's.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from conf.schema import Spec
from trainer import schedule, score
from trainer.checkpoints import keeping
from trainer.checkpoints.keeping import Keeper, is_over, save_if_due, stop_if_told
from trainer.checkpoints.progress import Clock, Progress
from trainer.data.feed import Batch, Feed, Place
from trainer.data.order import Order, covering
from trainer.engines import Engine
from trainer.insight.heartbeat import host_of
from trainer.insight.pace import JUDGED_S, Scale, Window, advice, rates
from trainer.insight.spool import Ledger, Spool
from trainer.insight.stragglers import Alone, Watch, slot, spread
from trainer.parallel.group import Group
from trainer.signals import Broken, Notice, Stopped

if TYPE_CHECKING:
    from trainer.insight.profiling import Profiler
    from trainer.samples import SampleLog

log = logging.getLogger(__name__)


@dataclass
class Run:
    """Everything the loop works with. Only `progress` and `window` change, and what follows them."""

    spec: Spec
    group: Group
    engine: Engine
    order: Order
    training: Feed
    validation: Feed
    test: Feed | None
    """For one evaluation at the end; None where none is declared."""
    keeper: Keeper
    spool: Spool
    ledger: Ledger
    notice: Notice
    first_step: int
    """Where this attempt begins: 0, or the step of the checkpoint it goes on from."""
    total_steps: int
    """Of the whole training, by which schedules go."""
    last_step: int
    """Where the run ends: `total_steps`, or earlier (train.until)."""
    progress: Progress
    clock: Clock
    scale: Scale
    window: Window
    warned: bool = False
    waited_s: float = 0.0
    """For data, in this attempt."""
    steady: tuple[float, float] | None = None
    """The clock's and `waited_s` at the end of the first window, which has the start of everything in it."""
    profiler: Profiler | None = None
    """Only where a profile is asked for."""
    samples: SampleLog | None = None
    """Likewise (train.log_samples)."""
    alone: Alone = field(default_factory=lambda: Alone(torch.device("cpu")))
    watch: Watch = field(default_factory=Watch)
    """For ranks that keep the others waiting."""


def train(run: Run) -> bool:
    """Train to the last step. False if told to stop before; what was done is saved then, if there is time."""
    places = upcoming(run)
    batches = run.training.batches(run.samples.watched(places) if run.samples else places)
    if run.profiler:
        batches = run.profiler.begin(run, batches)
    try:
        close_step(run)  # the last attempt may have ended between a step and its evaluation
        while not is_over(run):
            first, waited_s = awaited(run, batches)
            run.window.waited_s += waited_s
            take_step(run, first, batches)
            close_step(run)
            if run.profiler:
                run.profiler.step(run)
        keeping.end(run)
    except Stopped:
        keeping.leave(run)
        return False
    return True


def upcoming(run: Run) -> Iterator[Place]:
    """Epochs and indices of this rank's batches, from the next step to the last."""
    for step in range(run.progress.step, run.last_step):
        for indices in run.order.micro_batches(step):
            yield step // run.order.steps_per_epoch, indices


def awaited(run: Run, batches: Iterator[Batch]) -> tuple[Batch | None, float]:
    """The next batch, None at the end; and how many seconds it took.

    Raises Stopped on all ranks as soon as one was given notice, also where it still waits for its data: they agree
    before they compute, so that none waits for gradients of a rank that left. (Where steps are so short that they do
    not agree at each, a wait is broken off only before those at which they do.)
    """
    asked, notice, batch = time.perf_counter(), run.notice, None
    run.ledger.beat.at("data wait")
    try:
        notice.breaks = not notice.given and run.keeper.told.is_due
        batch = next(batches, None)
        notice.breaks = False
    except Broken as broken:
        notice.broken = broken
    waited_s = time.perf_counter() - asked
    stop_if_told(run)
    return batch, waited_s


def take_step(run: Run, first: Batch | None, others: Iterator[Batch]) -> None:
    """One optimizer step over all ranks' samples, each weighing the same; `others` has the batches after the first."""
    wanted, done = run.spec.train, run.progress
    samples = run.order.samples_in(done.step)
    for micro in range(wanted.accumulate):
        batch = first if micro == 0 else _another(run, others)
        assert batch is not None
        run.ledger.beat.at("train")
        with run.engine.micro_batch(last=micro == wanted.accumulate - 1):
            run.alone.begin()
            loss = score.total(run.engine.forward(batch.inputs), batch.targets, batch.weights)
            run.alone.end()
            run.engine.backward(loss, weight=1 / samples)
        run.window.loss += loss.detach()

    factor = schedule.factor(wanted.schedule, done.step, run.total_steps, wanted.warmup_steps)
    run.window.norm = run.engine.step(factor, wanted.clip_norm)
    run.window.samples += samples
    if done.step == run.first_step:
        run.ledger.mark("first_step", step=done.step + 1, waited_s=round(run.window.waited_s, 4))
        run.notice.hold()
    done.step += 1
    if run.samples:
        run.samples.trained(done.step, wanted.accumulate)
    run.ledger.beat.stepped(done.step)


def _another(run: Run, batches: Iterator[Batch]) -> Batch:
    """A batch in the middle of a step, which is not broken off."""
    asked = time.perf_counter()
    run.ledger.beat.at("data wait")
    batch = next(batches)
    run.window.waited_s += time.perf_counter() - asked
    return batch


def close_step(run: Run) -> None:
    """Report, evaluate and save, whatever is due after the step just made."""
    step, wanted = run.progress.step, run.spec.train
    if run.window.samples and (step % wanted.log_every_steps == 0 or step == run.last_step):
        report(run)
    if run.progress.evaluated < step and due(run, wanted.eval_every_steps or run.order.steps_per_epoch):
        evaluate(run)
    save_if_due(run)


def due(run: Run, every: int) -> bool:
    """Whether the step just made is one of every so many, or the last."""
    step = run.progress.step
    return step > 0 and (step % every == 0 or step == run.last_step)


def report(run: Run) -> None:
    """Write what was trained since the last report."""
    ranks = run.group
    loss = run.window.loss.double().cpu().view(1)
    numbers = torch.cat([loss, slot(run.alone.taken_s(run.window.waited_s), ranks.rank, ranks.world)])
    total, *taken = ranks.sum(numbers).tolist()
    loss = total / run.window.samples
    seconds = run.clock.seconds()  # after the loss: reading it waits for the device
    pace = rates(run.window, seconds - run.window.begun_s, run.scale)
    metrics = {"train/loss": loss, "train/lr": run.engine.learning_rate(), **pace, **spread(taken)}
    if run.window.norm is not None:
        metrics["train/grad_norm"] = run.window.norm.item()
    done = run.progress
    epoch = (done.step - 1) // run.order.steps_per_epoch + 1
    done.note({"train/loss": loss}, run.spec.objective)
    run.waited_s += run.window.waited_s
    run.spool.metrics(done.step, metrics, epoch=epoch, waited_s=round(run.waited_s, 4))
    words = (done.step, run.last_step, epoch, loss, metrics["train/samples_per_s"])
    log.info("step %d/%d epoch %d train/loss %.4f %.0f samples/s", *words)
    if run.steady is None:
        run.steady = (seconds, run.waited_s)
    else:
        warn(run, seconds)
        warn_of_straggler(run, taken, seconds - run.window.begun_s)
    run.window = Window(torch.zeros_like(run.window.loss), begun_s=seconds)


def warn(run: Run, seconds: float) -> None:
    """Say once what a loop that waits for its data needs. Not by a single window: many small batches are read as one,
    and a short window may hold little else."""
    since_s, before_s = run.steady or (seconds, 0.0)
    if run.warned or seconds - since_s < JUDGED_S:
        return
    said = advice((run.waited_s - before_s) / (seconds - since_s), run.training.workers, run.training.spare_cores)
    if said:
        run.warned = True
        log.warning("%s", said)


def warn_of_straggler(run: Run, taken: list[float], seconds: float) -> None:
    """Say of a rank that keeps the others waiting where it runs."""
    rank = run.watch.slow(taken, seconds) if run.group.rank == 0 else None
    if rank is not None:
        times = spread(taken)["train/rank_spread"]
        host = host_of(run.keeper.attempt / f"beat-{rank}") or "an unknown host"
        run.ledger.mark("straggler", step=run.progress.step, rank=rank, host=host, times=times)
        log.warning("rank %d on %s takes %.1f times as long as the others and keeps them waiting", rank, host, times)


def evaluate(run: Run) -> None:
    """Loss and accuracy over the validation set: each sample once, over all ranks."""
    run.ledger.mark("evaluation_begin", step=run.progress.step)
    with run.clock.stopped():
        totals = totals_of(run, run.validation)
    done = run.progress
    done.evaluated = done.step
    if totals[2] > 0:
        metrics = {"val/loss": totals[0] / totals[2], "val/accuracy": totals[1] / totals[2]}
        done.note(metrics, run.spec.objective)
        if run.spec.train.stop_after:
            done.stale.note(metrics[run.spec.objective.metric], run.spec)
        run.spool.metrics(done.step, metrics)
        log.info("step %d/%d val/loss %.4f val/accuracy %.4f", done.step, run.last_step, *metrics.values())
    run.ledger.mark("evaluation_end", step=done.step)


def test(run: Run) -> dict[str, float]:
    """Loss and accuracy, over what is kept for a final test, of the weights that the engine has; nothing where nothing
    is kept. Called once, at the very end: nothing is chosen by it. Raises Stopped if told to in between."""
    if run.test is None:
        return {}
    step = run.progress.step
    run.ledger.mark("test_begin", step=step)
    totals = totals_of(run, run.test)
    metrics = {"test/loss": totals[0] / totals[2], "test/accuracy": totals[1] / totals[2]}
    run.spool.metrics(step, metrics)
    log.info("step %d/%d test/loss %.4f test/accuracy %.4f", step, run.last_step, *metrics.values())
    run.ledger.mark("test_end", step=step)
    return metrics


def totals_of(run: Run, kept: Feed) -> list[float]:
    """Sums over all ranks of loss, hits and samples. Raises Stopped if told to in between."""
    order = covering(len(kept), run.order.micro_size, run.order.world, run.order.rank)
    batches = kept.batches((0, indices) for indices in order)
    totals = torch.zeros(3, dtype=torch.float64, device=kept.device)
    run.engine.module.eval()
    try:
        while (batch := awaited(run, batches)[0]) is not None:
            run.ledger.beat.at("evaluation")
            outputs = run.engine.predict(batch.inputs)
            losses, hits = score.losses(outputs, batch.targets), score.hits(outputs, batch.targets)
            rows = torch.stack([losses, hits, torch.ones_like(losses)])
            totals += (rows if batch.weights is None else rows * batch.weights).sum(1, dtype=torch.float64)
    finally:
        run.engine.module.train()
    return run.group.sum(totals.cpu()).tolist()
