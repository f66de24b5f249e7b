"""What the first step of a real attempt takes more than a usual one, and torch.compile's work, is no training."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from launchers.run_folder import record
from launchers.run_folder.beat import beat_of
from tests.trainer.ranks import Member, own, phases

Make = Callable[..., Member]
HELD_S = 2.0
KEPT = ("steps", "data_wait", "evaluation", "checkpoint")


def times(run: Member) -> dict[str, float]:
    """When what happens once happened."""
    return {line["event"]: line["t"] for line in run.lines("ledger.jsonl")}


def test_first_step_that_is_held_up_is_told_from_the_steps_of_a_real_run(member: Make) -> None:
    run = member(train={"max_steps": 30})
    go = run.path / "go"
    run.env = {"OWN_TRAINING": "1:wait", "OWN_GO": str(go)}
    started = time.time()
    run.start()
    ledger = run.attempt / "ledger.jsonl"
    while not ledger.exists() or "restore_done" not in ledger.read_text():
        assert run.running[0].poll() is None, run.log()
        time.sleep(0.02)
    time.sleep(HELD_S)
    go.touch()
    assert run.wait() == [0], run.log()

    ended = time.time()
    found, at = phases(run, started, ended), times(run)

    usual_s = beat_of(record.Attempt(run.attempt).beat(0)).pace_s
    assert usual_s is not None and 0 < usual_s < HELD_S
    assert found["first_step"] >= HELD_S - usual_s
    trained_s = sum(found.get(phase, 0.0) for phase in KEPT)
    assert trained_s == pytest.approx(at["training_done"] - at["first_step"] + usual_s, abs=0.02)
    assert sum(found.values()) == pytest.approx(ended - started, rel=0.001)


def test_compilation_of_a_real_run_is_a_phase_of_its_own(member: Make) -> None:
    """The last batch of an epoch is smaller: it is compiled in the middle of the run, and evaluations are, too."""
    run = member(model=own("own.Net"), train={"max_steps": 20, "compile": True})
    started = time.time()
    assert run.run() == [0], run.log()

    ended = time.time()
    found, events = phases(run, started, ended), [line["event"] for line in run.lines("ledger.jsonl")]

    assert events.count("compile_begin") == events.count("compile_end") >= 2
    assert "compile_begin" in events[events.index("restore_done") : events.index("first_step")]
    assert found["compile"] > found["steps"], "twenty steps of a small model"
    assert sum(found.values()) == pytest.approx(ended - started, rel=0.001)
