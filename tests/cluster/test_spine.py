"""The main job on a real cluster: containers over two hosts, one array for a sweep, everything in MLflow."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.harness import QUICK, TESTBED, Cluster, attempts

pytestmark = pytest.mark.slurm


@pytest.mark.apptainer
def test_digits_on_two_hosts_in_containers_registers_a_model_that_predicts(cluster: Cluster) -> None:
    shape = ("machine.nodes=2", "machine.ranks_per_node=2")
    run = cluster.launch("experiment=digits", "container=pytorch-cpu", *shape)
    end = cluster.wait(run, timeout_s=400)

    assert end["state"] == "SUCCEEDED", cluster.fairlead("logs", str(run), "--errors").stdout
    assert end["result"]["metrics"]["val/accuracy"] >= 0.97
    assert end["result"]["model"]["name"] == "digits"
    started = json.loads((run / "members/0/attempt-0/started.json").read_text())
    assert re.fullmatch(r"n\[\d[-,]\d\]", started["slurm_job_nodelist"]), "two hosts, whichever were free"
    assert len(list((run / "members/0/attempt-0").glob("rank-*.log"))) == 4
    assert json.loads((run / "provenance.json").read_text())["image"]["digest"].startswith("sha256:")
    assert _loaded_elsewhere(run, end["result"]["model"]["uri"]) == [2, 10]
    assert _runs_of(run) == 1


def test_sweep_of_four_is_one_array_with_children_of_one_run(cluster: Cluster) -> None:
    run = cluster.launch(*QUICK, "-m", "model.width=8,16", "optimizer.lr=1e-3,1e-2")

    submissions = [json.loads(line) for line in (run / "submit.jsonl").read_text().splitlines()]
    assert [s["kind"] for s in submissions if "kind" in s] == ["members", "finish"]
    end = cluster.wait(run)
    assert end["state"] == "SUCCEEDED", cluster.fairlead("logs", str(run), "--errors").stdout
    assert [m["point"] for m in end["members"]] == [
        {"model.width": 8, "optimizer.lr": 0.001},
        {"model.width": 8, "optimizer.lr": 0.01},
        {"model.width": 16, "optimizer.lr": 0.001},
        {"model.width": 16, "optimizer.lr": 0.01},
    ]
    tracking = json.loads((run / "tracking.json").read_text())
    assert tracking["parent_run_id"] and len(set(tracking["runs"].values())) == 4
    array = {json.loads(p.read_text())["slurm_array_job_id"] for p in run.glob("members/*/attempt-0/started.json")}
    assert array == {submissions[1]["slurm_id"]}


def test_rendered_folder_runs_again_with_plain_sbatch(cluster: Cluster) -> None:
    run = cluster.launch(*QUICK)
    assert cluster.wait(run)["state"] == "SUCCEEDED"

    bare = {"PATH": "/usr/bin:/bin", "SLURM_CONF": os.environ["SLURM_CONF"]}  # no Fairlead here
    subprocess.run(["sbatch", "--wait", str(run / "job.sbatch")], check=True, timeout=120, env=bare)

    assert [a["state"] for a in attempts(run)] == ["SUCCEEDED", "SUCCEEDED"]


def test_launch_from_inside_a_job_is_a_job_of_its_own(cluster: Cluster) -> None:
    words = [sys.executable, "-m", "launchers.cli", "launch", "--config-dir", str(TESTBED / "conf")]
    words += ["launcher=slurm", "site=testbed", "machine=cpu-small", "machine.nodes=2", *QUICK]
    argv = ["sbatch", "--wait", "--array=7", "--ntasks=1", "--mem=500M", "--time=3", "--output=outer.log", "--wrap"]
    script = " ".join(f"'{word}'" for word in words)
    subprocess.run([*argv, script], check=True, timeout=120, cwd=cluster.work)

    (run,) = (cluster.work / "runs").glob("digits-*")
    assert cluster.wait(run)["state"] == "SUCCEEDED", (cluster.work / "outer.log").read_text()
    started = json.loads((run / "members/0/attempt-0/started.json").read_text())
    assert "slurm_array_task_id" not in started


def test_accelerators_are_asked_for_and_handed_on_unchanged(cluster: Cluster) -> None:
    cards = ("accelerator=fake_a100", "accelerator.count=2", "machine.max_accelerators=4")
    run = cluster.launch(*QUICK, "data.set=iris", *cards, *cluster.probe())
    end = cluster.wait(run)

    assert end["state"] == "SUCCEEDED", cluster.fairlead("logs", str(run), "--errors").stdout
    seen = [json.loads(p.read_text())["environ"] for p in sorted(run.glob("members/0/seen-*.json"))]
    assert [s["LOCAL_RANK"] for s in seen] == ["0", "1"]
    assert {s["CUDA_VISIBLE_DEVICES"] for s in seen} == {"0,1"}
    assert "#SBATCH --gres=gpu:a100:2" in (run / "job.sbatch").read_text()


@pytest.mark.apptainer
def test_hostile_values_reach_the_program_unchanged_and_nobody_runs_them(cluster: Cluster) -> None:
    canary = cluster.work / "canary"
    values = {
        "QUOTES": 'it\'s "here"',
        "COMMAND": f"$(touch {canary}) `touch {canary}` ${{HOME}}; touch {canary}",
        "LINES": "one\ntwo\n\nfour",
        "MARKS": "100% a=b,c:d \\n \\ *?[x] ~ # é 漢",
    }
    folder = cluster.work / "an odd, folder: $(x) 100%"
    folder.mkdir()
    note = values["QUOTES"] + values["COMMAND"]
    overlay = cluster.work / "conf" / "experiment"
    overlay.mkdir(parents=True)
    document = {"container": {"env": values, "binds": [{"source": str(folder)}]}, "data": {"set": "iris"}}
    (overlay / "hostile.yaml").write_text(
        "# @package _global_\n"
        + json.dumps({**document, "train": {"epochs": 1, "batch_size": 20}}).replace("${", "\\\\${")
    )
    run = cluster.launch("experiment=hostile", "container=pytorch-cpu", *cluster.probe())
    end = cluster.wait(run)

    assert end["state"] == "SUCCEEDED", cluster.fairlead("logs", str(run), "--errors").stdout
    seen = json.loads((run / "members/0/seen-0.json").read_text())["environ"]
    assert {k: seen[k] for k in values} == values
    assert not canary.exists(), note


def test_check_asks_the_cluster(cluster: Cluster) -> None:
    where = ("--config-dir", str(TESTBED / "conf"), "launcher=slurm", "site=testbed", "experiment=digits")
    good = cluster.fairlead("check", *where, "machine=cpu-small")
    assert "the controller takes it" in good.stdout and "BAD" not in good.stdout

    too_long = ("machine=cpu-small", "machine.partition=short", "machine.time_limit_min=60")
    bad = cluster.fairlead("check", *where, *too_long, check=False)
    assert bad.returncode == 3
    assert "machine.time_limit_min is 60, but partition short allows 5" in bad.stdout

    unknown = cluster.fairlead("check", *where, "machine=cpu-small", "machine.partition=nowhere", check=False)
    assert unknown.returncode == 3 and "nowhere" in unknown.stdout


def _loaded_elsewhere(run: Path, uri: str) -> list[int]:
    """Shape of what the registered model predicts, in a process that knows nothing of Fairlead."""
    store = json.loads((run / "tracking.json").read_text())["uri"]
    program = (
        "import mlflow, numpy, sys; mlflow.set_tracking_uri(sys.argv[1]);"
        "out = mlflow.pyfunc.load_model(sys.argv[2]).predict(numpy.zeros((2, 1, 8, 8), dtype='float32'));"
        "print(list(out.shape))"
    )
    argv = [sys.executable, "-P", "-c", program, store, uri]
    bare = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, cwd="/", env=bare, check=False)
    assert done.returncode == 0, done.stderr
    shape: list[int] = json.loads(done.stdout.splitlines()[-1])
    return shape


def _runs_of(run: Path) -> int:
    return len(json.loads((run / "tracking.json").read_text())["runs"])
