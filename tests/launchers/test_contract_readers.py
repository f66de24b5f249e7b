"""Google's own reader modules, as programs for Vertex AI import them, in a job of ours: they read it all right."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.harness import ROOT, Cluster

PROGRAM = """
import json, os, pathlib, sys
from google.cloud.aiplatform.metadata import constants
from google.cloud.aiplatform.training_utils import environment_variables as env
import hypertune

names = [n for n in vars(env) if n.islower() and not n.startswith("_") and n not in ("json", "os")]
seen = {name: getattr(env, name) for name in names}
seen["experiment"] = [os.environ[constants.ENV_EXPERIMENT_KEY], os.environ[constants.ENV_EXPERIMENT_RUN_KEY]]
hypertune.HyperTune().report_hyperparameter_tuning_metric("loss", 0.5, 3)
pathlib.Path(env.model_dir, "seen-" + os.environ["RANK"] + ".json").write_text(json.dumps(seen))
"""


@pytest.fixture
def laptop(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return Cluster(workdir, first=())


def launched(laptop: Cluster, *overrides: str) -> tuple[Path, list[dict[str, Any]]]:
    (laptop.work / "train.py").write_text(PROGRAM)
    laptop.fairlead("launch", "job=command", f"job.command=[{sys.executable},train.py]", *overrides)
    (run,) = (laptop.work / "runs").glob("run[-.]*")
    return run, [json.loads(path.read_text()) for path in sorted(run.glob("members/0/model/seen-*.json"))]


def test_readers_of_vertex_read_the_contract_of_every_rank(laptop: Cluster) -> None:
    run, (first, second) = launched(laptop, "machine.ranks_per_node=2", "tracking.experiment=mine")

    member = run / "members" / "0"
    for rank, seen in enumerate((first, second)):
        assert seen["cluster_spec"]["task"] == {"type": f"workerpool{rank}", "index": 0}
        assert seen["tf_config"]["task"] == {"type": ("chief", "worker")[rank], "index": 0}
        assert seen["cluster_spec"]["environment"] == "cloud"
        assert len(seen["cluster_spec"]["job"]["worker_pool_specs"]) == 2
        assert seen["model_dir"] == f"{member}/model/"
        assert seen["checkpoint_dir"] == f"{member}/checkpoints/"
        assert seen["tensorboard_log_dir"] == f"{member}/logs/"
        assert seen["cloud_ml_job_id"] == run.name
        assert seen["experiment"] == ["mine", run.name]
    listed = [address for name in ("workerpool0", "workerpool1") for address in first["cluster_spec"]["cluster"][name]]
    ports = [*(address.partition(":")[2] for address in listed)]
    ports += [seen[name] for seen in (first, second) for name in ("tf_profiler_port", "http_handler_port")]
    assert len(set(ports)) == 6 and all(port.isdigit() for port in ports)


def test_readers_of_vertex_read_several_pools_of_which_one_is_empty_in_a_trial(laptop: Cluster) -> None:
    pools = "pools=[{},{machine: {nodes: 2}},{},{machine: {nodes: 1}}]"
    search = (
        "sweep={kind: search, algorithm: random, trials: 1, parameters: {params.lr: {type: double, min: 0, max: 1}}}"
    )
    metric = ("objective.metric=loss", "objective.goal=minimize", "job.metrics.kind=hypertune")

    _, seen = launched(laptop, pools, search, *metric)

    (first, *others) = seen
    sizes = {name: len(addresses) for name, addresses in first["cluster_spec"]["cluster"].items()}
    assert sizes == {"workerpool0": 1, "workerpool1": 2, "workerpool3": 1}
    assert [one["cluster_spec"]["task"]["type"] for one in others] == ["workerpool1", "workerpool1", "workerpool3"]
    assert all(one["cluster_spec"]["task"]["trial"] == "0" for one in seen)
    assert [one["tf_config"]["task"] for one in seen][2:] == [
        {"type": "worker", "index": 1, "trial": "0"},
        {"type": "evaluator", "index": 0, "trial": "0"},
    ]
    assert {**first["cluster_spec"], "task": None} == {**others[-1]["cluster_spec"], "task": None}
