"""What the status says of a member's progress, its checkpoints, its ranks and its time."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from launchers.jobs.goodput import Goodput
from launchers.jobs.spending import Spending
from launchers.jobs.status import status_of
from launchers.run_folder.record import mark_ended, unmark_ended, write_json
from launchers.show import status_text, summary_text
from launchers.verbs.printed import status_document
from tests.launchers.standing import Make, attempt, queue, submitted, without_a_word


@pytest.fixture
def quiet(fakes: Any) -> Any:
    return without_a_word(fakes)


def test_status_progress_is_the_newest_attempts(slurm_run: Make, quiet: Any) -> None:
    run, _ = slurm_run()
    submitted(run, 1)
    old = {"t": 1, "step": 90, "total_steps": 100, "metrics": {"train/loss": 9.0}}
    attempt(run, 0, "REQUEUED", 0, old)
    rows = [
        {"t": 1, "step": 5, "total_steps": 100, "metrics": {"train/loss": 0.5}},
        {"t": 2, "dataset": {}},
        {"t": 3, "step": 6, "total_steps": 100, "metrics": {"val/loss": "nan"}},
    ]
    attempt(run, 0, "SUCCEEDED", 1, *rows)

    (member,) = status_of(run).members

    assert (member.step, member.total_steps, member.metrics) == (6, 100, {"train/loss": 0.5, "val/loss": "nan"})


@pytest.mark.parametrize(
    ("events", "shown"),
    [
        ([{"event": "checkpoint_failed", "step": 10, "kept": 5, "why": "No space left"}], True),
        ([{"event": "checkpoint_failed", "step": 10, "kept": None, "why": "No space left"}], True),
        ([{"event": "checkpoint_failed", "step": 5, "kept": None, "why": "x"}, {"event": "checkpoint_durable"}], False),
    ],
)
def test_status_of_a_run_says_when_its_checkpoints_do_not_get_onto_the_disk(
    slurm_run: Make, quiet: Any, events: list[dict[str, Any]], shown: bool
) -> None:
    run, _ = slurm_run()
    submitted(run, 1)
    attempt(run, 0)
    ledger = run.member(0).path / "attempt-0" / "ledger.jsonl"
    ledger.write_text("".join(json.dumps({"t": 1.0, **event}) + "\n" for event in events))
    queue(quiet, ("N/A", "d-1", "RUNNING", "None"))

    text = "\n".join(status_text(status_of(run)))

    assert "RUNNING" in text
    assert ("checkpoints cannot be saved (No space left); " in text) == shown


@pytest.mark.parametrize(("state", "shown"), [(None, "RUNNING"), ("SUCCEEDED", "SUCCEEDED")])
def test_status_of_a_run_says_that_it_began_anew_as_its_checkpoints_were_damaged(
    slurm_run: Make, quiet: Any, state: str | None, shown: str
) -> None:
    run, _ = slurm_run()
    submitted(run, 1)
    attempt(run, 0, state)
    for name in ("step-5.lost", "step-9.lost", "step-2"):
        (run.member(0).checkpoints / name).mkdir(parents=True)
    queue(quiet, ("N/A", "d-1", "RUNNING", "None"))

    now = status_of(run)

    said = "began anew: all its checkpoints were damaged (kept in checkpoints/: step-5.lost, step-9.lost)"
    assert shown in (text := "\n".join(status_text(now))) and said in text
    assert ("\n".join(summary_text(now, {}, {})).count(said)) == 1
    assert json.loads(json.dumps(status_document(now)))["members"][0]["lost"] == said


SLOW = {"train/slowest_rank": 2.0, "train/rank_spread": 1.62}
TOLD = {"event": "straggler", "step": 30, "rank": 2, "host": "n3", "times": 1.5}


@pytest.mark.parametrize(
    ("events", "metrics", "shown"),
    [
        ([TOLD], SLOW, True),
        ([], SLOW, False),
        ([TOLD], {**SLOW, "train/slowest_rank": 1.0}, False),
        ([TOLD], {**SLOW, "train/rank_spread": 1.1}, False),
        ([TOLD], {**SLOW, "train/rank_spread": "nan"}, False),
    ],
    ids=["still slow", "never told of", "another", "well again", "no number"],
)
def test_status_of_a_run_names_the_rank_that_keeps_the_others_waiting(
    slurm_run: Make, quiet: Any, events: list[dict[str, Any]], metrics: dict[str, Any], shown: bool
) -> None:
    run, _ = slurm_run()
    submitted(run, 1)
    attempt(run, 0, None, 0, {"t": 1, "step": 60, "total_steps": 100, "metrics": metrics})
    ledger = run.member(0).path / "attempt-0" / "ledger.jsonl"
    ledger.write_text("".join(json.dumps({"t": 1.0, **event}) + "\n" for event in events))
    queue(quiet, ("N/A", "d-1", "RUNNING", "None"))

    (member,) = (now := status_of(run)).members

    said = "rank 2 on n3 takes 1.6 times as long as the others and keeps them waiting (since step 30)"
    assert (said in "\n".join(status_text(now))) == shown
    assert (member.straggler is not None) == shown
    assert json.loads(json.dumps(status_document(now)))["members"][0]["straggler"] == (
        {"rank": 2, "host": "n3", "times": 1.62, "since_step": 30} if shown else None
    )


def test_status_times_are_of_the_launch_and_of_the_last_outcome(slurm_run: Make, quiet: Any) -> None:
    run, _ = slurm_run()
    write_json(run.provenance, {"created": "2026-01-02T03:04:05+00:00"})
    submitted(run, 1)
    mark_ended(run, 0, 0, "FAILED")
    unmark_ended(run, {0})
    queue(quiet, ("0", run.id, "RUNNING", "None"))
    before = status_of(run)
    attempt(run, 0, "SUCCEEDED")
    mark_ended(run, 0, 0, "SUCCEEDED")
    os.utime(run.ended, (0, 1_767_323_050))

    after = status_of(run)

    assert (before.launched, before.ended) == (1_767_323_045, None)
    assert (after.launched, after.ended) == (1_767_323_045, 1_767_323_050)


def test_status_text_of_one_member_says_where_its_time_went(slurm_run: Make, quiet: Any) -> None:
    run, _ = slurm_run()
    time_s = {"queue": 30.0, "start": 2.0, "data": 0.1, "steps": 90.0, "data_wait": 7.9}
    rank_s = {phase: 2 * s for phase, s in time_s.items() if phase != "queue"}
    used = Spending(time=Goodput(time_s), rank_s=rank_s, gpu_h={"steps": 0.5}, money={}, currency="EUR")

    goodput, spent = [
        line for line in status_text(status_of(run), None, used) if line[:9] in ("  goodput", "  used   ")
    ]

    said = "  goodput 90% of 1 min 40 s (start 2%, data wait 8%; queued 30 s)"
    assert goodput.replace("\N{NO-BREAK SPACE}", " ") == said
    assert spent == "  used    200 rank-seconds, 0.5 GPU-hours"
