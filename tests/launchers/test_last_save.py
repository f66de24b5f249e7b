"""The last save of a run whose next one would come too late: before a notice in which none fits, on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from launchers.run_folder.record import read_lines
from tests.cluster.harness import QUICK, ROOT, Cluster, attempts

STEP_S, NOTICE_S = 0.1, 4
MODEL = f"""
import os, pathlib, signal, time
import torch

sync = os.fsync

def slow_sync(fd):
    if str(pathlib.Path(f"/proc/self/fd/{{fd}}").readlink()).endswith("/state.json"):
        time.sleep(3.0)
    sync(fd)

class Deaf(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 3)
        self.is_first = os.environ["FAIRLEAD_ATTEMPT"] == "0"
        if self.is_first:
            os.fsync = slow_sync

    def forward(self, x):
        if self.training and self.is_first:
            signal.signal(signal.SIGUSR2, signal.SIG_IGN)
            time.sleep({STEP_S})
        return self.layer(x)
"""
"""Saves that take three seconds, and no ear for the notice: only what was saved before it counts."""
WORDS = (
    *QUICK,
    "tracking=none",
    "tracking.register=null",
    "train.epochs=null",
    "train.max_steps=700",
    "train.eval_every_steps=700",
    "train.log_every_steps=1",
    "train.checkpoint_every_steps=auto",
    "machine.time_limit_min=1",
    f"job.notice_s={NOTICE_S}",
)


@pytest.fixture
def laptop(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (workdir / "deaf.py").write_text(MODEL)
    (workdir / "conf" / "model").mkdir(parents=True)
    (workdir / "conf" / "model" / "deaf.yaml").write_text(json.dumps({"_target_": "deaf.Deaf"}))
    return Cluster(workdir, first=())


def test_run_that_will_not_finish_another_interval_saves_before_it_is_killed(laptop: Cluster) -> None:
    laptop.fairlead("launch", *WORDS, "--config-dir", str(laptop.work / "conf"), "model=deaf")

    (run,) = (path.parent for path in (laptop.work / "runs").glob("*/spec.json"))
    first, second = attempts(run)
    assert (first["state"], first["cause"], first["signal"], second["state"]) == ("REQUEUED", "timeout", 9, "SUCCEEDED")
    before = run / "members/0/attempt-0"
    begun, durable = (marks(before, name) for name in ("checkpoint_begin", "checkpoint_durable"))
    ends_at = json.loads((before / "limits.json").read_text())["ends_at"]
    assert durable[0]["t"] + durable[0]["interval_s"] > ends_at  # left to that, there would have been no other
    newest = durable[-1]["step"]
    assert newest > durable[0]["step"]
    assert f"goes on from step {newest} " in (run / "members/0/attempt-1/rank-0.log").read_text()
    reached = max(row["step"] for row in read_lines(before / "metrics.jsonl") if "step" in row)
    save_s = durable[0]["t"] - begun[0]["t"]
    assert reached - newest <= (NOTICE_S + 1.25 * save_s) / STEP_S + 2  # a step takes longer than it sleeps


def marks(attempt: Path, event: str) -> list[dict[str, Any]]:
    return [row for row in read_lines(attempt / "ledger.jsonl") if row["event"] == event]
