"""What people run, run in a held allocation on a real cluster: our trainer, a container, a search, secrets, retries.

All tests share one allocation. How jobs share one, and what becomes of them when something is killed: test_pool.py.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cluster.conftest import CANARY
from tests.cluster.harness import QUICK, Cluster, attempts, until
from tests.cluster.searching import program, searching, trials_of

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(300)]
SMALL = ("machine.mem_gb=0.5", "tracking=none")
OF_A_FILE = "canary-of-a-file"
SAYS = """
import json, os, pathlib
print(os.environ.get("APPTAINER_CONTAINER"), os.environ["SLURM_JOB_ID"], flush=True)
print(json.loads(os.environ["CLUSTER_SPEC"])["task"], flush=True)
pathlib.Path("/tmp/of-the-container").touch()
pathlib.Path(os.environ["AIP_MODEL_DIR"], os.environ["RANK"]).write_text(os.uname().nodename)
"""
TELLS = """
import os
token, key = os.environ["TOKEN"], open(os.environ["KEY_FILE"]).read()
print(token, key, len(token), len(key), "ORIGIN" in os.environ, flush=True)
raise ValueError("it was " + token)
"""


def found_in(folder: Path) -> list[Path]:
    """Files with a secret in them."""
    files = (p for p in folder.rglob("*") if p.is_file() and not p.is_symlink())
    return [p for p in files if any(canary.encode() in p.read_bytes() for canary in (CANARY, OF_A_FILE))]


def free_cpus(cluster: Cluster) -> list[int]:
    (pool,) = json.loads(cluster.fairlead("pool", "list", "--json").stdout)
    return [node["free"]["cpus"] for node in pool["nodes"].values()]


def test_trainer_on_two_nodes_trains_is_tracked_and_registers_its_model(held: Cluster) -> None:
    run = held.launch(*QUICK, "machine.nodes=2", "machine.mem_gb=1.5")

    end = held.wait(run)

    assert end["state"] == "SUCCEEDED", attempts(run)
    assert end["members"][0]["metrics"]["val/accuracy"] > 0
    assert {p.name for p in run.glob("members/0/attempt-0/rank-*.log")} == {"rank-0.log", "rank-1.log"}
    begun = json.loads((run / "members/0/attempt-0/started.json").read_text())
    assert begun["pool"] == "mine" and len(begun["nodes"]) == 2
    assert json.loads((run / "result.json").read_text())["model"]["name"] == "digits"


@pytest.mark.apptainer
def test_program_in_a_container_is_on_its_nodes_and_leaves_nothing_there(held: Cluster) -> None:
    (held.work / "says.py").write_text(SAYS)
    job = ("job=command", "job.command=[python3,says.py]", "job.metrics.kind=none", *SMALL)

    run = held.launch(*job, "container=pytorch-cpu", "machine.nodes=2")

    assert held.wait(run)["state"] == "SUCCEEDED", held.fairlead("logs", str(run), "--errors").stdout
    begun = json.loads((run / "members/0/attempt-0/started.json").read_text())
    assert [(run / f"members/0/model/{rank}").read_text() for rank in (0, 1)] == begun["nodes"]
    for rank, task in enumerate(("workerpool0", "workerpool1")):
        said = (run / f"members/0/attempt-0/rank-{rank}.log").read_text().split("\n")
        assert "pytorch-cpu" in said[0] and said[0].split()[1] == begun["slurm_job_id"]
        assert said[1] == f"{{'type': '{task}', 'index': 0}}"
    left = [p for folder in ("/tmp", "/dev/shm") for p in Path(folder).glob(f"fairlead-{run.name}*")]
    assert not left and not Path("/tmp/of-the-container").exists()


def test_search_asks_for_each_point_when_there_is_room_and_finds_its_best(held: Cluster) -> None:
    more = {"algorithm": "tpe", "startup_trials": 3, "trials": 5}
    run = held.launch(*searching(held, more), *SMALL)

    assert held.wait(run)["counts"] == {"SUCCEEDED": 5}
    trials = trials_of(run)
    assert len({trial.point["params.x"] for trial in trials.values()}) == 5
    best = json.loads(held.fairlead("best", str(run), "--json").stdout)["best"]
    assert best["trial"] == min(trials, key=lambda n: abs(trials[n].point["params.x"] - 0.3))
    assert (run / "report.html").exists() and free_cpus(held) == [2, 2, 2]


def test_secret_is_found_nowhere_but_in_the_program(held: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    (held.work / "tells.py").write_text(TELLS)
    key = held.work.parent / "key"
    key.write_text(OF_A_FILE)
    monkeypatch.setenv("ORIGIN", CANARY)
    job = ("job=command", "job.command=[python3,tells.py]", "machine.nodes=2", *SMALL, "job.metrics.kind=none")
    run = held.launch(*job, "secrets.TOKEN.env=ORIGIN", f"secrets.KEY={{file: {key}, through: file}}")
    monkeypatch.delenv("ORIGIN")

    end = held.wait(run)
    held.fairlead("retry", str(run))
    again = held.wait(run)

    assert end["state"] == again["state"] == "FAILED" and "ValueError: it was ***" in json.dumps(end)
    logs = sorted(run.glob("members/0/attempt-*/rank-?.log"))
    said = [log.read_text().splitlines()[0] for log in logs]
    assert len(said) == 4 and set(said) == {f"*** *** {len(CANARY)} {len(OF_A_FILE)} False"}
    kept = held.work.parent / "state/fairlead/secrets" / f"{run.name}.json"
    assert sorted(found_in(held.work.parent)) == sorted([key, kept]), "for a retry"
    assert not list(Path("/dev/shm").glob(f"fairlead-secrets-{run.name}*"))


def test_cancelled_member_saves_and_a_retry_goes_on_from_there(held: Cluster) -> None:
    gate = held.work / "gate"
    run = held.launch(*program(held, STEPS="4", GATE=str(gate), GATE_STEP="3"), "params.x=0.5", *SMALL)
    until(lambda: (run / "members/0/checkpoints/state.json").exists() and saved(run) == 2, 60)

    held.fairlead("cancel", str(run))
    assert held.wait(run)["counts"] == {"CANCELLED": 1}
    assert saved(run) == 3 and free_cpus(held) == [2, 2, 2]
    gate.touch()
    held.fairlead("retry", str(run))

    assert held.wait(run)["state"] == "SUCCEEDED"
    reports = [path.read_text().splitlines() for path in sorted(run.glob("members/0/attempt-*/program.jsonl"))]
    assert [[json.loads(line)["step"] for line in lines] for lines in reports] == [[1, 2, 3], [4]]


def saved(run: Path) -> int:
    return int(json.loads((run / "members/0/checkpoints/state.json").read_text())["step"])


def test_member_that_failed_runs_again_and_the_others_of_its_grid_do_not(held: Cluster) -> None:
    mended = held.work / "mended"
    command = json.dumps(["sh", "-c", f"[ $FAIRLEAD_MEMBER != 1 ] || [ -e {mended} ]"])
    job = ("job=command", f"job.command={command}", "job.metrics.kind=none", *SMALL)
    run = held.launch(*job, "-m", "params.x=1,2,3")
    assert held.wait(run)["counts"] == {"SUCCEEDED": 2, "FAILED": 1}
    assert [a["cause"] for a in attempts(run, 1)] == ["user_error"]

    mended.touch()
    held.fairlead("retry", str(run))

    assert held.wait(run)["counts"] == {"SUCCEEDED": 3}
    assert [len(attempts(run, member)) for member in range(3)] == [1, 2, 1]


SLURM = """
import json, os, pathlib, subprocess
said = {name: value for name, value in os.environ.items() if name.startswith("SLURM")}
if os.environ["RANK"] == "0" and not os.environ.get("APPTAINER_CONTAINER"):
    nested = ["srun", "--overlap", "--ntasks=1", "--nodes=1", "--mem=0", "hostname"]
    said["nested"] = subprocess.run(nested, capture_output=True, text=True, timeout=60).stdout.strip()
    asked = ["scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]]
    said["hostnames"] = subprocess.run(asked, capture_output=True, text=True, timeout=60).stdout.split()
pathlib.Path(os.environ["AIP_MODEL_DIR"], os.environ["RANK"]).write_text(json.dumps(said))
"""


@pytest.mark.parametrize("box", ["none", pytest.param("pytorch-cpu", marks=pytest.mark.apptainer)])
@pytest.mark.parametrize("nodes", [1, 2])
def test_program_that_reads_slurms_variables_finds_its_own_job(held: Cluster, nodes: int, box: str) -> None:
    (held.work / "says.py").write_text(SLURM)
    job = ("job=command", "job.command=[python3,says.py]", "job.metrics.kind=none", *SMALL)

    run = held.launch(*job, f"container={box}", f"machine.nodes={nodes}", "machine.ranks_per_node=2")

    assert held.wait(run)["state"] == "SUCCEEDED", held.fairlead("logs", str(run), "--errors").stdout
    hosts = json.loads((run / "members/0/attempt-0/started.json").read_text())["nodes"]
    ranks = [json.loads((run / f"members/0/model/{rank}").read_text()) for rank in range(2 * nodes)]
    listed = {1: "n1", 2: "n[1-2]"}[nodes]
    for rank, said in enumerate(ranks):
        node, local = divmod(rank, 2)
        assert (said["SLURM_PROCID"], said["SLURM_NODEID"], said["SLURM_LOCALID"]) == (str(rank), str(node), str(local))
        assert said["SLURM_NTASKS"] == said["SLURM_NPROCS"] == said["SLURM_STEP_NUM_TASKS"] == str(2 * nodes)
        assert said["SLURM_NNODES"] == said["SLURM_JOB_NUM_NODES"] == str(nodes)
        assert said["SLURM_NODELIST"] == said["SLURM_JOB_NODELIST"] == said["SLURM_STEP_NODELIST"] == listed
        assert said["SLURM_TASKS_PER_NODE"] == said["SLURM_STEP_TASKS_PER_NODE"]
        assert said["SLURMD_NODENAME"] == hosts[node]
    if box == "none":
        assert ranks[0]["hostnames"] == hosts and ranks[0]["nested"] in ("n1", "n2", "n3")
