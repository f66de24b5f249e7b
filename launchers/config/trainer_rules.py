"""The rules of our own trainer: whether model and data go together, and whether what is compared is measured.

As in rules.py: a rule's parameters name the sections it looks at, and check.py finds it. What a source gives and
a model takes is said in its file in trainer/ (see options.py).
"""

from __future__ import annotations

from collections.abc import Iterator

from conf.job_schema import Job
from conf.machine_schema import Accelerator
from conf.schema import Component, Objective, Pool, ranks_per_node
from conf.sweep_schema import Grid, Search
from conf.train_schema import Train
from launchers.config.options import has_blocks, kinds, measured, preview, takes
from launchers.folders import ROOT

Finding = tuple[str, str, str]


def model_takes_the_data(job: Job, data: Component, model: Component) -> Iterator[Finding]:
    given, taken = preview(data, ROOT), takes(model.kind, ROOT)
    if job.kind == "trainer" and given is not None and taken is not None and given.form not in (None, *taken):
        others = [kind for kind in kinds("model", ROOT) if given.form in (takes(kind, ROOT) or ())]
        what = f"model {model.kind} takes {' or '.join(taken)}, but data {data.kind} gives {given.form}"
        do = f"choose data that gives {' or '.join(taken)}"
        yield what, "model.kind", f"{do}, or another model: {', '.join(others)}" if others else do


def data_options_go_together(job: Job, data: Component) -> Iterator[Finding]:
    given = preview(data, ROOT)
    if job.kind == "trainer" and given is not None:
        yield from given.mistakes


def engine_can_do_as_told(job: Job, engine: Component, accelerator: Accelerator) -> Iterator[Finding]:
    """As the engines' own start would say, after the queue."""
    options = engine.options
    if job.kind != "trainer":
        return
    if engine.kind == "deepspeed" and options.get("offload_weights") and options.get("stage") != 3:
        what = f"engine.offload_weights needs stage 3, and engine.stage is {options.get('stage')}"
        yield what, "engine.offload_weights", "set engine.stage=3, or leave the weights on the device"
    if engine.kind == "ddp" and options.get("compression") == "bf16" and accelerator.device == "cpu":
        what = "engine.compression is 'bf16', which ranks on accelerator.device 'cpu' cannot add up"
        yield what, "engine.compression", "use engine.compression=fp16"


def shards_share_out_the_ranks(job: Job, engine: Component, pools: tuple[Pool, ...]) -> Iterator[Finding]:
    world, shard = sum(pool.machine.nodes * ranks_per_node(pool) for pool in pools), engine.options.get("shard_ranks")
    if job.kind == "trainer" and engine.kind == "fsdp" and shard and world > 1 and world % shard:
        what = f"engine.shard_ranks is {shard}, which does not divide the run's {world} ranks"
        divisors = ", ".join(str(n) for n in range(1, world + 1) if world % n == 0)
        yield what, "engine.shard_ranks", f"use one of: {divisors}, or null for all ranks"


def recompute_has_blocks(job: Job, model: Component, train: Train) -> Iterator[Finding]:
    if job.kind == "trainer" and train.recompute and has_blocks(model.kind, ROOT) is False:
        others = [kind for kind in kinds("model", ROOT) if has_blocks(kind, ROOT)]
        what = f"train.recompute is true, and model {model.kind} has no blocks to compute again"
        yield what, "train.recompute", f"set it to false, or choose a model that has: {', '.join(others)}"


def objective_is_measured(job: Job, data: Component, objective: Objective) -> Iterator[Finding]:
    if job.kind == "trainer":
        names, _ = _measured(data)
        if objective.metric not in names:
            why = " (nothing is kept for validation)" if objective.metric in measured(ROOT, _task(data))[0] else ""
            what = f"objective.metric is {objective.metric!r}, which this run does not measure{why}"
            yield what, "objective.metric", f"use one of: {', '.join(names)}"


def end_is_evaluated(job: Job, train: Train, objective: Objective) -> Iterator[Finding]:
    wanted = {"train.stop_after": train.stop_after is not None, "train.export": train.export == "best"}
    for key in (key for key, said in wanted.items() if said):
        if job.kind == "trainer" and not objective.metric.startswith("val/"):
            what = f"{key} goes by the objective, and objective.metric {objective.metric!r} is not of an evaluation"
            yield what, key, "choose an objective of the validation set, such as val/loss"


def search_is_measured(
    job: Job, data: Component, accelerator: Accelerator, pools: tuple[Pool, ...], sweep: Grid | Search | None
) -> Iterator[Finding]:
    if job.kind != "trainer" or not isinstance(sweep, Search):
        return
    absent = _absent(data, accelerator, sum(pool.machine.nodes * ranks_per_node(pool) for pool in pools))
    names = [name for some in _measured(data) for name in some if name not in absent]
    for part in ("objectives", "constraints"):
        for i, said in enumerate(getattr(sweep, part)):
            if said.metric not in names:
                key = f"sweep.{part}.{i}.metric"
                yield f"{key} is {said.metric!r}, which a trial does not report", key, f"use one of: {', '.join(names)}"


def _absent(data: Component, accelerator: Accelerator, ranks: int) -> set[str]:
    """Metrics that are reported of other data, of cards or of several ranks alone."""
    given = preview(data, ROOT)
    found = {"train/tokens_per_s"} if given is not None and given.form in ("images", "numbers") else set[str]()
    found |= set() if accelerator.peak_tflops else {"train/mfu"}
    found |= set() if ranks > 1 else {"train/slowest_rank", "train/rank_spread"}
    return found | ({"train/memory_gb"} if accelerator.device == "cpu" else set())


def _measured(data: Component) -> tuple[list[str], list[str]]:
    names, beside = measured(ROOT, _task(data))
    given = preview(data, ROOT)
    validated = given is None or given.validation
    return [name for name in names if validated or not name.startswith("val/")], list(beside)


def _task(data: Component) -> str | None:
    """What is learned; None where only the data say."""
    given = preview(data, ROOT)
    return None if given is None else given.task
