"""The rules of programs that are not our trainer: what reaches them, where their reports come from.

As in rules.py: a rule's parameters name the sections it looks at, and check.py finds it. What one section
must be is section.py's.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from conf.job_schema import Job
from conf.schema import Objective
from conf.sweep_schema import Grid, Search
from launchers.config import parameters

Finding = tuple[str, str, str]
OF_THE_TRAINER = ("data", "engine", "model", "optimizer", "train")
"""Sections that mean nothing to a command."""
TAKEN = re.compile(
    r"(AIP|APPTAINER|APPTAINERENV|CLOUD_ML|CUDA|FAIRLEAD|LD|PYTHON|SINGULARITY|SLURM)_.*|PYTHON[A-Z]+"
    r"|(LOCAL_|NODE_)?RANK|(LOCAL_)?WORLD_SIZE|NNODES|MASTER_(ADDR|PORT)|CLUSTER_SPEC|TF_CONFIG|HOME|PATH|TMPDIR|USER"
)
"""Variables that say where a program runs: a parameter of that name would break it."""
OF_HYDRA = re.compile(r"(\+\+?|~)?[\w$./@:-]+")
"""What can stand in front of the = in an override of Hydra's."""


def parameters_reach_a_command(job: Job, params: Mapping[str, Any]) -> Iterator[Finding]:
    names = [name for name, _ in parameters.flat(params)]
    if job.kind == "trainer" and params:
        what = f"params has {', '.join(params)}, but job.kind is 'trainer', which takes none of them"
        yield what, "params", "use job=command, script or module, or set keys of model, optimizer and train"
    for name in names if job.parameters == "overrides" else ():
        if not OF_HYDRA.fullmatch(name):
            what = f"params has {name!r}, which is no key that Hydra takes on a command line"
            yield what, "params", "use letters, digits, dots, _ and /; or job.parameters=arguments"
    if job.parameters == "environment":
        by_variable = defaultdict(list)
        for name in names:
            by_variable[parameters.variable(name)].append(name)
        for found, same in by_variable.items():
            if len(same) > 1:
                what = f"{' and '.join(f'params.{name}' for name in same)} would both be the variable {found}"
                yield what, f"params.{same[1]}", "rename one of them, or use job.parameters=arguments"
            if TAKEN.fullmatch(found):
                what = f"params.{same[0]} would be the variable {found}, which tells programs where they run"
                yield what, f"params.{same[0]}", "rename it, or use job.parameters=arguments"


def reports_can_be_read(job: Job) -> Iterator[Finding]:
    metrics = job.metrics
    if job.kind == "trainer" and metrics.kind != "none":
        what = f"job.metrics.kind is {metrics.kind!r}, but job.kind is 'trainer', which reports by itself"
        yield what, "job.metrics.kind", "leave it out"
    if (metrics.kind == "pattern") != (metrics.pattern is not None):
        what = f"job.metrics.kind is {metrics.kind!r}, but job.metrics.pattern is {metrics.pattern!r}"
        key = "job.metrics.kind" if metrics.pattern is None else "job.metrics.pattern"
        yield what, key, "give a pattern with job.metrics.kind=pattern, and with no other"
    elif metrics.pattern is not None:
        yield from _pattern_problems(metrics.pattern, metrics.metric)
    path = PurePosixPath(metrics.path or ".")
    if path.is_absolute() or ".." in path.parts:
        what = f"job.metrics.path is {metrics.path!r}, which members would share"
        yield what, "job.metrics.path", "write it below $FAIRLEAD_MEMBER_DIR, and give it as model/metrics.jsonl"


def _pattern_problems(pattern: str, metric: str | None) -> Iterator[Finding]:
    key = "job.metrics.pattern"
    try:
        groups = set(re.compile(pattern).groupindex)
    except (re.error, RecursionError, OverflowError) as e:
        yield f"job.metrics.pattern is no regular expression: {e}", key, "see the documentation of Python's module re"
        return
    do = "write (?P<value>...) for a number, with (?P<metric>...) or job.metrics.metric for its name, or (?P<loss>...)"
    if not groups - {"step", "metric"}:
        yield f"job.metrics.pattern is {pattern!r}, which has no group for a number", key, do
    elif "metric" in groups and "value" not in groups:
        yield f"job.metrics.pattern is {pattern!r}, which has a group metric and none named value", key, do
    elif "value" in groups and ("metric" in groups) == (metric is not None):
        what = f"the metric's name must come from a group metric or from job.metrics.metric, which is {metric!r}"
        yield what, key, do


def sweep_is_of_a_command(job: Job, sweep: Grid | Search | None) -> Iterator[Finding]:
    if job.kind == "trainer" or sweep is None:
        return
    if isinstance(sweep, Search) and job.metrics.kind == "none":
        what = "job.metrics.kind is 'none', but a search learns from what its trials report"
        yield what, "job.metrics.kind", "say where reports come from: hypertune, jsonl, tensorboard, mlflow or pattern"
    if job.parameters == "none":
        return  # it reads the whole spec, or nothing at all
    for key, place in _keys(sweep):
        if key.partition(".")[0] in OF_THE_TRAINER:
            what = f"{key} is swept, but it does not reach a command"
            yield what, place, "sweep keys below params; or job.parameters=none, where it reads $FAIRLEAD_SPEC itself"


def objective_is_what_the_pattern_finds(
    job: Job, objective: Objective, sweep: Grid | Search | None
) -> Iterator[Finding]:
    """The other kinds of reports have whatever names the program gives them."""
    pattern = job.metrics.pattern
    if job.kind == "trainer" or sweep is None or pattern is None:
        return
    try:
        groups = set(re.compile(pattern).groupindex)
    except (re.error, RecursionError, OverflowError):
        return
    if "metric" in groups:
        return
    found = {*(groups - {"step", "value"}), *([job.metrics.metric] if job.metrics.metric else [])}
    several = sweep.objectives if isinstance(sweep, Search) else ()
    for wanted in [goal.metric for goal in several] or [objective.metric]:
        if found and wanted not in found:
            what = f"members are compared by {wanted!r}, but job.metrics.pattern finds {', '.join(sorted(found))}"
            key = "sweep.objectives" if several else "objective.metric"
            yield what, key, "name one of these, or a group of that name in the pattern"


def _keys(sweep: Grid | Search) -> Iterator[tuple[str, str]]:
    """Swept keys and where they stand."""
    if isinstance(sweep, Search):
        yield from ((key, f"sweep.parameters.{key}") for key in sweep.parameters)
        return
    places = [("sweep", sweep.product, sweep.zip)]
    places += [(f"sweep.blocks.{i}", block.product, block.zip) for i, block in enumerate(sweep.blocks)]
    for place, product, together in places:
        yield from ((key, f"{place}.product.{key}") for key in product)
        yield from ((key, f"{place}.zip.{key}") for key in together)
