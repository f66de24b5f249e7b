"""Specs of a few words each, and the plans of them for a run folder and a Python that are nowhere."""

from __future__ import annotations

import dataclasses
import functools
import sys
from pathlib import Path
from typing import Any

from conf import schema
from launchers.config.check import check_all
from launchers.plan import Plan
from launchers.planning import Facts, plan_of
from launchers.search.expand import compose_all
from tests.launchers.tracked import put_our_code

PYTHON = "/opt/python"
DIGEST = "sha256:" + "0" * 64
TWO_BY_TWO = ("machine=cpu-small", "machine.nodes=2", "machine.ranks_per_node=2", "launcher=slurm")
A100 = ("machine=gpu-8", "accelerator=a100", "accelerator.count=8", "launcher=slurm")
MI300X = ("machine=gpu-8", "accelerator=mi300x", "accelerator.count=8", "launcher=slurm")
COMMAND = ("job=command", "job.command=[python3,train.py]")


@functools.cache
def composed(*overrides: str) -> schema.Spec:
    return check_all(compose_all(overrides))[0]


def boxed(spec: schema.Spec) -> schema.Spec:
    """The spec in an image, whatever the files of this machine are."""
    (pool,) = spec.pools
    container = dataclasses.replace(pool.container, runtime="apptainer", image="/images/x.sif", python="python3")
    return dataclasses.replace(spec, pools=(dataclasses.replace(pool, container=container),))


def changed(spec: schema.Spec, **of_container: Any) -> schema.Spec:
    (pool,) = spec.pools
    container = dataclasses.replace(pool.container, **of_container)
    return dataclasses.replace(spec, pools=(dataclasses.replace(pool, container=container),))


def planned(spec: schema.Spec, run_dir: str = "/runs/digits-1", members: int = 1) -> Plan:
    is_boxed = spec.pools[0].container.runtime == "apptainer"
    image = {"image": "/images/pytorch.sif", "digest": DIGEST} if is_boxed else {}
    return plan_of(spec, Facts(job="digits-1", run_dir=Path(run_dir), python=PYTHON, members=members, **image))


def with_our_code(plan: Plan) -> Plan:
    """A plan that can be run here: what stands before a command's program is in the run's snapshot of our code."""
    put_our_code(Path(plan.run_dir))
    return dataclasses.replace(plan, python=sys.executable)
