"""The training loop. Read it from top to bottom: this is all that happens between the first step and the last.

How the parts are made is in assemble.py; what a step does across ranks is the engine's.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from conf.schema import Spec
from trainer import schedule
from trainer.checkpoints import keeping
from trainer.checkpoints.keeping import Keeper, is_over, save_if_due
from trainer.checkpoints.progress import Clock, Progress
from trainer.data.demand import Demand
from trainer.data.feed import Feed
from trainer.data.hand import Hand
from trainer.data.order import Order, covering
from trainer.engines import Engine
from trainer.insight.heartbeat import host_of
from trainer.insight.pace import Scale, Waits, Window, advice, rates
from trainer.insight.spool import Ledger, Spool
from trainer.insight.stragglers import Alone, Own, Watch, per_step, placed, spread, told
from trainer.parallel.group import Group
from trainer.parallel.told import Told
from trainer.signals import Notice, Stopped

if TYPE_CHECKING:
    from trainer.insight.profiling import Profiler
    from trainer.samples import SampleLog
    from trainer.score import Task

log = logging.getLogger(__name__)


@dataclass
class Run:
    """Everything the loop works with. Only `progress` and `window` change, and what follows them."""

    spec: Spec
    group: Group
    engine: Engine
    task: Task
    order: Order
    training: Feed
    validation: Feed
    test: Feed | None
    """For one evaluation at the end; None where none is declared."""
    keeper: Keeper
    spool: Spool
    ledger: Ledger
    notice: Notice
    told: Told
    """Whether any rank was given notice."""
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
    waits: Waits = field(default_factory=Waits)
    profiler: Profiler | None = None
    """Only where a profile is asked for."""
    samples: SampleLog | None = None
    """Likewise (train.log_samples)."""
    alone: Alone = field(default_factory=lambda: Alone(torch.device("cpu")))
    watch: Watch = field(default_factory=Watch)
    """For ranks that keep the others waiting."""


def train(run: Run) -> bool:
    """Train to the last step. False if told to stop before; what was done is saved then, if there is time."""
    places, demand = run.order.passes(run.progress.step, run.last_step), Demand()
    batches = run.training.batches(run.samples.watched(places) if run.samples else places, demand)
    if run.profiler:
        batches = run.profiler.begin(run, batches)
    hand = Hand(batches, run.training.device, demand)
    try:
        close_step(run)  # the last attempt may have ended between a step and its evaluation
        while not is_over(run):
            run.window.waited_s += await_data(run, hand, run.spec.train.accumulate)
            take_step(run, hand)
            close_step(run)
            if run.profiler:
                run.profiler.step(run)
        keeping.end(run)
    except Stopped:
        keeping.leave(run)
        return False
    return True


def await_data(run: Run, hand: Hand, passes: int = 1) -> float:
    """Wait for the data of the next step, of so many batches; returns how many seconds that took.

    Raises Stopped on all ranks soon after one was given notice, also where that one still waits for its data: before a
    step that none of them has begun.
    """
    if run.told.heard():
        keeping.stop(run)
    waited_s = _filled(run, hand, passes)
    if run.told.ask(run.notice.given, hand.largest_bytes * passes):
        keeping.stop(run)
    return waited_s


def _filled(run: Run, hand: Hand, passes: int, left: int = 0) -> float:
    """Wait for data of steps of so many batches, `left` of them for the step that has begun; returns the seconds."""
    asked = time.perf_counter()
    run.ledger.beat.at("data wait")
    hand.fill((run.told.ahead + 1) * passes, run.told.lag * passes + left, run.notice)
    return time.perf_counter() - asked


def take_step(run: Run, hand: Hand) -> None:
    """One optimizer step over all ranks' samples, each weighing the same."""
    wanted, done = run.spec.train, run.progress
    samples = run.order.samples_in(done.step)
    for micro in range(wanted.accumulate):
        if micro:
            run.window.waited_s += _filled(run, hand, wanted.accumulate, wanted.accumulate - micro)
        batch = hand.next()
        assert batch is not None
        run.ledger.beat.at("train")
        with run.engine.micro_batch(last=micro == wanted.accumulate - 1):
            run.alone.begin()
            loss = run.task.total(run.engine.forward(batch.inputs), batch.targets, batch.weights)
            run.alone.end()
            run.engine.backward(loss, weight=1 / samples)
        run.window.loss += loss.detach()

    factor = schedule.factor(wanted.schedule, done.step, run.total_steps, wanted.warmup_steps)
    run.window.norm = run.engine.step(factor, wanted.clip_norm, norm_wanted=reported(run, done.step + 1))
    run.window.samples += samples
    run.window.steps += 1
    if done.step == run.first_step:
        run.window.start_s = run.window.waited_s
        run.ledger.mark("first_step", step=done.step + 1)
        run.notice.hold()
    done.step += 1
    if run.samples:
        run.samples.trained(done.step, wanted.accumulate)
    run.ledger.beat.stepped(done.step)


def close_step(run: Run) -> None:
    """Report, evaluate and save, whatever is due after the step just made."""
    step, wanted = run.progress.step, run.spec.train
    if run.window.samples and reported(run, step):
        report(run)
    if run.progress.evaluated < step and due(run, wanted.eval_every_steps or run.order.steps_per_epoch):
        evaluate(run)
    save_if_due(run)


def reported(run: Run, step: int) -> bool:
    """Whether there is a report after this step."""
    return step % run.spec.train.log_every_steps == 0 or step == run.last_step


def due(run: Run, every: int) -> bool:
    """Whether the step just made is one of every so many, or the last."""
    step = run.progress.step
    return step > 0 and (step % every == 0 or step == run.last_step)


def report(run: Run) -> None:
    """Write what was trained since the last report."""
    ranks, window = run.group, run.window
    own = Own(run.alone.taken_s(window.waited_s), window.waited_s, window.start_s)
    loss = window.loss.double().cpu().view(1)
    total, *numbers = ranks.sum(torch.cat([loss, placed(own, ranks.rank, ranks.world)])).tolist()
    each = told(numbers)
    window.waited_s = max(one.waited_s for one in each)
    taken = [one.taken_s for one in each]
    loss = total / window.samples * run.task.unit
    now_s = run.clock.seconds()  # after the loss: reading it waits for the device
    seconds = now_s - window.begun_s
    metrics = {"train/loss": loss, "train/lr": run.engine.learning_rate(), **rates(window, seconds, run.scale)}
    metrics |= spread(taken)
    if window.norm is not None:
        metrics["train/grad_norm"] = window.norm.item()
    done = run.progress
    epoch = (done.step - 1) // run.order.steps_per_epoch + 1
    done.note({"train/loss": loss}, run.spec.objective)
    run.waits.note([one.waited_s - one.start_s for one in each], seconds, now_s)
    beside = {"waited_s": round(run.waits.lost_s, 4), **per_step(each, window.steps)}
    run.spool.metrics(done.step, metrics, epoch=epoch, **beside)
    words = (done.step, run.last_step, epoch, loss, metrics["train/samples_per_s"])
    log.info("step %d/%d epoch %d train/loss %.4f %.0f samples/s", *words)
    if ranks.rank == 0:
        warn(run, now_s)
        warn_of_straggler(run, taken, seconds)
    run.window = Window(torch.zeros_like(window.loss), begun_s=now_s)


def warn(run: Run, now_s: float) -> None:
    """Say once what a loop that waits for its data needs."""
    if found := run.waits.starved(now_s):
        share, rank = found
        who = "" if rank is None else f"rank {rank} on {_host(run, rank)}"
        log.warning("%s", advice(share, who, run.training.workers, run.training.spare_cores))


def warn_of_straggler(run: Run, taken: list[float], seconds: float) -> None:
    """Say of a rank that keeps the others waiting where it runs."""
    if (rank := run.watch.slow(taken, seconds)) is not None:
        times, host = spread(taken)["train/rank_spread"], _host(run, rank)
        run.ledger.mark("straggler", step=run.progress.step, rank=rank, host=host, times=times)
        log.warning("rank %d on %s takes %.1f times as long as the others and keeps them waiting", rank, host, times)


def _host(run: Run, rank: int) -> str:
    return host_of(run.keeper.attempt / f"beat-{rank}") or "an unknown host"


def evaluate(run: Run) -> None:
    """The task's metrics over the validation set: each sample once, over all ranks."""
    run.ledger.mark("evaluation_begin", step=run.progress.step)
    with run.clock.stopped():
        totals = totals_of(run, run.validation)
    done = run.progress
    done.evaluated = done.step
    if totals:
        metrics = run.task.measured("val", totals)
        done.note(metrics, run.spec.objective)
        if run.spec.train.stop_after:
            done.stale.note(metrics[run.spec.objective.metric], run.spec)
        run.spool.metrics(done.step, metrics)
        log.info("step %d/%d %s", done.step, run.last_step, _in_words(metrics))
    run.ledger.mark("evaluation_end", step=done.step)


def test(run: Run) -> dict[str, float]:
    """The task's metrics, over what is kept for a final test, of the weights that the engine has; nothing where nothing
    is kept. Called once, at the very end: nothing is chosen by it. Raises Stopped if told to in between."""
    if run.test is None:
        return {}
    step = run.progress.step
    run.ledger.mark("test_begin", step=step)
    totals = totals_of(run, run.test)
    metrics = run.task.measured("test", totals)
    run.spool.metrics(step, metrics)
    log.info("step %d/%d %s", step, run.last_step, _in_words(metrics))
    run.ledger.mark("test_end", step=step)
    return metrics


def _in_words(metrics: Mapping[str, float]) -> str:
    return " ".join(f"{name} {value:.4f}" for name, value in metrics.items())


def totals_of(run: Run, kept: Feed) -> list[float]:
    """The sums over all ranks that the task's metrics are made of (Task.rows); none where there is no sample. Raises
    Stopped if told to in between."""
    order = covering(len(kept), run.order.micro_size, run.order.world, run.order.rank)
    demand = Demand()
    hand = Hand(kept.batches(((0, indices) for indices in order), demand), kept.device, demand)
    totals: Tensor | None = None
    run.engine.module.eval()
    run.told.begin()
    try:
        while True:
            await_data(run, hand)
            if (batch := hand.next()) is None:
                break
            run.ledger.beat.at("evaluation")
            rows = run.task.rows(run.engine.predict(batch.inputs), batch.targets)
            summed = (rows if batch.weights is None else rows * batch.weights).sum(1, dtype=torch.float64)
            totals = summed if totals is None else totals + summed
    finally:
        run.engine.module.train()
    run.told.begin()
    return [] if totals is None else run.group.sum(totals.cpu()).tolist()
