"""Where one rank alone waits for its data, all lose the time: its wait is the run's, and a warning names it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from tests.trainer.ranks import Member, own, phases

Make = Callable[..., Member]
STEPS, EACH_S = 16, 8 * 0.025
"""Each rank reads eight samples for a step."""


def test_wait_of_a_rank_that_keeps_no_ledger_is_no_training(member: Make) -> None:
    data = own("own.blobs", rows=160, pause_s=0.025, paused=1)
    train = {"max_steps": STEPS, "log_every_steps": 4, "eval_every_steps": STEPS, "workers": 0}
    run = member(ranks=2, data=data, train=train)
    started = time.time()
    assert run.run() == [0, 0], run.log()

    ended = time.time()
    found = phases(run, started, ended)

    assert found["data_wait"] > 0.9 * (STEPS - 1) * EACH_S
    assert found["data_wait"] > found["steps"], "hardly anything to compute"
    assert abs(sum(found.values()) - (ended - started)) < 0.01
    rows = [line["metrics"] for line in run.lines("metrics.jsonl") if "train/loss" in line.get("metrics", {})]
    assert len(rows) == 4 and all(row["train/data_wait"] > 0.5 for row in rows[1:])
    (warning,) = [line for line in run.log().splitlines() if "training waits for" in line]
    assert warning.startswith(f"training waits for the data of rank 1 on {os.uname().nodename} alone for ")
    assert "training waits for" not in run.log(rank=1)
