"""All of a member's time is accounted for, whatever became of its attempts."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest

from launchers.jobs.goodput import Tried, goodput, tried
from launchers.run_folder.journal import Submission
from launchers.run_folder.record import Member

START = [
    ("process_start", 2.0),
    ("imports_done", 5.0),
    ("rendezvous_done", 6.0),
    ("data_ready", 8.0),
    ("model_ready", 8.25),
]


def attempt(since: float, started: float, ended: float, *events: Any, waited_s: float = 0.0, step: int = 0) -> Tried:
    """Events are (name, seconds after the start) or (name, seconds, step); the usual start comes before them."""
    rows = [*START, ("restore_done", 9.0, step), *events]
    return Tried(
        since, started, ended, [{"event": e, "t": started + t, "step": (s or [0])[0]} for e, t, *s in rows], waited_s
    )


def test_one_attempt_is_cut_at_its_events_and_nothing_is_left() -> None:
    found = goodput(
        [
            attempt(
                90.0,
                100.0,
                131.0,
                ("first_step", 10.0, 1),
                ("evaluation_begin", 19.0, 50),
                ("evaluation_end", 20.0, 50),
                ("checkpoint_begin", 20.0, 50),
                ("checkpoint_end", 20.5, 50),
                ("checkpoint_durable", 22.0, 50),
                ("training_done", 28.5, 80),
                ("export_done", 30.0),
                ("exit", 30.2),
                waited_s=2.0,
            )
        ]
    )

    assert found.seconds == {
        "queue": 10.0,
        "start": 2.0,
        "imports": 3.0,
        "rendezvous": 1.0,
        "data": 2.0,
        "model": 0.25,
        "restore": 0.75,
        "steps": 16.0,
        "data_wait": 2.0,
        "checkpoint": 0.5,
        "evaluation": 1.0,
        "export": 1.5,
        "shutdown": 1.0,
    }
    assert found.total_s == 41.0
    assert found.share == pytest.approx(16 / 31)


def test_bringing_data_to_the_node_is_told_from_reading_them() -> None:
    marks = [("rendezvous_done", 1.0), ("staging_begin", 1.5), ("staging_end", 7.5), ("data_ready", 8.0)]
    tried = Tried(0.0, 0.0, 8.0, [{"event": name, "t": t} for name, t in [("process_start", 0.0), *marks]])

    assert goodput([tried]).seconds == {"imports": 1.0, "staging": 6.0, "data": 1.0}


def test_what_was_lost_by_a_kill_was_computed_twice() -> None:
    first = attempt(0.0, 0.0, 40.0, ("checkpoint_begin", 19.0, 10), ("checkpoint_end", 20.0, 10))
    second = attempt(40.0, 50.0, 70.0, ("training_done", 19.0, 30), step=10)

    found = goodput([first, second]).seconds

    assert found["recomputed"] == 20.0  # of steps that nobody saved; the checkpoint's own second was not in vain
    assert found["checkpoint"] == 1.0
    assert found["steps"] == 10.0 + 10.0
    assert found["queue"] == 10.0
    assert sum(found.values()) == 70.0


def test_attempt_that_died_in_its_start_and_one_without_a_checkpoint() -> None:
    nothing_saved = attempt(0.0, 0.0, 30.0)
    died = Tried(30.0, 30.0, 34.0, [{"event": "process_start", "t": 31.0}])
    last = attempt(34.0, 34.0, 64.0)

    found = goodput([nothing_saved, died, last]).seconds

    assert found["recomputed"] == 21.0
    assert (found["start"], found["imports"]) == (2.0 + 1.0 + 2.0, 3.0 + 3.0 + 3.0)
    assert sum(found.values()) == 64.0


def test_hang_lasts_from_the_last_sign_to_the_kill() -> None:
    first = attempt(0.0, 0.0, 40.0, ("checkpoint_begin", 19.0, 10), ("checkpoint_end", 20.0, 10))
    first = dataclasses.replace(first, hung_since=25.0)
    second = attempt(40.0, 40.0, 70.0, ("training_done", 19.0, 30), step=10)

    found = goodput([first, second]).seconds

    assert (found["hang"], found["recomputed"], found["checkpoint"]) == (15.0, 5.0, 1.0)
    assert sum(found.values()) == 70.0


def test_stop_in_time_loses_nothing() -> None:
    first = attempt(0.0, 0.0, 24.0, ("signal", 20.0, 7), ("checkpoint_begin", 20.5, 7), ("exit", 23.0))
    second = attempt(24.0, 24.0, 40.0, step=7)

    found = goodput([first, second]).seconds

    assert "steps" in found and found.get("recomputed", 0.0) <= 2.5
    assert sum(found.values()) == 40.0


def test_clocks_that_differ_make_no_time_of_their_own() -> None:
    early = Tried(0.0, 10.0, 20.0, [{"event": "process_start", "t": 4.0}, {"event": "imports_done", "t": 29.0}])

    found = goodput([early])

    assert found.total_s == 20.0 and min(found.seconds.values()) >= 0


def test_program_without_a_ledger_and_member_that_waits() -> None:
    assert goodput([Tried(0.0, 3.0, 9.0, [])]).seconds == {"queue": 3.0, "start": 6.0}
    assert goodput([]).share is None


def test_attempts_are_read_from_what_they_left(tmp_path: Path) -> None:
    member = Member(tmp_path / "0")
    for number, (began, outcome) in enumerate(
        [(10.0, {"ended": 20.0, "state": "REQUEUED"}), (25.0, None), (40.0, None)]
    ):
        folder = member.path / f"attempt-{number}"
        folder.mkdir(parents=True)
        (folder / "started.json").write_text(json.dumps({"started": began}))
        os.utime(folder / "started.json", (30.0, 30.0))
        if outcome:
            (folder / "outcome.json").write_text(json.dumps(outcome))
    (member.path / "attempt-0" / "metrics.jsonl").write_text('{"waited_s": 1.0}\n{"waited_s": 2.5}\n{"dataset": {}}\n')
    submissions = [Submission("a", "members", (0,), t=8.0), Submission("b", "members", (0,), t=38.0)]

    found = tried(member, submissions, running_until=50.0)

    assert [(t.since, t.started, t.ended) for t in found] == [(8.0, 10.0, 20.0), (20.0, 25.0, 30.0), (38.0, 40.0, 50.0)]
    assert found[0].waited_s == 2.5
