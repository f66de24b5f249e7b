"""The environment contract: the shapes of CLUSTER_SPEC and TF_CONFIG, what differs between ranks, how it arrives."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conf import schema
from conf.job_schema import Job
from launchers import contract
from launchers.cli import main
from launchers.cluster import (
    LONGEST,
    Cluster,
    Located,
    PoolHosts,
    cluster,
    cluster_spec,
    custom_job_spec,
    groups,
    hostfile,
    ports_of,
    shell_lines,
    tf_config,
)
from launchers.config.command_rules import parameters_reach_a_command
from launchers.plan import Plan
from launchers.planning import Facts, plan_of
from launchers.step import Start, step_of
from tests.launchers.planned import COMMAND, TWO_BY_TWO, boxed, composed, planned, with_our_code

NAMES = contract.names(Path("/runs/d-1"), "d-1", 3, 0)


def pool(number: int, hosts: int, each: int = 1, **more: Any) -> PoolHosts:
    return PoolHosts(
        name=f"workerpool{number}",
        hosts=tuple(f"{chr(97 + number)}{i}" for i in range(hosts)),
        ranks_per_node=each,
        **more,
    )


def told(found: Cluster, rank: int, folder: Path) -> dict[str, str]:
    """What the real /bin/sh makes of the lines of rank.sh."""
    one = next(
        p
        for p in found.pools
        if rank < sum(len(q.hosts) * q.ranks_per_node for q in found.pools[: found.pools.index(p) + 1])
    )
    lines = contract.lines_of_rank(found, one.name, "")
    script = folder / "lines.sh"
    script.write_text("\n".join([*lines, "exec env -0"]) + "\n", encoding="utf-8", errors="surrogateescape")
    place = contract.of_rank(found, NAMES, rank)
    env = {"PATH": os.environ["PATH"], "RANK": str(rank), "LOCAL_RANK": place["LOCAL_RANK"]}
    done = subprocess.run(["sh", str(script)], env=env, capture_output=True, check=True, timeout=60)
    return dict(part.split("=", 1) for part in done.stdout.decode(errors="surrogateescape").split("\0") if part)


# --- shapes -------------------------------------------------------------------------------------------


def test_cluster_spec_of_four_pools_has_vertexes_shape() -> None:
    four = cluster([pool(0, 1), pool(1, 2), pool(2, 1), pool(3, 1)], 20000)

    assert cluster_spec(four, 2) == {
        "cluster": {
            "workerpool0": ["a0:20001"],
            "workerpool1": ["b0:20004", "b1:20004"],
            "workerpool2": ["c0:20007"],
            "workerpool3": ["d0:20010"],
        },
        "task": {"type": "workerpool1", "index": 1},
        "environment": "cloud",
        "job": custom_job_spec(four),
    }


def test_tf_config_names_roles_and_never_lists_evaluators() -> None:
    four = cluster([pool(0, 1), pool(1, 2), pool(2, 1), pool(3, 2)], 20000)

    seen = [tf_config(four, rank) for rank in range(6)]

    assert [s["task"] for s in seen if s] == [
        {"type": "chief", "index": 0},
        {"type": "worker", "index": 0},
        {"type": "worker", "index": 1},
        {"type": "ps", "index": 0},
        {"type": "evaluator", "index": 0},
        {"type": "evaluator", "index": 1},
    ]
    assert all(s and set(s["cluster"]) == {"chief", "worker", "ps"} for s in seen)


def test_cluster_spec_empty_middle_pool_keeps_the_positions_of_the_others() -> None:
    found = cluster([pool(0, 1), pool(1, 0), pool(3, 1)], 20000)
    spec = cluster_spec(found, 1)

    assert spec is not None
    assert list(spec["cluster"]) == ["workerpool0", "workerpool3"]
    assert spec["task"] == {"type": "workerpool3", "index": 0}
    assert [bool(p) for p in custom_job_spec(found)["worker_pool_specs"]] == [True, False, False, True]


@pytest.mark.parametrize("hosts", [3, 1])
def test_cluster_spec_one_pool_is_a_chief_and_workers(hosts: int) -> None:
    """TensorFlow takes one chief at most; Vertex's SDK makes the same of N replicas."""
    found = cluster([pool(0, hosts, 4 - hosts)], 20000)

    assert [(g.name, g.role, g.first, len(g.addresses)) for g in groups(found)] == [
        ("workerpool0", "chief", 0, 1),
        ("workerpool1", "worker", 1, 2),
    ]
    assert [p["replica_count"] for p in custom_job_spec(found)["worker_pool_specs"]] == [1, 2]


def test_cluster_spec_several_tasks_of_a_chief_come_before_the_workers() -> None:
    found = cluster([pool(0, 1, 2, spec={"x": 0}), pool(1, 1, 2, spec={"x": 1})], 20000)
    spec = cluster_spec(found, 1)

    assert spec is not None
    assert spec["cluster"] == {"workerpool0": ["a0:20001"], "workerpool1": ["a0:20004", "b0:20007", "b0:20010"]}
    assert [p["x"] for p in spec["job"]["worker_pool_specs"]] == [0, 1]


def test_cluster_single_replica_is_told_of_no_cluster(tmp_path: Path) -> None:
    one = cluster([pool(0, 1)], 20000)

    assert (cluster_spec(one, 0), tf_config(one, 0)) == (None, None)
    assert not {"CLUSTER_SPEC", "TF_CONFIG"} & set(told(one, 0, tmp_path))


def test_cluster_spec_trial_is_there_in_searches_alone() -> None:
    pools = [pool(0, 2)]
    searched, plain = cluster_spec(cluster(pools, 1, "7"), 1), cluster_spec(cluster(pools, 1), 1)

    assert searched and plain
    assert searched["task"] == {**plain["task"], "trial": "7"}


SIZES = st.tuples(st.integers(1, 3), st.integers(1, 3))


@given(sizes=st.lists(SIZES, min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_cluster_any_pools_are_the_same_to_all_but_for_the_task_and_no_port_is_taken_twice(
    sizes: list[tuple[int, int]],
) -> None:
    """As hosts are shared: every pool on the same ones."""
    pools = [
        PoolHosts(name=f"workerpool{i}", hosts=("h", "i", "j")[:n], ranks_per_node=k) for i, (n, k) in enumerate(sizes)
    ]
    found = cluster(pools, 20000)
    ranks = contract.ranks_of(found)
    specs = [cluster_spec(found, rank) for rank in range(ranks)]
    if ranks == 1:
        assert specs == [None]
        return

    assert len({json.dumps({k: v for k, v in (s or {}).items() if k != "task"}) for s in specs}) == 1
    listed = [address for s in specs[:1] for some in (s or {})["cluster"].values() for address in some]
    assert len(set(listed)) == len(listed) == ranks
    assert [(s or {})["cluster"][(s or {})["task"]["type"]][(s or {})["task"]["index"]] for s in specs] == listed
    used = {int(address.partition(":")[2]) for address in listed} | {20000}
    assert max(used) + 2 < 20000 + ports_of([k for _, k in sizes])


# --- how it reaches a rank ----------------------------------------------------------------------------


def test_rank_lines_say_what_the_plan_shows_for_every_rank(tmp_path: Path) -> None:
    awkward = {"container_spec": {"args": ["it's", "$(touch canary)", '"\n`id`', "ü\\n", "%s"]}}
    four = cluster([pool(0, 1, 2, spec=awkward), pool(1, 2), pool(2, 1), pool(3, 1)], 20000, "5", {"experiment": "$x'"})

    for rank in range(6):
        seen, shown = told(four, rank, tmp_path), contract.of_rank(four, NAMES, rank)
        assert json.loads(seen["CLUSTER_SPEC"]) == json.loads(shown["CLUSTER_SPEC"]) == cluster_spec(four, rank)
        assert json.loads(seen["TF_CONFIG"]) == json.loads(shown["TF_CONFIG"]) == tf_config(four, rank)
        assert [seen[name] for name in contract.PROFILER_PORTS] == [shown[name] for name in contract.PROFILER_PORTS]
    assert list(tmp_path.iterdir()) == [tmp_path / "lines.sh"]


def test_rank_lines_ports_of_a_host_are_no_two_the_same() -> None:
    found = cluster([pool(0, 1, 3)], 20000)
    names = ("MASTER_PORT", *contract.PROFILER_PORTS)
    said = {**NAMES, **contract.meeting(found, 1)}
    ports = [contract.of_rank(found, said, rank)[name] for rank in range(3) for name in names]
    ports += [address.partition(":")[2] for group in groups(found) for address in group.addresses]

    assert len(set(ports)) == 1 + 3 * 3
    assert {int(port) for port in ports} == set(range(20000, 20000 + ports_of([3])))


def test_rank_lines_too_long_for_linux_leave_the_job_out_and_then_the_cluster(tmp_path: Path) -> None:
    """execve(2) refuses a variable of 128 KiB, and the program would never start."""
    large = cluster([pool(0, 2)], 20000, None, {"experiment": "x" * LONGEST})
    huge = cluster(
        [PoolHosts(name="workerpool0", hosts=tuple(f"host{i:030}" for i in range(4000)), ranks_per_node=1)], 1
    )

    assert set(json.loads(told(large, 1, tmp_path)["CLUSTER_SPEC"])) == {"cluster", "task", "environment"}
    assert [line for line in shell_lines(huge, "") if "left out" in line]
    assert "CLUSTER_SPEC" not in told(huge, 1, tmp_path)


def test_hostfile_slots_are_tasks_or_cards_where_a_node_has_one_task() -> None:
    assert hostfile(cluster([pool(0, 2, 1, cards=8)], 1)) == "a0 slots=8\na1 slots=8\n"
    assert hostfile(cluster([pool(0, 1, 4, cards=4), pool(1, 1)], 1)) == "a0 slots=4\nb0 slots=1\n"


# --- in the plan --------------------------------------------------------------------------------------


def env_of(plan: Plan, rank: int, member: int = 0) -> Mapping[str, str]:
    step = step_of(plan, member, 0, {}, Start(Located(hosts=(("n1", "n2"),), port=20000)))
    return contract.of_rank(step.cluster, step.env, rank)


def test_plan_contract_of_two_hosts_has_them_all() -> None:
    env = env_of(planned(composed(*TWO_BY_TWO, *COMMAND, "tracking.experiment=mine"), members=2), 3, member=1)

    assert {name: env[name] for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")} == {
        "RANK": "3",
        "LOCAL_RANK": "1",
        "NODE_RANK": "1",
        "WORLD_SIZE": "4",
        "LOCAL_WORLD_SIZE": "2",
    }
    assert (env["MASTER_ADDR"], env["MASTER_PORT"], env["NNODES"]) == ("n1", "20000", "2")
    assert (env["AIP_EXPERIMENT_NAME"], env["AIP_EXPERIMENT_RUN_NAME"]) == ("mine", "digits-1.1")
    spec = json.loads(env["CLUSTER_SPEC"])
    assert spec["cluster"] == {"workerpool0": ["n1:20001"], "workerpool1": ["n1:20004", "n2:20001", "n2:20004"]}
    assert "trial" not in spec["task"]
    chief, workers = spec["job"]["worker_pool_specs"]
    assert (chief["replica_count"], workers["replica_count"]) == (1, 3)
    assert (chief["container_spec"]["command"], chief["container_spec"]["args"]) == (["python3"], ["train.py"])
    assert all(env[f"AIP_{name}_DIR"].endswith("/") for name in ("MODEL", "CHECKPOINT", "TENSORBOARD_LOG"))


def test_plan_contract_in_a_held_allocation_counts_the_ranks_of_all_its_nodes() -> None:
    here = dataclasses.replace(composed(*TWO_BY_TWO, *COMMAND), launcher=schema.Launcher(kind="pool", pool="mine"))

    step = step_of(planned(here), 0, 0)

    assert contract.ranks_of(step.cluster) == 4
    assert contract.of_rank(step.cluster, step.env, 3)["NODE_RANK"] == "1"


def test_plan_contract_of_a_search_has_its_trial_and_metric() -> None:
    spec = composed("sweep=digits_tpe", "experiment=digits", *TWO_BY_TWO)
    env = env_of(planned(spec, members=9), 1, member=7)

    assert json.loads(env["CLUSTER_SPEC"])["task"] == {"type": "workerpool1", "index": 0, "trial": "7"}
    assert (env["CLOUD_ML_TRIAL_ID"], env["CLOUD_ML_HP_METRIC_TAG"]) == ("7", spec.objective.metric)


def test_plan_contract_names_no_experiment_where_nothing_is_tracked() -> None:
    assert not {"AIP_EXPERIMENT_NAME", "AIP_EXPERIMENT_RUN_NAME"} & set(
        env_of(planned(composed("tracking=none", *TWO_BY_TWO)), 0)
    )


def test_plan_contract_says_cards_in_the_jobs_spec_and_no_credential(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-of-a-secret")
    cards = ("machine=gpu-8", "accelerator=a100", "accelerator.count=8", "launcher=slurm")
    plan = planned(boxed(composed(*cards, "data=tokens", "model=gpt", "data.path=s3://b/x")))
    step = step_of(plan, 0, 0)
    spec = json.loads(contract.of_rank(step.cluster, step.env, 0)["CLUSTER_SPEC"])["job"]["worker_pool_specs"][0]

    assert spec["machine_spec"] == {"machine_type": "slurm", "accelerator_type": "a100", "accelerator_count": 1}
    assert spec["container_spec"]["image_uri"] == "/images/pytorch.sif"
    assert "canary-of-a-secret" not in f"{step}"


def test_plan_slurms_variables_reach_a_container(tmp_path: Path, fakes: Any) -> None:
    fakes.put("apptainer")
    spec = boxed(composed(*TWO_BY_TWO, *COMMAND))
    facts = Facts(job="d-1", run_dir=tmp_path / "d-1", python="/opt/python", members=1, image="/images/x.sif")
    plan = with_our_code(plan_of(spec, facts))
    script = tmp_path / "rank.sh"
    (facts.run_dir / "members" / "0" / "attempt-0").mkdir(parents=True)
    step = step_of(plan, 0, 0)
    script.write_text(step.rank_script.replace(shlex.quote(step.scratch or ""), shlex.quote(str(tmp_path / "scratch"))))
    said = {"SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NODEID": "1", "SLURM_JOB_NODELIST": "n[1-2] $x"}
    kept = {"SLURM_CONF": "/etc/x", "SLURM_EXPORT_ENV": "NONE"}

    subprocess.run(["sh", str(script)], env={"PATH": os.environ["PATH"], **said, **kept}, check=True, timeout=60)

    (call,) = fakes.calls("apptainer")
    inside = {k.removeprefix("APPTAINERENV_"): v for k, v in call["env"].items() if k.startswith("APPTAINERENV_")}
    assert {k: v for k, v in inside.items() if k.startswith("SLURM_")} == said
    assert (inside["RANK"], json.loads(inside["CLUSTER_SPEC"])["task"]["index"]) == ("3", 2)
    assert "CLUSTER_SPEC" not in call["env"]


def test_plan_verb_shows_the_contract_of_the_rank_that_is_named(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["plan", "job=command", "job.command=[x]", "launcher=slurm", "machine=cpu-small", "machine.nodes=2"]

    assert [main([*words, "--rank", "1"]), main([*words, "--rank", "1", "--json"])] == [0, 0]

    text, _, document = capsys.readouterr().out.partition("\n{\n")
    assert '"task": {"type": "workerpool1", "index": 0}' in text
    assert '\nMASTER_ADDR="<host 0>"\n' in text and '\nRANK="1"\n' in text
    inside = json.loads(json.loads("{" + document)["environment"]["CLUSTER_SPEC"])
    assert inside["job"]["worker_pool_specs"][1]["container_spec"]["command"] == ["x"]


def test_plan_verb_rank_that_is_not_there_is_an_error(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "job=command", "job.command=[x]", "--rank", "3"]) == 2

    assert "there is no rank 3: member 0 has 1\n  where  --rank 3" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["nnodes", "cluster_spec", "tf_config", "aip_model_dir", "master_port"])
def test_parameter_that_would_be_a_variable_of_the_contract_is_refused(name: str) -> None:
    job = Job(kind="command", command=("x",), parameters="environment")

    ((what, place, _),) = parameters_reach_a_command(job, {name: 1})

    assert (f"would be the variable {name.upper()}" in what, place) == (True, f"params.{name}")
