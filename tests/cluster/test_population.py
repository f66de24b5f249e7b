"""A population on the real cluster: another's program, preempted and killed on the way, and every line goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from sweeps.population import generation_of
from tests.cluster.harness import Cluster, attempts, until
from tests.cluster.searching import programs, searching, trials_of

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]
PROGRAM = """
import json, os, signal, sys, time
from pathlib import Path

x, state = float(sys.argv[1].partition("=")[2]), Path(os.environ["AIP_CHECKPOINT_DIR"], "state.json")
told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(1))
known = json.loads(state.read_text()) if state.exists() else {"seen": [], "loss": 1.0}
own = os.environ["FAIRLEAD_MEMBER"]
if own == "5":
    time.sleep(3)  # so that the whole generation is preempted
    sys.exit(75 if told else "this one fails")
while len(known["seen"]) == 0 or [m for m, _ in known["seen"]].count(own) < 4:
    time.sleep(0.5)
    known["seen"].append([own, x])
    known["loss"] *= 1 - 0.2 * x
    with open(os.environ["FAIRLEAD_REPORTS"], "a") as f:
        f.write(json.dumps({"step": len(known["seen"]), "loss": known["loss"]}) + "\\n")
    aside = state.with_name("aside")
    aside.write_text(json.dumps(known))
    aside.replace(state)
    if told:
        sys.exit(75)
"""
"""Four steps in each generation, whoever's checkpoint it begins with."""
SEARCH = {
    "algorithm": "population",
    "trials": 12,
    "population": {"size": 4},
    "measurement": "last",
    "parameters": {"params.x": {"type": "double", "min": 0.1, "max": 1.0}},
}


def state_of(run: Path, member: int) -> dict[str, object]:
    found: dict[str, object] = json.loads((run / "members" / str(member) / "checkpoints" / "state.json").read_text())
    return found


def test_population_on_the_cluster_loses_no_line_to_preemption_and_kills(cluster: Cluster) -> None:
    words = (*searching(cluster, SEARCH), "job.restarts.crash=2")
    (cluster.work / "program.py").write_text(PROGRAM)
    run = cluster.launch(*words)
    until(lambda: any(t.parent is not None and t.reports for t in trials_of(run).values()))

    urgent = ["sbatch", "--partition=urgent", "--nodes=4", "--exclusive", "--output=/dev/null", "--wrap=sleep 1"]
    subprocess.run(urgent, check=True, timeout=30, capture_output=True)
    until(lambda: max(t.attempts for t in trials_of(run).values()) > 1)
    until(lambda: programs(run))
    for pid in programs(run)[:1]:
        os.kill(pid, signal.SIGKILL)
    end = cluster.wait(run, timeout_s=400)

    trials = trials_of(run)
    assert len(trials) == 12 and {t.number for t in trials.values() if t.state == "FAILED"} == {5}, end
    parents = [t for t in trials.values() if t.parent is not None]
    assert all(trials[t.parent or 0].state == "SUCCEEDED" for t in parents)
    assert len({t.follows for t in trials.values() if t.follows is not None}) == 8
    assert max(generation_of(t, trials) for t in trials.values()) == 2
    for trial in (t for t in trials.values() if t.state == "SUCCEEDED"):
        seen = state_of(run, trial.number)["seen"]
        before = state_of(run, trial.parent)["seen"] if trial.parent is not None else []
        assert isinstance(seen, list) and isinstance(before, list)
        assert seen == [*before, *[[str(trial.number), trial.point["params.x"]]] * 4], "no step lost, none made twice"
    heirs = [t for t in trials.values() if t.follows == 5]
    assert [t.parent for t in heirs] != [5] and heirs
    best = json.loads(cluster.fairlead("best", str(run), "--json").stdout)["best"]
    assert best["trial"] == end["result"]["best_member"] == min(trials.values(), key=_loss).number
    assert len(best["lineage"]) == generation_of(trials[best["trial"]], trials)
    assert any(len(attempts(run, n)) > 1 for n in trials)


def _loss(trial: object) -> float:
    reports = getattr(trial, "reports", ())
    return float(reports[-1].metrics["loss"]) if reports else 9.0
