"""How is a run put together, and taken apart? From the spec to what the loop needs; from there to the result."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from conf.schema import Component, Spec, precision
from conf.train_schema import Train
from trainer import components, export, loop, score, tensors
from trainer.checkpoints import progress
from trainer.checkpoints.checkpoint import Checkpoints, why_not_whole, world_of
from trainer.checkpoints.history import history
from trainer.checkpoints.keeping import Keeper
from trainer.checkpoints.progress import Clock, Progress
from trainer.checkpoints.saving import Saver
from trainer.data import datasets
from trainer.data.feed import Feed
from trainer.data.order import Order, seed_of
from trainer.durable import write_json
from trainer.engines import Engine, Place
from trainer.failure import UserError
from trainer.insight import pace
from trainer.insight.pace import Scale
from trainer.insight.spool import Ledger, Spool, plain
from trainer.insight.stragglers import Alone
from trainer.loop import Run
from trainer.parallel import group, units
from trainer.parallel.told import Told
from trainer.rank import Folders, Rank, cores
from trainer.samples import SampleLog
from trainer.signals import Notice, Stopped
from trainer.sources import Data, Shape

if TYPE_CHECKING:
    from trainer.data.staging import Brought
    from trainer.insight.profiling import Profiler

log = logging.getLogger(__name__)


def prepare(spec: Spec, rank: Rank, folders: Folders, notice: Notice, ledger: Ledger) -> tuple[Run, Data]:
    """Everything up to the first step, gone back to the newest checkpoint if there is one."""
    accelerator = spec.pools[0].accelerator
    device = group.device(accelerator.device, rank)
    ranks = group.join(rank, accelerator.backend)
    ledger.mark("rendezvous_done", world=rank.world)
    if spec.train.deterministic:
        torch.use_deterministic_algorithms(True)
    if spec.train.onnx:
        export.can_write_onnx()

    data, staged = _data(spec, ranks, ledger)
    wanted = spec.train
    order = Order(len(data.train), wanted.batch_size, spec.seed, rank.world, rank.number, wanted.accumulate)
    total_steps = _total_steps(wanted, order.steps_per_epoch)
    last_step = math.ceil(round(total_steps * wanted.until, 6))
    _check_objective(spec, data)
    ledger.mark("data_ready", rows=len(data.train))

    apart = ranks.apart() if wanted.checkpoint_in_background else ranks
    checkpoints = Checkpoints(folders.checkpoints, folders.attempt.name, wanted.keep_checkpoints, apart)
    newest = checkpoints.newest() if wanted.start_from else None
    engine = _engine(spec, Place(rank, device, precision(spec)), data.shape, begins=newest is None)
    task = _task(spec, data.shape, device)
    ledger.mark("model_ready")
    done = _restored(newest or checkpoints.newest(), engine, apart, spec.seed)
    done.data = datasets.must_be_the_same(ranks.gather(datasets.told_apart(data, spec.data)), done.data)
    ledger.mark("restore_done", step=done.step, lost=[] if done.step else checkpoints.lost())

    clock, spare = Clock(done.train_s), cores(rank) - 1
    saver = Saver(checkpoints, device, wanted.checkpoint_in_background, done.costs, done.step or None)
    saver.before_waiting = partial(ledger.beat.begin, "checkpoint")
    if spec.train.compile:
        units.when_compiling(ledger.compiles, ledger.compiled)
    reading = partial(Feed, device=device, workers=wanted.workers, seed=spec.seed)
    feed = partial(reading, spare_cores=spare, before_fork=saver.settle)
    run = Run(
        spec=spec,
        group=ranks,
        engine=engine,
        task=task,
        order=order,
        training=feed(data.train),
        validation=feed(data.validation),
        test=feed(data.test) if data.test is not None else None,
        keeper=_keeper(spec, folders, saver, ranks, done.step),
        spool=Spool(folders.attempt / "metrics.jsonl" if rank.first else None, last_step),
        ledger=ledger,
        notice=notice,
        told=Told(ranks),
        first_step=done.step,
        total_steps=total_steps,
        last_step=last_step,
        progress=done,
        clock=clock,
        scale=_scale(spec, rank, data.shape),
        window=pace.begun(done.window, clock.seconds(), device, ranks),
        alone=Alone(device, engine.waits_in_forward),
        profiler=_profiler(spec.train, rank, folders),
        samples=SampleLog(folders.attempt, order) if wanted.log_samples else None,
    )
    for name, card in data.cards:
        run.spool.dataset(card, name)
    if staged:
        run.spool.metrics(done.step, staged.metrics)
    return run, data


def finish(run: Run, data: Data, folders: Folders) -> bool:
    """Evaluate the weights that become the model on what is kept for a final test, where anything is; export it and
    write result.json; all ranks leave together. False if told to leave before the test was over: all else is saved."""
    seconds = run.clock.seconds()
    run.ledger.mark("training_done", step=run.progress.step)
    chosen = _chosen(run, folders)
    try:
        tested = {name: plain(value) for name, value in loop.test(run).items()}
    except Stopped:
        return False
    weights = run.engine.weights()
    if run.group.rank == 0:
        model = build_model(run.spec.model, data.shape)
        model.load_state_dict(weights)
        metrics = {**run.progress.plain_metrics(), **tested}
        done = export.Export(
            model=model,
            component=run.spec.model,
            shape=data.shape,
            for_use=run.task.exported,
            example=export.example_of(data),
            metrics={**chosen, **tested},
            data=run.spec.data,
            data_card=data.train_card,
            onnx=run.spec.train.onnx,
        )
        export.write(folders.model, done)
        run.ledger.mark("export_done")
        result = {"metrics": metrics, "best": run.progress.best, "steps": run.progress.step, "train_s": seconds}
        write_json(folders.attempt / "result.json", result)
    run.group.wait()
    return True


def _chosen(run: Run, folders: Folders) -> dict[str, float | str]:
    """Put the weights that are wanted into the engine, where they are not those of the last step; what was measured of
    them."""
    done, best = run.progress, run.progress.best
    if run.spec.train.export == "last" or best is None or best["step"] == done.step:
        return done.plain_metrics()
    path = folders.checkpoints / f"step-{best['step']}"
    why = why_not_whole(path) if run.group.rank == 0 else None
    if run.group.any(why is not None):
        log.warning("the best weights are those of step %d, but %s: the last are exported", best["step"], why)
        return done.plain_metrics()
    from trainer.checkpoints import state

    run.engine.restore(partial(state.read, path, group=run.group), state.rest(path))
    log.info("exports the weights of step %d, where %s was best", best["step"], best["metric"])
    return {**progress.read(path).plain_metrics(), best["metric"]: best["value"]}


def _data(spec: Spec, ranks: group.Group, ledger: Ledger) -> tuple[Data, Brought | None]:
    """The data of a spec, brought to this node where they have to be, and what that took."""
    from trainer.data import staging  # with threads and addresses that most runs do without

    if not staging.is_wanted(spec):
        return load_data(spec.data), None
    component, brought = staging.brought(spec, ranks, ledger)
    return brought.named(load_data(component)), brought


def load_data(component: Component) -> Data:
    """The data of a spec.

    A user's own (`_target_`) gives a training and a validation set, each an ordinary torch data set of pairs
    (input, target), or the Data that our sources give.
    """
    own = components.target("data", component)
    if own is None:
        module, options = components.part("data", component)
        return module.load(options)
    made = own[0](**own[1])
    return made if isinstance(made, Data) else datasets.data_of(str(component.options[components.TARGET]), *made)


def build_model(component: Component, shape: Shape) -> nn.Module:
    """The model of a spec, with random weights. A user's own (`_target_`) is given the Shape of the data where it has a
    parameter `shape` that must be given and the spec does not give."""
    own = components.target("model", component)
    if own is None:
        module, options = components.part("model", component)
        if shape.outputs < 1:
            what = f"model {component.kind} must know how many classes there are, and the data does not say"
            raise UserError(what, "data._target_", "give the training data set an attribute `classes`")
        takes = getattr(module, "TAKES", (shape.form,))
        if shape.form not in takes:
            what = f"model {component.kind} takes {' or '.join(takes)}, but the data gives {shape.form}"
            raise UserError(what, "model.kind", "choose another model, or other data")
        return module.build(options, shape)
    model = own[0](**_with_shape(*own, shape))
    if not isinstance(model, nn.Module):
        where = f"model._target_: {component.options[components.TARGET]}"
        raise UserError(f"the model is a {type(model).__name__}, not a torch.nn.Module", where, "name a module's class")
    return model


def _with_shape(call: Callable[..., Any], arguments: dict[str, Any], shape: Shape) -> dict[str, Any]:
    try:
        known = inspect.signature(call).parameters
    except ValueError:  # of what is written in C
        return arguments
    is_open = "shape" in known and known["shape"].default is inspect.Parameter.empty and "shape" not in arguments
    return {**arguments, "shape": shape} if is_open else arguments


def _task(spec: Spec, shape: Shape, device: torch.device) -> score.Task:
    """What the data are for, by a loss of the user's own where there is one."""
    task = score.task_of(shape)
    if spec.train.loss is None:
        return task
    from trainer import own_loss

    return own_loss.with_loss(task, spec.train.loss, spec.objective.metric, device)


def build_optimizer(component: Component, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of a spec. A user's own (`_target_`) is called with the parameters first, as torch's are."""
    own = components.target("optimizer", component)
    if own is None:
        module, options = components.part("optimizer", component)
        return module.build(options, model)
    return own[0]([p for p in model.parameters() if p.requires_grad], **own[1])


def _engine(spec: Spec, place: Place, shape: Shape, begins: bool) -> Engine:
    """Model and optimizer in their engine, the same weights on every rank; those of `start_from` where it `begins`."""
    tensors.seed(spec.seed)
    module, options = components.part("engine", spec.engine)
    model = build_model(spec.model, shape)
    if begins and spec.train.start_from:
        from trainer.checkpoints import origin

        origin.begin_with(model, spec.train.start_from, spec.train.trust_unverified)
    if spec.train.recompute:
        units.recompute(model)
    if spec.train.compile:
        units.compile_blocks(model)
    return module.start(options, place, model, partial(build_optimizer, spec.optimizer))


def _profiler(train: Train, rank: Rank, folders: Folders) -> Profiler | None:
    if train.profile is None:
        return None
    from trainer.insight.profiling import Profiler

    return Profiler(train.profile, rank.number, folders.attempt)


def _scale(spec: Spec, rank: Rank, shape: Shape) -> Scale:
    """What a sample is to whoever measures the pace. Operations are counted only where there is a peak to divide by;
    the first rank says why there is none where one was to be expected: nobody knows that of a CPU."""
    tokens = shape.input_shape[0] if shape.task == "next_token" else 1
    accelerator = spec.pools[0].accelerator
    peak = accelerator.peak_tflops.get(precision(spec))
    if peak is None:
        if rank.first and (accelerator.device != "cpu" or accelerator.peak_tflops):
            log.info(pace.no_peak(accelerator.peak_tflops, precision(spec)))
        return Scale(tokens)
    dtype = getattr(torch, shape.input_dtype)
    flops, why = pace.flops_of(partial(build_model, spec.model, shape), (1, *shape.input_shape), dtype)
    if why and rank.first:
        log.info("train/mfu is not reported: the operations of the model cannot be counted (%s)", why)
    return Scale(tokens, flops, peak * 1e12 * rank.world)


def _restored(path: Path | None, engine: Engine, ranks: group.Group, seed: int) -> Progress:
    """Where to go on. Random numbers of a rank are its own: dropout must differ between ranks."""
    rank, world = ranks.rank, ranks.world
    if path is None:
        tensors.seed(seed_of(seed, rank + 1))
        return Progress()
    from trainer.checkpoints import state

    engine.restore(partial(state.read, path, group=ranks), state.rest(path))
    done = progress.read(path)
    if world_of(path) == world:
        tensors.load_random(path, rank)
    else:
        tensors.seed(seed_of(seed, rank + 1, done.step))
    log.info("goes on from step %d (%s)", done.step, path.name)
    return done


def _keeper(spec: Spec, folders: Folders, saver: Saver, ranks: group.Group, step: int) -> Keeper:
    """When to save: this member's own past, and what the site says of its nodes."""
    nodes = sum(pool.machine.nodes for pool in spec.pools)
    past = history(folders.member, folders.attempt)
    mtbf_s = spec.site.node_mtbf_h * 3600 / nodes
    return Keeper(spec.train.checkpoint_every_steps, saver, ranks, folders.attempt, mtbf_s, past, step)


def _total_steps(train: Train, steps_per_epoch: int) -> int:
    limits = [train.max_steps, train.epochs * steps_per_epoch if train.epochs else None]
    given = [limit for limit in limits if limit]
    if not given:
        raise UserError("train says neither epochs nor max_steps", "train", "set one of them")
    return min(given)


FLOATS = " (data of your own whose targets are floats are numbers to be predicted, not classes)"


def _check_objective(spec: Spec, data: Data) -> None:
    """Now, and not after an hour of training for a metric that never comes."""
    names = [name for name in score.METRICS[data.shape.task] if len(data.validation) or not name.startswith("val/")]
    if spec.objective.metric not in names:
        raise UserError(
            f"objective.metric is {spec.objective.metric}, which this run does not measure",
            "objective.metric",
            f"choose: {', '.join(names)}" + (FLOATS if spec.data.kind == components.TARGET else ""),
        )
