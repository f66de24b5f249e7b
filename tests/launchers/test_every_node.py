"""Which nodes of an attempt are looked at, and cleaned: its own, all of them, in each component of a job of several."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from launchers.errors import CommandError
from launchers.host import every_node, outside
from launchers.layout import Place
from launchers.plan import Plan
from launchers.queue.in_pool import VARIABLE
from launchers.run_folder.record import Run
from tests.plans import plan_of_run, pool_plan


def plan(workdir: Path, launcher: str, *pools: tuple[int, Place]) -> Plan:
    """Pools of so many nodes, each in its place."""
    of_one = [pool_plan(("true",), nodes=nodes, place=place, mem=f"{nodes}M") for nodes, place in pools]
    made = plan_of_run(Run(workdir), of_one[0], launcher=launcher)
    return dataclasses.replace(made, pools=tuple(of_one))


def asked(fakes: Any) -> list[list[str]]:
    """What each srun was told of nodes and components."""
    names = ("--nodes", "--ntasks=", "--het-group", "--jobid", "--nodelist", "--mem")
    return [[word for word in call["argv"] if word.startswith(names)] for call in fakes.calls("srun")]


@pytest.fixture
def attempt(workdir: Path, fakes: Any) -> Path:
    fakes.put("srun", "")
    return workdir


def test_attempt_on_one_host_is_looked_at_and_cleaned_without_slurm(attempt: Path, fakes: Any) -> None:
    (attempt / "scratch").mkdir()
    for launcher, pools in (("local", [(2, Place()), (3, Place())]), ("slurm", [(1, Place())])):
        one = plan(attempt, launcher, *pools)

        outside.look_everywhere(one, attempt, [0, 1])
        every_node.remove_folders([str(attempt / "scratch")], one)

    assert asked(fakes) == [] and not (attempt / "scratch").exists()


def test_pools_of_one_allocation_are_all_its_nodes(attempt: Path, fakes: Any) -> None:
    shared = plan(attempt, "slurm", (1, Place()), (2, Place(first_rank=1, first_node=1)))

    outside.look_everywhere(shared, attempt, [0, 1])
    every_node.remove_folders(["/tmp/x"], shared)

    assert asked(fakes) == [["--mem=0", "--nodes=3", "--ntasks=3"], ["--nodes=3", "--ntasks=3"]]


def test_pools_of_a_heterogeneous_job_are_each_asked_for_by_its_component(attempt: Path, fakes: Any) -> None:
    places = (Place(group=0), Place(first_rank=1, first_node=1, group=1))
    apart = plan(attempt, "slurm", (1, places[0]), (2, places[1]))

    outside.look_everywhere(apart, attempt, [0, 2])
    every_node.remove_folders(["/tmp/x"], apart)

    of_each = [["--het-group=0", "--nodes=1", "--ntasks=1"], ["--het-group=1", "--nodes=2", "--ntasks=2"]]
    assert asked(fakes) == [
        *(["--mem=0", *one] for one in of_each),
        [*of_each[0], "--mem=1M"],
        [*of_each[1], "--mem=2M"],
    ]


def test_component_that_does_not_answer_hides_no_other(attempt: Path, fakes: Any) -> None:
    fakes.put("srun", "'--het-group=0' in sys.argv and sys.exit('srun: error: it is gone')")
    apart = plan(attempt, "slurm", (1, Place(group=0)), (2, Place(first_rank=1, first_node=1, group=1)))

    with pytest.raises(CommandError, match="it is gone"):
        outside.look_everywhere(apart, attempt, [0, 2])

    assert [words[1] for words in asked(fakes)] == ["--het-group=0", "--het-group=1"]


def test_member_of_a_held_allocation_is_on_its_own_nodes_alone(
    attempt: Path, fakes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, json.dumps({"pool": "mine", "job": "77", "nodes": ["n3"], "ends_at": 1e12}))
    mine = plan(attempt, "pool", (1, Place()))

    outside.look_everywhere(mine, attempt, [0])
    every_node.remove_folders(["/tmp/x"], mine)

    own = ["--jobid=77", "--nodelist=n3"]
    assert asked(fakes) == [[*own, "--mem=0", "--nodes=1", "--ntasks=1"], [*own, "--nodes=1", "--ntasks=1"]]
