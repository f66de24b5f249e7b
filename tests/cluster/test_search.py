"""Searches on the real cluster: late points, pruning, limits, and every fault that takes a trial's ground away.

Afterwards nothing that was completed is lost, no budget is overshot, no trial stays a zombie. What happens to
a trial's program and supervisor is in test_search_faults.py.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Collection

import pytest

from launchers.run_folder.record import Run
from launchers.search.study import LEASE_S, Study
from sweeps.trials import Trial
from tests.cluster.harness import Cluster, attempts, until
from tests.cluster.searching import searching, trials_of

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]


def test_search_on_the_cluster_asks_late_and_finds_the_best(cluster: Cluster) -> None:
    run = cluster.launch(*searching(cluster, {"algorithm": "tpe", "startup_trials": 4, "trials": 10}))

    end = cluster.wait(run)

    trials = trials_of(run)
    assert (end["state"], sorted(trials)) == ("SUCCEEDED", list(range(10)))
    assert len({t.point["params.x"] for t in trials.values()}) == 10
    best = min(trials.values(), key=lambda t: t.reports[-1].metrics["loss"])
    assert end["result"]["best_member"] == best.number
    assert repr(best.point["params.x"]) in cluster.fairlead("best", str(run)).stdout


def test_preempted_trial_goes_on_with_the_same_point(cluster: Cluster) -> None:
    words = searching(cluster, {"trials": 2}, STEPS="10", PAUSE_S="0.5", GATE=str(cluster.work / "never"))
    run = cluster.launch(*words, "machine.nodes=2", "machine.ranks_per_node=1")
    until(lambda: sum(bool(t.reports) for t in trials_of(run).values()) == 2)
    before = {n: t.point for n, t in trials_of(run).items()}

    urgent = ["sbatch", "--partition=urgent", "--nodes=4", "--exclusive", "--output=/dev/null", "--wrap=sleep 2"]
    subprocess.run(urgent, check=True, timeout=30, capture_output=True)
    end = cluster.wait(run)

    after = trials_of(run)
    assert end["state"] == "SUCCEEDED"
    assert {n: t.point for n, t in after.items()} == before
    assert all([r.step for r in t.reports] == list(range(1, 11)) for t in after.values())
    assert max(t.attempts for t in after.values()) >= 2


def test_killed_supervisor_leaves_no_zombie_and_the_same_command_goes_on(cluster: Cluster) -> None:
    gate = cluster.work / "gate"
    words = searching(cluster, {"trials": 5}, STEPS="12", PAUSE_S="0.1", GATE=str(gate))
    run = cluster.launch(*words)
    until(lambda: any(t.reports for t in trials_of(run).values()))
    victim = next(n for n, t in trials_of(run).items() if t.state == "RUNNING")
    place = json.loads((run / "members" / str(victim) / "attempt-0" / "started.json").read_text())
    os.kill(int(place["pid"]), signal.SIGKILL)  # hosts of the test cluster share this machine's processes
    gate.touch()
    end = cluster.wait(run)

    assert {m["index"]: m["state"] for m in end["members"]}[victim] == "FAILED"
    old = time.time() - LEASE_S - 10
    attempt = run / "members" / str(victim) / "attempt-0"
    for path in (attempt / "alive", attempt):
        if path.exists():
            os.utime(path, (old, old))
    assert Study(Run(run)).silent() == {victim}

    assert cluster.launch(*words) == run
    end = cluster.wait(run)

    assert end["state"] == "SUCCEEDED"
    assert trials_of(run)[victim].attempts == 2
    assert len(trials_of(run)) == 5


def test_lost_host_is_charged_to_nobody(cluster: Cluster) -> None:
    gate, more = cluster.work / "gate", {"trials": 4, "limits": {"max_failed": 0}}
    run = cluster.launch(*searching(cluster, more, STEPS="12", PAUSE_S="0.5", GATE=str(gate)))
    until(lambda: sum(bool(t.reports) for t in trials_of(run).values()) == 4)
    try:
        cluster.testbed("kill-host", "2")
        gate.touch()
        end = cluster.wait(run, timeout_s=400)
    finally:
        cluster.testbed("start-host", "2")

    assert end["state"] == "SUCCEEDED"
    assert {t.state for t in trials_of(run).values()} == {"SUCCEEDED"}


def test_bad_trials_are_pruned_and_free_their_slots(cluster: Cluster) -> None:
    gate = cluster.work / "gate"
    held = {"GATE": str(gate), "GATE_STEP": "5", "GATE_FROM": "3"}
    more = {
        "trials": 8,
        "start_points": [{"params.x": x} for x in (0.2, 0.3, 0.4, 0.25, 1.0, 0.35)],
        "pruning": {"rule": "median", "min_trials": 3, "min_step": 3},
    }
    words = searching(cluster, more, STEPS="6", PAUSE_S="0.2", **held)
    run = cluster.launch(*words, "launcher.max_parallel=3")

    until(lambda: _is_followed(trials_of(run).values()))
    gate.touch()
    end = cluster.wait(run)

    trials = trials_of(run)
    pruned = [t for t in trials.values() if t.state == "PRUNED"]
    assert end["state"] == "SUCCEEDED"
    assert trials[4] in pruned
    assert len(trials[4].reports) < 6
    best = min(t.reports[-1].metrics["loss"] for t in trials.values() if t.state == "SUCCEEDED")
    assert all(min(r.metrics["loss"] for r in t.reports) >= best for t in pruned)


def _is_followed(trials: Collection[Trial]) -> bool:
    """Whether one has the slot of a trial that was pruned, while a third goes on that ran beside it."""
    ends = [t.ended or 0.0 for t in trials if t.state == "PRUNED"]
    running = [t.asked for t in trials if t.state == "RUNNING"]
    return any(min(running, default=end) < end <= max(t.asked for t in trials) for end in ends)


def test_all_failing_alike_stop_the_search_and_say_why(cluster: Cluster) -> None:
    run = cluster.launch(*searching(cluster, {"trials": 30, "limits": {"same_failures": 4}}, FAIL="no such column"))

    end = cluster.wait(run)

    states = [m["state"] for m in end["members"]]
    assert end["state"] == "FAILED"
    assert 4 <= states.count("FAILED") <= 8, "each of the four slots may have had one more on its way"
    assert states.count("SKIPPED") == 30 - states.count("FAILED")
    assert "no such column" in json.loads((run / "study" / "over.json").read_text())["why"]
    shown = cluster.fairlead("status", str(run)).stdout
    assert "Traceback (most recent call last):" in shown and 'raise KeyError(os.environ["FAIL"])' in shown
    assert cluster.queue(run.name) == []


def test_gpu_hours_are_reserved_and_never_overshot(cluster: Cluster) -> None:
    cards = ("accelerator=fake_a100", "accelerator.count=1", "machine.max_accelerators=4", "machine.time_limit_min=6")
    more = {"trials": 12, "limits": {"gpu_hours": 0.25}}
    run = cluster.launch(*searching(cluster, more, STEPS="4", PAUSE_S="0.5"), *cards)

    cluster.wait(run)

    trials = trials_of(run)
    asked = sorted((t.asked, 0.1) for t in trials.values())
    ended = sorted((t.ended or 0.0, t.gpu_hours - 0.1) for t in trials.values())
    spent, most = 0.0, 0.0
    for _, change in sorted([*asked, *ended]):
        spent += change
        most = max(most, spent)
    assert most <= 0.25 + 1e-9
    assert 2 < len(trials) <= 12


def test_search_goes_on_after_the_controller_was_restarted(cluster: Cluster) -> None:
    run = cluster.launch(*searching(cluster, {"trials": 6}, STEPS="10", PAUSE_S="0.4"))
    until(lambda: any(t.reports for t in trials_of(run).values()))

    cluster.testbed("restart-ctld")
    end = cluster.wait(run)

    assert end["state"] == "SUCCEEDED"
    assert {t.state for t in trials_of(run).values()} == {"SUCCEEDED"}


def test_extend_raises_the_budget_of_a_search_that_has_ended(cluster: Cluster) -> None:
    run = cluster.launch(*searching(cluster, {"trials": 3}))
    cluster.wait(run)

    cluster.fairlead("extend", str(run), "--trials", "6")
    end = cluster.wait(run)

    assert (end["state"], sorted(trials_of(run))) == ("SUCCEEDED", list(range(6)))
    assert [len(attempts(run, m)) for m in range(6)] == [1] * 6
