"""Programs with MLflow's own client on the cluster: all they log is in their members' runs, and guides the search.

The server is away from before the launch until all has ended, and no program notices.
"""

from __future__ import annotations

import json

import pytest

from launchers.delivery.store import opened
from launchers.run_folder.record import read_lines
from tests.cluster.harness import Cluster
from tests.cluster.served import free_port, served

pytestmark = pytest.mark.slurm
PROGRAM = """
import os, pathlib, sys, warnings
warnings.simplefilter("ignore")
import mlflow
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

strength = float(sys.argv[1].partition("=")[2])
data, kinds = load_iris(return_X_y=True)
mlflow.sklearn.autolog(log_models=False, silent=True)
with mlflow.start_run():
    model = LogisticRegression(C=strength, max_iter=300).fit(data, kinds)
    mlflow.log_metric("loss", 1 / strength, step=int(os.environ["RANK"]) + 1)
    mlflow.log_text("seen", "notes/a.txt")
if os.environ["RANK"] == "0":
    folder = os.environ["AIP_MODEL_DIR"] + "iris"
    mlflow.sklearn.save_model(model, folder, pip_requirements=["scikit-learn"])
"""
SEARCH = {
    "kind": "search",
    "algorithm": "random",
    "trials": 2,
    "parameters": {"params.c": {"type": "discrete", "values": [0.5, 2.0]}},
}


@pytest.mark.timeout(600)
def test_search_over_a_program_with_mlflows_client_is_whole_when_the_server_is_back(cluster: Cluster) -> None:
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    (cluster.work / "train.py").write_text(PROGRAM)
    group = cluster.work / "conf" / "sweep"
    group.mkdir(parents=True)
    (group / "mine.yaml").write_text(json.dumps(SEARCH))
    run = cluster.launch(
        *("--config-dir", str(group.parent), "sweep=mine", "name=client", "launcher.max_parallel=2"),
        *("job=command", "job.command=[python3,train.py]", "job.metrics.kind=mlflow", "machine.ranks_per_node=2"),
        *("objective.metric=loss", "objective.goal=minimize", f"tracking.uri={uri}", "tracking.register=iris"),
    )

    end = cluster.wait(run)

    assert (end["state"], end["result"]["undelivered"]) == ("SUCCEEDED", True), cluster.fairlead(
        "logs", str(run)
    ).stdout
    with served(port, cluster.work):
        cluster.fairlead("sync", str(run), timeout_s=200)
        again = json.loads(cluster.fairlead("sync", str(run), "--json", timeout_s=200).stdout)
        runs = json.loads((run / "tracking.json").read_text())["runs"]
        with opened(uri, "none") as client:
            found = {int(n): client.get_run(run_id) for n, run_id in runs.items()}
            notes = [[f.path for f in client.list_artifacts(run_id, "notes")] for run_id in runs.values()]
            curves = [[p.step for p in client.get_metric_history(run_id, "loss")] for run_id in runs.values()]
            version = client.get_model_version_by_alias("iris", "newest")

    assert (again["points"], again["problem"], curves) == (0, "", [[1], [1]]), "of rank 0 alone, and once"
    said = {n: read_lines(run / "members" / str(n) / "attempt-0" / "reports.jsonl") for n in found}
    for n, one in found.items():
        assert {"loss": one.data.metrics["loss"]} in [row["metrics"] for row in said[n]]
        assert 1 / float(one.data.params["params.c"]) == one.data.metrics["loss"]
        assert (one.info.status, "training_score" in one.data.metrics, one.data.params["solver"]) == (
            "FINISHED", True, "lbfgs",
        )  # fmt: skip
    best = min(found, key=lambda n: found[n].data.metrics["loss"])
    assert notes == [["notes/a.txt"]] * 2
    assert (version.run_id, version.tags["fairlead.trial"]) == (runs[str(best)], str(best))
