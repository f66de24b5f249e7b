"""A search whose trials are jobs of several pools, with secrets: chiefs report, and nobody but a program reads one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.harness import ROOT, Cluster, attempts

CANARY = "canary-of-the-environment"
PROGRAM = """
import json, os, pathlib, sys, time
x, token = sys.argv[-1].partition("=")[2], os.environ["TOKEN"]
spec = json.loads(os.environ["CLUSTER_SPEC"])
print(spec["task"]["type"], x, token, len(token), flush=True)
here = pathlib.Path(os.environ["AIP_CHECKPOINT_DIR"])
(here / os.environ["RANK"]).touch()
if spec["task"]["type"] == "workerpool0":  # with which the job ends
    while len(list(here.iterdir())) < 3:
        time.sleep(0.1)
    with open(os.environ["FAIRLEAD_REPORTS"], "a") as f:
        f.write(json.dumps({"step": 1, "loss": (float(x) - 0.3) ** 2, f"of/{token}": 1.0}) + "\\n")
"""
SEARCH: dict[str, Any] = {
    "kind": "search",
    "algorithm": "random",
    "trials": 4,
    "parameters": {"params.x": {"type": "double", "min": 0.0, "max": 1.0}},
}


@pytest.fixture
def here(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("ORIGIN", CANARY)
    return Cluster(workdir, ("launcher=local",))


def words_of(work: Path) -> tuple[str, ...]:
    """Words that search with pairs of a chief and two workers."""
    (work / "mine" / "sweep").mkdir(parents=True)
    (work / "mine" / "sweep" / "pairs.yaml").write_text(json.dumps(SEARCH))
    (work / "program.py").write_text(PROGRAM)
    job = ("job=command", "job.command=[python3,program.py]", "job.metrics.kind=jsonl", "secrets.TOKEN.env=ORIGIN")
    aim = ("objective.metric=loss", "objective.goal=minimize", "launcher.max_parallel=2", "name=pairs")
    pools = "pools=[{},{machine: {nodes: 2}, job: {arguments: [--role, worker]}}]"
    return ("--config-dir", str(work / "mine"), "sweep=pairs", *job, *aim, pools)


def found_in(folder: Path) -> list[str]:
    return [str(p) for p in folder.rglob("*") if p.is_file() and CANARY.encode() in p.read_bytes()]


def must_be_a_search_of_pairs(cluster: Cluster) -> None:
    """Launch it, and look at what its ranks printed, at the best trial, and for the canary."""
    run = cluster.launch(*words_of(cluster.work))

    end = cluster.wait(run)

    assert end["counts"] == {"SUCCEEDED": 4}
    points = {n: json.loads((run / f"members/{n}/point.json").read_text())["point"]["params.x"] for n in range(4)}
    for number, x in points.items():
        assert len(attempts(run, number)) == 1
        said = [(run / f"members/{number}/attempt-0/rank-{rank}.log").read_text().split() for rank in range(3)]
        assert said == [[pool, str(x), "***", "25"] for pool in ("workerpool0", "workerpool1", "workerpool1")]
    best = json.loads(cluster.fairlead("best", str(run), "--json").stdout)["best"]
    assert best["trial"] == min(points, key=lambda n: (points[n] - 0.3) ** 2)
    told = [cluster.fairlead(verb, str(run)).stdout for verb in ("best", "status", "report")]
    assert not any(CANARY in text for text in told)
    # What a program itself writes as its reports is its own; all that is made of it is masked.
    assert sorted(found_in(cluster.work)) == sorted(str(p) for p in run.glob("members/*/attempt-0/program.jsonl"))


def test_trials_of_several_pools_are_told_apart_by_their_chiefs_and_keep_their_secrets(here: Cluster) -> None:
    must_be_a_search_of_pairs(here)
