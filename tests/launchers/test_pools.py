"""Pools from YAML to a plan: what each says differs, what is asked of Slurm for them, and who starts where."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from conf import job_schema, schema
from launchers.config.check import check_all
from launchers.errors import SpecError
from launchers.layout import Unit
from launchers.parts import Part, parts
from launchers.plan import Plan, apart, units_of
from launchers.planning import Facts, plan_of
from launchers.queue import slurm
from launchers.search.expand import compose_all
from launchers.step import Start, step_of

PROGRAM = ("job=command", "job.command=[chief]", "machine=cpu-small", "launcher=slurm")
OTHERS = "pools=[{},{machine: {base: cpu-large, nodes: 2}, job: {command: [worker]}},{},{job: {command: [judge]}}]"


def specs(*overrides: str, folder: Path | None = None) -> list[schema.Spec]:
    return check_all(compose_all(overrides, [folder] if folder else []))


def problems(*overrides: str) -> list[tuple[str, str]]:
    with pytest.raises(SpecError) as caught:
        specs(*overrides)
    return [(p.what, p.where) for p in caught.value.problems]


def planned(*overrides: str) -> Plan:
    return plan_of(specs(*overrides)[0], Facts(job="d-1", run_dir=Path("/runs/d-1"), python="/python", members=1))


def sizes(spec: schema.Spec) -> list[tuple[int, int, float]]:
    return [(pool.number, pool.machine.nodes, pool.machine.mem_gb) for pool in spec.pools]


def test_pools_without_the_key_are_one() -> None:
    (pool,) = specs(*PROGRAM)[0].pools

    assert (pool.number, pool.job) == (0, None)


def test_pools_say_what_differs_and_an_empty_one_keeps_its_place() -> None:
    chief, workers, judges = specs(*PROGRAM, OTHERS, "machine.mem_gb=1")[0].pools

    assert [p.number for p in (chief, workers, judges)] == [0, 1, 3]
    assert [p.machine.nodes for p in (chief, workers, judges)] == [1, 2, 1]
    assert (chief.machine.mem_gb, workers.machine.max_cpus, judges.machine.mem_gb) == (1, 64, 1)
    assert chief.job is None and workers.job and judges.job
    assert (workers.job.command, judges.job.command) == (("worker",), ("judge",))
    assert workers.machine.time_limit_min == chief.machine.time_limit_min == 60  # of the option it would be 1440


def test_pools_options_are_looked_up_in_folders_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "machine").mkdir()
    (tmp_path / "machine" / "mine.yaml").write_text("{mem_gb: 3.5, max_cpus: 4, partition: p}")

    spec = specs(*PROGRAM, "pools.1.machine=mine", folder=tmp_path)[0]

    assert spec.pools[1].machine.partition == "p"


def test_pools_values_on_the_command_line_keep_the_option() -> None:
    before = ("pools=[{},{machine: cpu-large}]", "pools.1.machine.nodes=4")

    assert sizes(specs(*PROGRAM, *before)[0]) == [(0, 1, 2), (1, 4, 16)]


def test_pools_are_swept_by_key_by_option_and_by_what_they_begin_from() -> None:
    found = specs(*PROGRAM, "pools.1.machine=cpu-large,cpu-small", "pools.1.machine.nodes=2,3", "machine.mem_gb=1,2")

    workers = [(spec.pools[0].machine.mem_gb, *sizes(spec)[1][1:]) for spec in found]
    assert workers == [(top, n, mem) for mem in (16, 2) for n in (2, 3) for top in (1, 2)]


def test_pools_everything_that_is_wrong_is_told_at_once() -> None:
    bad = "pools=[{},{machin: 1, machine: cpu-lareg, job: {notice_s: 3}},{},{machine: {nodes: 0, time_limit_min: 3}}]"

    said = problems(*PROGRAM, bad, "pools.x.machine=1", "pools.2=7", "pools.1.accelerator=a100")

    whats = "\n".join(what for what, _ in said)
    for words in (
        "pools has no position 'x'",
        "pools.1 has no key 'machin'",
        "pools.1.job has 'notice_s'",
        "machine has no option 'cpu-lareg'",
        "pools.2 is 7, and must be a group of keys",
        "pools.3.machine.nodes is 0",
        "pools.3.machine.time_limit_min is 3, but the job's is 60",
        "pools.1: accelerator.count is 1, but a node of this machine has 0",
    ):
        assert words in whats
    assert dict(said)["pools has no position 'x'"] == "override pools.x.machine=1"


def test_pools_in_an_experiment_are_told_with_their_line(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\npools:\n  - {}\n  - machine:\n      nodes: none\n"
    (tmp_path / "experiment" / "two.yaml").write_text(text)

    with pytest.raises(SpecError) as caught:
        specs(*PROGRAM, "experiment=two", folder=tmp_path)

    (problem,) = caught.value.problems
    assert "two.yaml:5 pools.1.machine.nodes" in problem.where


@pytest.mark.parametrize("raw", ["3", "[[]]", "[1]"])
def test_pools_that_are_no_list_of_groups_are_told(raw: str) -> None:
    assert all(what.startswith("pools") for what, _ in problems(*PROGRAM, f"pools={raw}"))


# --- what is asked of Slurm ---------------------------------------------------------------------------


def test_plan_of_a_chief_with_a_program_of_its_own_leaves_the_others_theirs() -> None:
    plan = planned(*PROGRAM, "job.command=[worker]", "pools=[{job: {command: [chief]}},{machine: {mem_gb: 2}}]")

    assert [pool.program for pool in plan.pools] == [("chief",), ("worker",)]


def test_plan_of_a_chief_whose_program_is_said_in_its_pool_alone_is_no_trainer() -> None:
    own = ("machine=cpu-small", "launcher=slurm", "job.hang=null", "pools=[{job: {base: command, command: [chief]}}]")
    (spec,) = specs(*own)

    assert (spec.job.kind, schema.chiefs_job(spec).kind) == ("trainer", "command")
    assert [pool.program for pool in planned(*own).pools] == [("chief",)]


def test_step_of_a_chief_on_the_host_names_the_folders_of_workers_in_containers(sif: Path) -> None:
    """Which are removed on all nodes after the attempt."""
    box = f"{{runtime: apptainer, image: {sif}}}"
    boxed = planned(*PROGRAM, f"pools=[{{}},{{machine: {{mem_gb: 2}}, container: {box}, job: {{command: [worker]}}}}]")
    bare = planned(*PROGRAM, OTHERS)

    assert step_of(boxed, 0, 0).scratch is not None and step_of(bare, 0, 0).scratch is None


@pytest.mark.parametrize("key", ["log_gb", "max_processes", "max_disk_gb", "data_format"])
def test_pools_what_is_the_whole_jobs_is_refused_of_one(key: str) -> None:
    value = {"log_gb": 2, "max_processes": 100, "max_disk_gb": 5, "data_format": "csv"}[key]

    assert any(key in what or key in where for what, where in problems(*PROGRAM, OTHERS, f"pools.1.job.{key}={value}"))


def test_plan_of_pools_that_are_alike_is_one_allocation() -> None:
    plan = planned(*PROGRAM, "pools.1.machine.nodes=3", "pools.1.job={command: [worker]}")

    assert (plan.sbatch["nodes"], plan.components, apart([plan])) == (4, (), frozenset())
    step = step_of(plan, 0, 0, {}, Start(None, units_of(plan)[2]))
    assert {"--relative=2", "--nodes=1"} <= set(step.argv) and step.argv[-2:] == ("2", "2")


def test_plan_of_pools_that_share_out_the_same_cpus_is_one_allocation() -> None:
    more = ("machine.cpus_per_rank=4", "pools.1.machine={ranks_per_node: 4, cpus_per_rank: 1, nodes: 2}")
    plan = planned(*PROGRAM, *more)

    asked = {name: plan.sbatch[name] for name in ("nodes", "ntasks_per_node", "cpus_per_task")}
    assert asked == {"nodes": 3, "ntasks_per_node": 1, "cpus_per_task": 4}
    assert plan.ranks == 9


def test_plan_of_pools_that_differ_is_a_heterogeneous_job() -> None:
    plan = planned(*PROGRAM, OTHERS)

    script = slurm.member_script(plan, Part.whole(0), "d-1")
    head, *components = script.split("#SBATCH hetjob\n")
    assert len(components) == 2 and "#SBATCH --nodes=1" in head
    assert "#SBATCH --nodes=2" in components[0] and "#SBATCH --mem=16384M" in components[0]
    assert script.count("supervise") == 1 and script.splitlines()[-1].startswith("exec env")


def test_plan_of_pools_is_golden(golden: Callable[[str, str], None]) -> None:
    plan = planned(*PROGRAM, OTHERS, "launcher.max_wait_min=15")
    units = units_of(plan)
    steps = ["\n".join(step_of(plan, 0, 0, {}, Start(None, unit)).argv) for unit in units]
    text = slurm.member_script(plan, Part.whole(0), "d-1")

    shown = [text, *steps, step_of(plan, 0, 0, {}, Start(None, units[1])).rank_script]
    golden("pools.txt", "\n---\n".join(part.rstrip() for part in shown) + "\n")


def test_units_are_replicas_where_a_worker_restarts_by_itself() -> None:
    plan = planned(*PROGRAM, OTHERS)

    assert [(u.name, u.first_rank, u.first_node) for u in units_of(plan)] == [
        ("workerpool0", 0, 0),
        ("workerpool1-0", 1, 1),
        ("workerpool1-1", 2, 2),
        ("workerpool3-0", 3, 3),
    ]


@pytest.mark.parametrize(
    "more", [("job.worker_restarts=0",), ("job.restart_job_on_worker_restart=true",), ("job.disable_retries=true",)]
)
def test_units_are_pools_where_workers_do_not(more: tuple[str, ...]) -> None:
    assert [u.name for u in units_of(planned(*PROGRAM, OTHERS, *more))] == ["workerpool0", "workerpool1", "workerpool3"]


def test_units_of_our_trainer_are_pools() -> None:
    """A rank that came back alone would meet nobody."""
    plan = planned("machine=cpu-small", "launcher=slurm", "pools.1.machine.nodes=3", "train.batch_size=8")

    assert [(u.name, u.ranks) for u in units_of(plan)] == [("workerpool0", 1), ("workerpool1", 3)]


def test_replica_of_each_rank_is_its_pool_and_place_there() -> None:
    plan = planned(*PROGRAM, "pools.1.machine={nodes: 2, ranks_per_node: 2}", "pools.3.machine.nodes=1")

    names = [plan.replica(rank) for rank in range(plan.ranks)]
    assert names == ["workerpool0-0", *["workerpool1-0"] * 2, *["workerpool1-1"] * 2, "workerpool3-0"]


def test_step_of_one_pool_is_as_it_was() -> None:
    plan = planned(*PROGRAM)

    assert units_of(plan) == (
        Unit(name="workerpool0", pool=0, first_rank=0, ranks=1, first_node=0, nodes=1, relative=0),
    )
    step = step_of(plan, 0, 0)
    assert step.script == "rank.sh" and step.argv[-1].endswith("/rank.sh") and "FAIRLEAD_POOL" not in step.env


def test_parts_of_heterogeneous_members_are_jobs_of_their_own() -> None:
    cut = parts(range(5), {3: 1, 4: 1}, 1, 1001, apart=[1])

    assert [(p.shape, p.elements) for p in cut] == [(0, (0, 1, 2)), (1, (3,)), (1, (4,))]
    assert slurm._which(cut[1], dataclasses.replace(planned(*PROGRAM), members=5)) == ["--member", "3", "--shape", "1"]


def test_disable_retries_leaves_no_restart() -> None:
    assert planned(*PROGRAM, "job.disable_retries=true").restarts == job_schema.Restarts(rendezvous=0, worker=0)
