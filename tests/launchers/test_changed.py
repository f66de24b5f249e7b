"""`retry` with overrides: members come back on another machine, and nothing else of them changes."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from launchers.errors import SpecError
from launchers.jobs import changed
from launchers.jobs.changed import Wish
from launchers.jobs.retry import retry
from launchers.jobs.spending import spending
from launchers.jobs.status import status_of
from launchers.launch import Request, checked, submit
from launchers.plan import Plan, plans_from
from launchers.run_folder.record import Run, make_private, mark_ended, read_json, rows_of, write_json
from tests.plans import plan_of_run, pool_plan

SLURM = ("launcher=slurm", "machine=cpu-small", "tracking=none", "name=d", "train.batch_size=64")

CNN = {"kind": "cnn", "options": {"width": 8}}


@pytest.mark.parametrize(
    ("folders", "below"),
    [
        ((None,), ""),
        (("project",), ""),
        (("project/sub/deep",), "sub/deep"),
        ((None, "project/sub"), "sub"),
        (("/app", "project/sub"), "sub"),
    ],
)
def test_changed_folder_of_the_launch_is_that_of_whichever_pool_starts_there(
    tmp_path: Path, folders: tuple[str | None, ...], below: str
) -> None:
    pools = tuple(pool_plan(("true",), cwd=folder) for folder in folders)

    assert changed._below(dataclasses.replace(plan_of_run(Run(tmp_path), pools[0]), pools=pools)) == below


@pytest.fixture
def launched(cluster: Any, workdir: Path) -> Any:
    """Launch with these overrides on a Slurm that queues; every member then fails in its first attempt."""

    def make(*overrides: str) -> Run:
        request = Request(overrides=(*SLURM, *overrides), multirun=True)
        run, plan = submit(checked(request), print)
        cluster.put("squeue", "pass")
        for index in range(plan.members):
            fail(run, index)
        return run

    return make


def fail(run: Run, index: int) -> None:
    number = len(run.member(index).attempts())
    attempt = make_private(run.member(index).path / f"attempt-{number}")
    times = {"started": 1000.0 + 100 * number, "ended": 1010.0 + 100 * number}
    write_json(attempt / "started.json", {"started": times["started"]})
    write_json(attempt / "outcome.json", {"state": "FAILED", "cause": "x", "message": "y", **times})
    mark_ended(run, index, number, "FAILED")


def again(run: Run, *overrides: str, members: list[int] | None = None, **more: Any) -> list[int]:
    return retry(run, members, Wish(overrides=overrides, **more), lambda _: None)


def plan_of(run: Run, index: int) -> Plan:
    (row,) = rows_of(run, {index})
    return plans_from(read_json(run.plan))[row.get("shape", 0)]


def queued(run: Run) -> str:
    """The newest batch script of members."""
    folders = [p for p in (run.path / "submit").iterdir() if not p.name.endswith(".finish")]
    newest = max(folders, key=lambda folder: int(folder.name.partition(".r")[2] or 0))
    (script,) = newest.glob("[0-9]*_submission.sh")
    return script.read_text()


def machine(run: Run, index: int) -> dict[str, Any]:
    (row,) = rows_of(run, {index})
    found: dict[str, Any] = {**read_json(run.spec), **row["sections"]}["pools"][0]["machine"]
    return found


def test_retry_with_fewer_ranks_queues_the_member_on_them(launched: Any) -> None:
    run = launched("machine.nodes=2", "machine.ranks_per_node=2")

    assert again(run, "machine.nodes=1", "machine.ranks_per_node=1", "machine.time_limit_min=600") == [0]

    pool = plan_of(run, 0).pools[0]
    assert (pool.nodes, pool.ranks_per_node) == (1, 1)
    assert (machine(run, 0)["nodes"], machine(run, 0)["time_limit_min"]) == (1, 600)
    script = queued(run)
    assert re.search("--nodes=1$", script, re.M) and re.search("--time=600$", script, re.M) and "--shape 1" in script
    assert plans_from(read_json(run.plan))[0].pools[0].nodes == 2, "the old plan stays beside the new one"
    assert not [row for row in rows_of(run) if {"job", "launcher"} & row["sections"].keys()]


def test_plan_of_a_retry_differs_only_in_what_was_said(launched: Any) -> None:
    run = launched("machine.nodes=2", "launcher.max_parallel=3", "site.env={A: 'x${oc.env:HOME}'}")
    before = plan_of(run, 0)

    again(run, "job.max_requeues=77")

    now = plan_of(run, 0)
    assert {k for k in vars(now) if getattr(now, k) != getattr(before, k)} == {"shape", "max_requeues"}


def test_retry_with_what_holds_already_changes_nothing(launched: Any) -> None:
    run = launched("machine.nodes=2")
    files = [run.plan.read_text(), run.members_file.read_text()]

    assert again(run, "machine.nodes=2", "machine=cpu-small", "machine.nodes=2") == [0]

    assert [run.plan.read_text(), run.members_file.read_text()] == files
    assert status_of(run).changes == ()


def test_members_of_a_grid_keep_what_they_do_not_share(launched: Any) -> None:
    run = launched("machine.nodes=1,2", "optimizer.lr=0.1,0.2")

    assert again(run, "machine.time_limit_min=77", members=[1, 2, 3]) == [1, 2, 3]

    assert [machine(run, i)["nodes"] for i in range(4)] == [1, 1, 2, 2]
    assert [machine(run, i)["time_limit_min"] == 77 for i in range(4)] == [False, True, True, True]
    assert [plan_of(run, i).pools[0].nodes for i in range(4)] == [1, 1, 2, 2]
    assert [row["point"]["optimizer.lr"] for row in rows_of(run)] == [0.1, 0.2, 0.1, 0.2]
    assert [(c.members, c.before) for c in status_of(run).changes] == [("1", 0), ("2-3", 1)]


def test_chosen_option_is_taken_whole_and_from_the_folders_of_the_launch(
    launched: Any, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = launched()
    folder = make_private(workdir / "mine" / "machine")
    (folder / "big.yaml").write_text(
        "mem_gb: 7\nmax_cpus: 96\ntime_limit_min: 9\npartition: ${site.default_partition}\n"
    )
    origin = read_json(run.provenance)
    write_json(run.provenance, {**origin, "command": ["fairlead", "launch", "--config-dir", "mine"]})
    monkeypatch.chdir("/")

    again(run, "machine=big", "machine.ranks_per_node=64")

    assert (machine(run, 0)["mem_gb"], machine(run, 0)["ranks_per_node"]) == (7, 64)
    assert plan_of(run, 0).sbatch["ntasks_per_node"] == 64


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("machine.ranks_per_node=65",), "train.batch_size is 64, less than 65 ranks"),
        (("machine.nods=3",), "machine has no key 'nods'"),
        (("model.width=3",), "model.width cannot be changed by retry"),
        (("launcher=local",), "launcher cannot be changed by retry"),
        (("machine.nodes=1,2",), "machine.nodes has several values"),
        (("~machine.nodes",), "retry takes key=value"),
        (("machine=nope",), "machine has no option 'nope'"),
        (("machine",), "'machine' is neither group=option nor key=value"),
        (("machine=gpu-1", "accelerator=h100", "container.accelerators=[none,cuda]"),
         "accelerator.kind would be 'cuda', but the job was launched with 'none'"),
        (("machine.time_limit_min=1",), "job.notice_s is 60, but the time limit is 60 s"),
        (("job.command=[x]",), "job.command cannot be changed by retry"),
    ],
)  # fmt: skip
def test_what_retry_cannot_do_is_said_and_nothing_is_changed(launched: Any, words: tuple[str, ...], said: str) -> None:
    run = launched()
    files = {path: path.read_bytes() for path in run.path.rglob("*.json*") if path.is_file()}

    with pytest.raises(SpecError) as e:
        again(run, *words)

    assert said in str(e.value)
    now = {path: path.read_bytes() for path in run.path.rglob("*.json*") if path.is_file()}
    assert now == files


def test_all_problems_are_told_at_once_with_their_places(launched: Any) -> None:
    run = launched("train.batch_size=2,1")

    with pytest.raises(SpecError) as e:
        again(run, "machine.ranks_per_node=3", "machine.mem_gb=-1", "job.hang.step=3")

    problems = {problem.what.partition(",")[0]: problem.where for problem in e.value.problems}
    assert problems["machine.mem_gb is -1"] == "override machine.mem_gb=-1"
    assert problems["job has no key 'hang.step'"] == "override job.hang.step=3"

    with pytest.raises(SpecError) as e:
        again(run, "machine.ranks_per_node=3")

    assert [p.what.partition(",")[0] for p in e.value.problems] == ["train.batch_size is 2", "train.batch_size is 1"]
    assert {p.where for p in e.value.problems} == {f"{run.id}, as launched: train.batch_size"}
    assert {p.do for p in e.value.problems} == {"train.batch_size stays as launched: give retry something else"}


def test_precision_of_another_card_of_the_kind_is_asked_about(launched: Any) -> None:
    gpu = ("machine=gpu-1", "accelerator=h100", "container.accelerators=[cuda,none]")
    run = launched(*gpu)

    with pytest.raises(SpecError) as e:
        again(run, "accelerator.precision=fp16", "accelerator.precisions=[fp16,fp32,bf16]")
    assert "the run would go on in 'fp16', but was launched in 'bf16'" in str(e.value)

    again(run, "accelerator.slurm_type=a100")
    assert plan_of(run, 0).pools[0].gres == "gpu:a100:1"


@pytest.mark.parametrize("torn", ["changes", "plan", "members"])
def test_retry_that_is_killed_while_it_writes_can_be_given_again(
    launched: Any, torn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = launched("machine.nodes=2")

    class KillError(BaseException):
        """As a signal would."""

    def killed(*_: Any) -> None:
        raise KillError

    name = {"changes": "write_change", "plan": "write_json", "members": "write_text"}[torn]
    with monkeypatch.context() as m, pytest.raises(KillError):
        m.setattr(changed, name, killed)
        again(run, "machine.nodes=1")

    assert plan_of(run, 0).pools[0].nodes == 2
    now = status_of(run)
    assert (now.state, now.changes) == ("FAILED", ())
    assert again(run, "machine.nodes=1") == [0]
    assert plan_of(run, 0).pools[0].nodes == 1
    assert [change.overrides for change in status_of(run).changes] == [("machine.nodes=1",)]


def test_status_tells_of_every_change_and_each_attempt_costs_what_it_held(launched: Any, fairlead: Any) -> None:
    run = launched("machine.nodes=4", "machine.ranks_per_node=2", "machine.hourly_cost=36")
    again(run, "machine.nodes=1")
    fail(run, 0)
    again(run, "machine.ranks_per_node=1", "launcher.sbatch.licenses=a")
    fail(run, 0)

    used = spending(run, [])

    assert sum(used.rank_s.values()) == pytest.approx(10 * 8 + 10 * 2 + 10 * 1)
    assert sum(used.money.values()) == pytest.approx(0.4 + 0.1 + 0.1)
    text = fairlead("status", run.id).stdout
    assert next(line.split("  ")[-1] for line in text.splitlines() if "changed" in line) == "machine.nodes=1"
    said = json.loads(fairlead("status", run.id, "--json").stdout)["changes"]
    assert said[0]["keys"]["pools.0.machine.nodes"] == {"was": 4, "now": 1}
    assert set(said[1]["keys"]) == {"pools.0.machine.ranks_per_node", "launcher.sbatch", "launcher.sbatch.licenses"}


def test_trial_of_a_search_keeps_its_point_and_new_ones_the_machine_of_the_launch(launched: Any) -> None:
    from launchers.search.extend import Wish as More
    from launchers.search.extend import extend

    run = launched("sweep=digits_tpe", "sweep.trials=2", "sweep.startup_trials=2")
    write_json(run.member(1).point, {"point": {"model.width": 8}, "asked": 1000.0, "sections": {"model": CNN}})

    again(run, "machine.cpus_per_rank=2", members=[0, 1])
    for index in range(2):
        fail(run, index)
    extend(run, More(trials=3))

    rows = rows_of(run)
    assert [machine(run, i)["cpus_per_rank"] for i in range(3)] == [2, 2, 1]
    assert rows[1]["point"] == {"model.width": 8} and rows[1]["sections"]["model"] == CNN
    assert rows[2] == {"index": 2, "late": True, "point": {}, "sections": {}}
    assert plan_of(run, 0).search


def test_command_goes_on_where_the_launch_was_given_and_word_for_word(launched: Any, workdir: Path) -> None:
    (workdir / "deep").mkdir()
    run = launched("job=command", "job.command=['sh','-c','echo \\${HOME} $x']")
    before = plan_of(run, 0)

    again(run, "job.silent_min=3")

    now = plan_of(run, 0)
    assert now.pools[0].program == ("sh", "-c", "echo ${HOME} $x") == before.pools[0].program
    assert (now.pools[0].cwd, now.silent_min) == (before.pools[0].cwd, 3)


def test_container_given_to_retry_replaces_that_of_the_launch_and_its_digest(
    launched: Any, sif: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.sif"
    other.write_bytes(sif.read_bytes() + b"more")
    run = launched("container=pytorch-cpu", f"container.image={sif}", "job=command", "job.command=[/opt/train]")
    before = plan_of(run, 0).pools[0].container

    again(run, "machine.nodes=1")
    same = plan_of(run, 0).pools[0].container
    again_failed = len(read_json(run.plan)["plans"])
    fail(run, 0)
    again(run, f"container.image={other}")
    now = plan_of(run, 0).pools[0].container

    assert before is not None and same == before and again_failed == 1
    assert now is not None and (now.image, now.digest != before.digest) == (str(other), True)


# --- several pools ------------------------------------------------------------------------------------

POOLS = (
    "job=command",
    "job.command=[chief]",
    "job.metrics.kind=none",
    "pools=[{},{},{machine: {nodes: 2, mem_gb: 3}, job: {command: [worker]}}]",
)


def pools_of(run: Run, index: int) -> list[dict[str, Any]]:
    (row,) = rows_of(run, {index})
    found: list[dict[str, Any]] = {**read_json(run.spec), **row["sections"]}["pools"]
    return found


def test_retry_changes_a_pool_and_leaves_the_others_and_their_programs(launched: Any) -> None:
    run = launched(*POOLS)
    before = plan_of(run, 0)
    again(run, "pools.2.machine.nodes=1", "pools.0.machine=cpu-large", "pools.0.machine.time_limit_min=30")

    now, script = plan_of(run, 0), queued(run)
    assert [(p.name, p.nodes, p.mem) for p in now.pools] == [
        ("workerpool0", 1, "16384M"),
        ("workerpool2", 1, "3072M"),
    ]
    assert [p.program for p in now.pools] == [p.program for p in before.pools] == [("chief",), ("worker",)]
    assert {p["machine"]["time_limit_min"] for p in pools_of(run, 0)} == {30}
    assert script.count("#SBATCH hetjob") == 1 and script.count("--time=30") == 2 and "--mem=16384M" in script


def test_retry_of_a_group_of_pools_keeps_their_name_and_limits_of_the_whole_job(launched: Any) -> None:
    run = launched(*POOLS)
    again(run, "pools.2.machine=cpu-large", "job.notice_s=77")

    chief, workers = pools_of(run, 0)
    assert (workers["number"], workers["machine"]["mem_gb"], workers["machine"]["nodes"]) == (2, 16, 1)
    assert chief["machine"]["time_limit_min"] == workers["machine"]["time_limit_min"] == 60
    assert plan_of(run, 0).notice_s == 77 and chief["machine"]["mem_gb"] == 2


@pytest.mark.parametrize(
    ("pools", "word", "what"),
    [
        (POOLS, "machine.nodes=3", "machine.nodes is of no pool, and the job has 2 worker pools"),
        (POOLS, "pools.1.machine.nodes=3", "the job has no pool 1"),
        (POOLS, "pools.2.job.command=[other]", "pools.2.job.command cannot be changed by retry"),
        (POOLS, "pools.2.machine.nodes=0", "pools.2.machine.nodes is 0"),
        (POOLS, "pools.2.machine=nowhere", "machine has no option 'nowhere'"),
        (POOLS, "pools.2.machine.time_limit_min=3", "pools.2.machine.time_limit_min is 3, but the job's is 60"),
        (POOLS, "pools.0.machine.nodes=2", "machine.nodes of pool 0 is 2, but the chief is one replica"),
        (POOLS, "pools.2.accelerator=a100", "accelerator.count is 1"),
        ((), "pools.0.machine.nodes=2", "the job has one worker pool alone"),
    ],
)
def test_retry_of_pools_refuses_with_the_rule_and_changes_nothing(
    launched: Any, pools: tuple[str, ...], word: str, what: str
) -> None:
    run = launched(*pools)
    before = read_json(run.plan)

    with pytest.raises(SpecError) as caught:
        again(run, word)

    assert any(what in problem.what for problem in caught.value.problems), caught.value.problems
    assert read_json(run.plan) == before
