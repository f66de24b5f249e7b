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
    """Events are (name, seconds after the start) or (name, seconds, step); the usual start comes before them, with a
    first step that takes a second like every other."""
    rows = [*START, ("restore_done", 9.0, step), ("first_step", 10.0, step + 1), *events]
    marks = [{"event": e, "t": started + t, "step": (s or [0])[0]} for e, t, *s in rows]
    return Tried(since, started, ended, marks, [(started + 9.5, waited_s)], step_s=1.0)


def test_one_attempt_is_cut_at_its_events_and_nothing_is_left() -> None:
    found = goodput(
        [
            attempt(
                90.0,
                100.0,
                131.0,
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


def test_stop_in_time_loses_nothing_and_its_last_save_is_no_step() -> None:
    saved = (("checkpoint_begin", 20.5, 7), ("checkpoint_end", 21.0, 7), ("checkpoint_wait", 21.0, 7))
    first = attempt(0.0, 0.0, 24.0, ("signal", 20.0, 7), *saved, ("leaving", 22.5, 7), ("exit", 23.0))
    second = attempt(24.0, 24.0, 40.0, step=7)

    found = goodput([first, second]).seconds

    assert "recomputed" not in found
    assert (found["steps"], found["checkpoint"], found["shutdown"]) == (11.0 + 7.0, 0.5 + 1.5, 0.5 + 1.5)
    assert sum(found.values()) == 40.0


def test_waiting_for_the_last_write_is_no_step() -> None:
    saved = (("checkpoint_begin", 20.0, 7), ("checkpoint_end", 20.5, 7), ("checkpoint_wait", 20.5, 7))

    found = goodput([attempt(0.0, 0.0, 31.0, *saved, ("training_done", 28.0, 7), ("exit", 30.0))]).seconds

    assert (found["steps"], found["checkpoint"], found["export"]) == (11.0, 8.0, 2.0)


def test_another_attempt_on_the_same_allocation_did_not_queue() -> None:
    first = attempt(0.0, 10.0, 40.0, ("checkpoint_begin", 19.0, 10), ("checkpoint_end", 20.0, 10))
    second = dataclasses.replace(attempt(40.0, 50.0, 70.0, ("training_done", 19.0, 30), step=10), queued=False)

    found = goodput([first, second])

    assert (found.seconds["queue"], found.seconds["start"]) == (10.0, 2.0 + 10.0 + 2.0)
    assert found.running_s == 60.0


def test_waiting_for_data_in_steps_that_were_lost_is_not_taken_from_those_that_were_kept() -> None:
    first = attempt(0.0, 0.0, 60.0, ("checkpoint_begin", 29.0, 10), ("checkpoint_end", 29.0, 10))
    first = dataclasses.replace(first, waits=[(19.0, 4.0), (29.0, 8.0), (39.0, 20.0), (59.0, 40.0)])
    second = attempt(60.0, 60.0, 80.0, ("training_done", 19.0, 30), step=10)

    found = goodput([first, second]).seconds

    assert (found["data_wait"], found["steps"], found["recomputed"]) == (8.0, 12.0 + 10.0, 31.0)


def test_attempt_from_an_earlier_checkpoint_than_those_before_it_computes_their_steps_again() -> None:
    saved = (("checkpoint_begin", 19.0, 10), ("checkpoint_end", 19.0, 10))
    first = attempt(0.0, 0.0, 29.0, *saved, ("checkpoint_begin", 29.0, 20), ("checkpoint_end", 29.0, 20))
    second = attempt(29.0, 29.0, 49.0, step=20)
    damaged = attempt(49.0, 49.0, 69.0, step=10)

    found = goodput([first, second, damaged]).seconds

    assert (found["steps"], found["recomputed"]) == (10.0 + 11.0, 10.0 + 11.0)


def slow_first(*more: Any, step_s: float | None = 0.5) -> Tried:
    """An attempt whose first step ends 6 s after its start-up, and which trains to the 30th second."""
    marks = [("restore_done", 4.0), *more, ("first_step", 10.0), ("training_done", 30.0)]
    events = [{"event": name, "t": t} for name, t in marks]
    return Tried(4.0, 4.0, 30.0, events, [(29.0, 3.0)], step_s=step_s)


def test_first_step_is_a_step_for_as_long_as_a_usual_one() -> None:
    assert goodput([slow_first()]).seconds == {"first_step": 5.5, "steps": 17.5, "data_wait": 3.0}
    assert goodput([slow_first(step_s=None)]).seconds == {"first_step": 6.0, "steps": 17.0, "data_wait": 3.0}
    assert goodput([slow_first(step_s=9.0)]).seconds == {"steps": 23.0, "data_wait": 3.0}


def test_evaluation_before_the_first_step_does_not_make_what_follows_a_step() -> None:
    found = goodput([slow_first(("evaluation_begin", 5.0), ("evaluation_end", 7.0))]).seconds

    assert found == {"first_step": 3.5, "steps": 17.5, "data_wait": 3.0, "evaluation": 2.0}


def test_compilation_is_no_step_wherever_it_happens() -> None:
    first = slow_first(("compile_begin", 6.0), ("compile_end", 9.0))
    later = [("compile_begin", 12.0), ("compile_end", 13.0), ("evaluation_begin", 14.0), ("compile_begin", 14.0)]
    later += [("compile_end", 16.0), ("evaluation_end", 17.0)]
    events = [*first.events, *({"event": name, "t": t} for name, t in later)]
    tried = dataclasses.replace(first, events=sorted(events, key=lambda event: event["t"]), waits=[])

    found = goodput([tried]).seconds

    assert found == {"first_step": 2.5, "compile": 3.0 + 1.0 + 2.0, "steps": 0.5 + 2.0 + 1.0 + 13.0, "evaluation": 1.0}
    assert sum(found.values()) == 26.0


def test_first_step_that_was_lost_is_computed_twice_and_what_it_took_more_is_the_starts() -> None:
    died = dataclasses.replace(slow_first(), events=slow_first().events[:2], ended=20.0, waits=[])
    never = dataclasses.replace(slow_first(), events=slow_first().events[:1], since=20.0, started=20.0, ended=26.0)
    last = attempt(26.0, 26.0, 46.0)

    found = goodput([dataclasses.replace(died, events=[{**e, "step": 0} for e in died.events]), never, last]).seconds

    assert (found["first_step"], found["recomputed"]) == (5.5 + 6.0, 0.5 + 10.0)


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
        (folder / "started.json").write_text(json.dumps({"started": began, "host": "n1", "pid": [7, 8, 8][number]}))
        os.utime(folder / "started.json", (30.0, 30.0))
        if outcome:
            (folder / "outcome.json").write_text(json.dumps(outcome))
    beat = json.dumps({"section": "train", "step": 9, "t": 1.0, "pace_s": 0.25, "host": "n1"}).ljust(256)
    (member.path / "attempt-0" / "beat-0").write_text(beat + "Current thread 0x01")
    (member.path / "attempt-1" / "beat-0").write_text('{"pace_s": ')
    os.utime(member.path / "attempt-1" / "beat-0", (30.0, 30.0))
    (member.path / "attempt-0" / "metrics.jsonl").write_text(
        '{"t": 11000, "waited_s": 1.0}\n{"t": 12500, "waited_s": 2.5}\n{"t": 13000, "dataset": {}}\n'
    )
    submissions = [Submission("a", "members", (0,), t=8.0), Submission("b", "members", (0,), t=38.0)]

    found = tried(member, submissions, running_until=50.0)

    assert [(t.since, t.started, t.ended) for t in found] == [(8.0, 10.0, 20.0), (20.0, 25.0, 30.0), (38.0, 40.0, 50.0)]
    assert found[0].waits == [(11.0, 1.0), (12.5, 2.5)]
    assert [t.queued for t in found] == [True, True, False]
    assert [t.step_s for t in found] == [0.25, None, None]
