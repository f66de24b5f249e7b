"""Our trainer in a real MLflow: of a search a parent, a child for each trial and the best one's model, registered.

A store that is away costs nothing: what was measured meanwhile is delivered later, once.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from launchers.delivery.store import opened
from tests.cluster.harness import QUICK, Cluster, steps
from tests.cluster.searching import trials_of
from tests.cluster.served import free_port, served

pytestmark = pytest.mark.slurm
SEARCH = {
    "kind": "search",
    "algorithm": "tpe",
    "trials": 4,
    "startup_trials": 2,
    "parameters": {
        "optimizer.lr": {"type": "double", "min": 1e-4, "max": 1e-1, "scale": "log"},
        "model.width": {"type": "discrete", "values": [4, 8, 16]},
    },
}
METRIC = "val/accuracy"


def _search(cluster: Cluster) -> tuple[str, ...]:
    """Words that search the small network for iris, with three values of each trial on the way."""
    group = cluster.work / "conf" / "sweep"
    group.mkdir(parents=True)
    (group / "mine.yaml").write_text(json.dumps(SEARCH))
    words = ("sweep=mine", "name=tracked", "tracking.register=iris", "train.epochs=3", "launcher.max_parallel=4")
    return ("--config-dir", str(group.parent), *QUICK, *words)


def _curve(client: Any, run_id: str, metric: str = METRIC) -> list[tuple[int, float]]:
    return sorted((m.step, m.value) for m in client.get_metric_history(run_id, metric))


def _reported(run: Path) -> dict[int, list[tuple[int, float]]]:
    return {n: [(r.step, r.metrics[METRIC]) for r in t.reports] for n, t in trials_of(run).items()}


def test_search_in_mlflow_is_a_parent_with_a_child_per_trial_and_registers_the_best(cluster: Cluster) -> None:
    run = cluster.launch(*_search(cluster))

    end = cluster.wait(run)

    assert end["state"] == "SUCCEEDED", cluster.fairlead("logs", str(run), "--errors").stdout
    result, trials = end["result"], trials_of(run)
    best = str(result["best_member"])
    assert result["mlflow"]["uri"] == f"sqlite:///{run.parent.resolve()}/mlflow.db"
    with opened(result["mlflow"]["uri"], run.name) as client:
        parent = client.get_run(result["mlflow"]["run_id"])
        chosen = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
        children = {
            int(c.data.tags["fairlead.member"]): c for c in client.search_runs([parent.info.experiment_id], chosen)
        }
        curves = {n: _curve(client, child.info.run_id) for n, child in children.items()}
        version = client.get_model_version_by_alias("iris", result["model"]["alias"])

    assert curves == _reported(run) and all(len(curve) == 3 for curve in curves.values())
    for n, child in children.items():
        said, points = child.data, trials[n].point
        assert {k: type(v)(said.params[k]) for k, v in points.items()} == points
        assert said.metrics[f"objective/{METRIC}"] == max(value for _, value in curves[n])
        assert (said.tags["fairlead.state"], child.info.status) == ("SUCCEEDED", "FINISHED")
    assert parent.data.metrics["trials/succeeded"] == 4
    assert parent.data.tags["fairlead.best_member"] == best
    assert parent.data.metrics[f"objective/{METRIC}"] == children[int(best)].data.metrics[f"objective/{METRIC}"]
    assert version.run_id == result["mlflow"]["best_run_id"] == children[int(best)].info.run_id
    lineage = {k: version.tags[f"fairlead.{k}"] for k in ("job", "study", "trial", "member")}
    assert lineage == {"job": run.name, "study": "tracked", "trial": best, "member": best}
    assert float(version.tags[f"fairlead.objective.{METRIC}"]) == parent.data.metrics[f"objective/{METRIC}"]


def test_store_away_for_whole_runs_loses_nothing_and_is_delivered_once(cluster: Cluster) -> None:
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    one = cluster.launch(*QUICK, f"tracking.uri={uri}", "train.log_every_steps=1")
    search = cluster.launch(*_search(cluster), "sweep.trials=2", f"tracking.uri={uri}")
    ends = [cluster.wait(run) for run in (one, search)]
    assert [(end["state"], end["result"]["undelivered"]) for end in ends] == [("SUCCEEDED", True)] * 2

    with served(port, cluster.work):
        for run in (one, search):
            cluster.fairlead("sync", str(run), timeout_s=200)
        again = json.loads(cluster.fairlead("sync", str(search), "--json", timeout_s=200).stdout)
        with opened(uri, "none") as client:
            losses = [step for step, _ in _curve(client, _runs(one)[0], "train/loss")]
            curves = {n: _curve(client, run_id) for n, run_id in _runs(search).items()}

    assert again["points"] == 0
    assert losses == steps(one), "each point once, whether sync or the finish step brought it"
    assert curves == _reported(search) and len(curves) == 2
    results = [json.loads((run / "result.json").read_text()) for run in (one, search)]
    assert [(r.get("undelivered"), r["model"]["version"]) for r in results] == [(None, "1")] * 2


def _runs(run: Path) -> dict[int, str]:
    return {int(n): run_id for n, run_id in json.loads((run / "tracking.json").read_text())["runs"].items()}
