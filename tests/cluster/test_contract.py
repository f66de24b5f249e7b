"""The environment contract on real hosts: programs that know only CLUSTER_SPEC, only torchrun, or only Slurm."""

from __future__ import annotations

import json
import sys

import pytest

from tests.cluster.harness import Cluster

pytestmark = pytest.mark.slurm

FROM_CLUSTER_SPEC = """
import json, os, pathlib
import torch, torch.distributed as dist

spec, tf = json.loads(os.environ["CLUSTER_SPEC"]), json.loads(os.environ["TF_CONFIG"])
listed = [a for name in sorted(spec["cluster"]) for a in spec["cluster"][name]]
mine = spec["cluster"][spec["task"]["type"]][spec["task"]["index"]]
dist.init_process_group("gloo", f"tcp://{listed[0]}", rank=listed.index(mine), world_size=len(listed))
total = torch.tensor([10.0 ** dist.get_rank()])
dist.all_reduce(total)
kept = {n: v for n, v in os.environ.items() if n.startswith(("AIP_", "SLURM_", "RANK", "NODE", "NNODES", "MASTER"))}
dirs = [n for n in ("AIP_MODEL_DIR", "AIP_CHECKPOINT_DIR", "AIP_TENSORBOARD_LOG_DIR") if os.path.isdir(os.environ[n])]
seen = {"sum": total.item(), "mine": mine, "spec": spec, "tf": tf, "env": kept, "dirs": dirs,
        "hosts": open(os.environ["FAIRLEAD_HOSTFILE"]).read()}
pathlib.Path(os.environ["AIP_MODEL_DIR"], f"seen-{os.environ['RANK']}.json").write_text(json.dumps(seen))
dist.destroy_process_group()
"""

UNDER_TORCHRUN = """
import os, pathlib
import torch, torch.distributed as dist

dist.init_process_group("gloo")
total = torch.ones(1)
dist.all_reduce(total)
said = f"{dist.get_rank()} {dist.get_world_size()} {total.item():g} {os.uname().nodename}"
pathlib.Path(os.environ["AIP_MODEL_DIR"], f"worker-{dist.get_rank()}").write_text(said)
dist.destroy_process_group()
"""


@pytest.mark.apptainer
def test_program_in_containers_on_two_hosts_meets_by_cluster_spec(cluster: Cluster) -> None:
    (cluster.work / "train.py").write_text(FROM_CLUSTER_SPEC)
    program = ("job=command", "job.command=[python3,train.py]", "container=pytorch-cpu")

    run = cluster.launch(*program, "machine.nodes=2", "machine.ranks_per_node=1")

    assert cluster.wait(run)["state"] == "SUCCEEDED", cluster.fairlead("logs", str(run), "--errors").stdout
    first, second = (json.loads((run / f"members/0/model/seen-{r}.json").read_text()) for r in (0, 1))
    assert first["sum"] == second["sum"] == 11
    (chief,), (worker,) = first["spec"]["cluster"]["workerpool0"], first["spec"]["cluster"]["workerpool1"]
    assert (first["mine"], second["mine"]) == (chief, worker)
    assert [s["spec"]["task"] for s in (first, second)] == [
        {"type": "workerpool0", "index": 0},
        {"type": "workerpool1", "index": 0},
    ]
    assert [s["tf"]["task"]["type"] for s in (first, second)] == ["chief", "worker"]
    assert first["tf"]["cluster"] == {"chief": [chief], "worker": [worker]}
    alike = [{k: v for k, v in s["spec"].items() if k != "task"} for s in (first, second)]
    assert alike[0] == alike[1]
    hosts = [address.partition(":")[0] for address in (chief, worker)]
    assert [s["env"]["MASTER_ADDR"] for s in (first, second)] == [hosts[0]] * 2
    assert first["hosts"] == "".join(f"{host} slots=1\n" for host in hosts)
    assert [
        (s["env"]["SLURM_PROCID"], s["env"]["SLURM_NODEID"], s["env"]["SLURM_NTASKS"]) for s in (first, second)
    ] == [
        ("0", "0", "2"),
        ("1", "1", "2"),
    ]
    assert {"SLURM_JOB_ID", "SLURM_LOCALID", "SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NNODES"} <= set(
        second["env"]
    )
    assert len(first["dirs"]) == len(second["dirs"]) == 3


def test_torchrun_on_two_hosts_starts_two_workers_on_each(cluster: Cluster) -> None:
    (cluster.work / "train.py").write_text(UNDER_TORCHRUN)
    (cluster.work / "start.sh").write_text(
        f"exec {sys.executable} -m torch.distributed.run --nnodes=$NNODES --node-rank=$NODE_RANK --nproc-per-node=2"
        " --rdzv-endpoint=$MASTER_ADDR:$MASTER_PORT train.py\n"
    )

    run = cluster.launch("job=command", "job.command=[sh,start.sh]", "machine.nodes=2", "machine.ranks_per_node=1")

    assert cluster.wait(run)["state"] == "SUCCEEDED", cluster.fairlead("logs", str(run), "--errors").stdout
    said = [(run / f"members/0/model/worker-{rank}").read_text().split() for rank in range(4)]
    assert [words[:3] for words in said] == [[str(rank), "4", "4"] for rank in range(4)]
    hosts = [words[3] for words in said]
    assert hosts[0] == hosts[1] != hosts[2] == hosts[3]


BY_DEEPSPEED = """
import argparse, os, pathlib
import deepspeed, torch

words = argparse.ArgumentParser()
words.add_argument("--local_rank", type=int)
words.parse_args()
# On CPUs it would compile an operation for a minute; killed meanwhile, it leaves a lock that all later ones wait for.
vars(deepspeed.ops).setdefault("__compatible_ops__", {})
model = torch.nn.Linear(1, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config={"train_micro_batch_size_per_gpu": 8})
x = torch.linspace(-1, 1, 16)[:, None].chunk(2)[engine.global_rank]
for _ in range(20):
    loss = torch.nn.functional.mse_loss(engine(x), 2 * x)
    engine.backward(loss)
    engine.step()
said = f"{engine.world_size} {os.uname().nodename} {loss.item() < 0.1}"
pathlib.Path(os.environ["AIP_MODEL_DIR"], f"rank-{engine.global_rank}").write_text(said)
"""


def test_deepspeed_launcher_on_two_hosts_reads_our_hostfile_and_needs_no_ssh(cluster: Cluster) -> None:
    (cluster.work / "train.py").write_text(BY_DEEPSPEED)
    (cluster.work / "start.sh").write_text(
        f"exec {sys.executable} -m deepspeed.launcher.runner --no_ssh --node_rank=$NODE_RANK"
        " --hostfile=$FAIRLEAD_HOSTFILE --master_addr=$MASTER_ADDR --master_port=$MASTER_PORT train.py\n"
    )

    words = ("job=command", "job.command=[sh,start.sh]", "tracking=none", "job.metrics.kind=none")
    run = cluster.launch(*words, "machine.nodes=2", "machine.ranks_per_node=1", "machine.time_limit_min=4")

    assert cluster.wait(run)["state"] == "SUCCEEDED", cluster.fairlead("logs", str(run)).stdout
    said = [(run / f"members/0/model/rank-{rank}").read_text().split() for rank in (0, 1)]
    assert [(world, good) for world, _, good in said] == [("2", "True")] * 2 and said[0][1] != said[1][1]


BY_SLURM = """
import os, pathlib
import jax, numpy as np
from jax.experimental import multihost_utils

jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize()  # reads SLURM_* and nothing else
found = multihost_utils.process_allgather(np.array([10.0 ** jax.process_index()]))
said = f"{jax.process_index()} {jax.process_count()} {found.sum():g} {os.uname().nodename}"
pathlib.Path(os.environ["AIP_MODEL_DIR"], f"process-{os.environ['RANK']}").write_text(said)
"""


def test_jax_finds_the_processes_of_two_hosts_by_what_slurm_says(cluster: Cluster) -> None:
    (cluster.work / "train.py").write_text(BY_SLURM)

    words = ("job=script", "job.script=train.py", "tracking=none", "job.metrics.kind=none")
    run = cluster.launch(*words, "machine.nodes=2", "machine.ranks_per_node=1")

    assert cluster.wait(run)["state"] == "SUCCEEDED", cluster.fairlead("logs", str(run)).stdout
    said = [(run / f"members/0/model/process-{rank}").read_text().split() for rank in (0, 1)]
    assert [words[:3] for words in said] == [["0", "2", "11"], ["1", "2", "11"]] and said[0][3] != said[1][3]
