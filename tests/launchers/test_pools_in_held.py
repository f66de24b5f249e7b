"""Several worker pools in a held allocation: one step for each unit, on its own part of the member's nodes."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest

from launchers.config.check import check_all
from launchers.host.place import located
from launchers.host.srun import in_held
from launchers.plan import Plan, units_of
from launchers.queue.in_pool import VARIABLE
from launchers.queue.places import Room, need_of
from launchers.run_folder.record import Attempt, make_private
from launchers.search.expand import compose_all
from launchers.step import Start, step_name, step_of
from tests.launchers.planned import COMMAND, planned
from tests.launchers.pooled import make_pool

NODES = ["n2", "n5", "n7"]
POOLS = "pools=[{},{machine: {nodes: 2, cpus_per_rank: 3, mem_gb: 0.25}}]"


@pytest.fixture
def plan(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """A chief and two workers that ask for more CPUs and less memory; their member has been given three nodes."""
    make_pool(workdir / "pool", nodes=4, cpus=4)
    place = {"pool": "small", "job": "77", "nodes": NODES, "ends_at": 1e12}
    monkeypatch.setenv(VARIABLE, json.dumps(place))
    words = ("machine=cpu-small", "machine.mem_gb=0.5", "machine.time_limit_min=5", "launcher=pool")
    (spec,) = check_all(compose_all((*COMMAND, *words, "launcher.pool=small", POOLS)))
    return planned(spec, str(workdir / "run"))


def test_pools_that_differ_are_no_heterogeneous_job_and_each_node_is_as_large_as_any_needs(plan: Plan) -> None:
    assert plan.components == () and [pool.place.group for pool in plan.pools] == [None, None]
    assert need_of(plan) == (3, Room(cpus=3, mem_mb=512, gpus=0))


def test_pools_hosts_lie_behind_each_other_in_what_the_member_was_given(plan: Plan) -> None:
    assert located(plan, 0, 0).hosts == (("n2",), ("n5", "n7"))


def test_units_are_steps_of_their_own_on_their_own_nodes(plan: Plan, fakes: Any) -> None:
    fakes.put("srun", "print(1)")
    attempt = Attempt(make_private(Path(plan.run_dir) / "members/0/attempt-0"))
    for unit in units_of(plan):
        step = step_of(plan, 0, 0, start=Start(located(plan, 0, 0), unit))
        in_held(step, attempt, os.environ, lambda: False, unit).wait()

    calls = [call["argv"] for call in fakes.calls("srun")]
    of_nodes = ("--jobid", "--nodelist", "--nodes", "--mem", "--cpus-per-task", "--relative")
    assert [[word for word in argv if word.startswith(of_nodes)] for argv in calls] == [
        ["--jobid=77", "--nodelist=n2", "--mem=512M", "--nodes=1", "--cpus-per-task=1"],
        ["--jobid=77", "--nodelist=n5", "--mem=256M", "--nodes=1", "--cpus-per-task=3"],
        ["--jobid=77", "--nodelist=n7", "--mem=256M", "--nodes=1", "--cpus-per-task=3"],
    ]
    names = [[word for word in argv if word.startswith("--job-name=")][-1] for argv in calls]
    assert names == [f"--job-name=digits-1.0.{unit.name}" for unit in units_of(plan)]
    assert all("--exact" in argv for argv in calls)
    assert {path.name for path in attempt.path.glob("srun*")} == {f"srun-{unit.name}.log" for unit in units_of(plan)}


def test_name_of_all_steps_of_a_member_is_how_each_of_its_units_begins_and_none_of_another_member(plan: Plan) -> None:
    of_all = step_name(plan, 1)
    assert of_all.endswith(".") and all(step_name(plan, 1, unit).startswith(of_all) for unit in units_of(plan))
    assert not any(step_name(plan, 11, unit).startswith(of_all) for unit in units_of(plan))
    alone = dataclasses.replace(plan, pools=plan.pools[:1])
    assert step_name(alone, 1) == "digits-1.1"
