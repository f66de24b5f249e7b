"""States of jobs and members, from files first, the queue second, accounting third."""

from __future__ import annotations

import time
from typing import Any

import pytest

from launchers.errors import SiteError
from launchers.jobs.status import status_of
from launchers.parts import Part
from launchers.queue import scheduler
from launchers.run_folder.journal import Journal
from launchers.run_folder.record import write_json
from tests.launchers.standing import Make, S, attempt, queue, states, submitted, without_a_word


@pytest.fixture
def quiet(fakes: Any) -> Any:
    return without_a_word(fakes)


@pytest.mark.parametrize(
    ("members", "whole"),
    [
        (("SUCCEEDED", "SUCCEEDED"), "SUCCEEDED"),
        (("SUCCEEDED", "FAILED"), "PARTIALLY_SUCCEEDED"),
        (("SUCCEEDED", "CANCELLED"), "PARTIALLY_SUCCEEDED"),
        (("FAILED", "FAILED"), "FAILED"),
        (("FAILED", "CANCELLED"), "FAILED"),
        (("CANCELLED", "CANCELLED"), "CANCELLED"),
        (("SUCCEEDED",), "SUCCEEDED"),
    ],
)
def test_status_ended_members_make_one_word(slurm_run: Make, quiet: Any, members: tuple[str, ...], whole: str) -> None:
    run, _ = slurm_run(len(members))
    submitted(run, len(members))
    for index, state in enumerate(members):
        attempt(run, index, state)

    now = status_of(run)

    assert (now.state, states(now)) == (whole, list(members))
    assert quiet.calls("squeue") == []


def test_status_array_in_the_queue_is_read_element_by_element(slurm_run: Make, quiet: Any) -> None:
    run, _ = slurm_run(6)
    submitted(run, 6)
    attempt(run, 0, "SUCCEEDED")
    queue(
        quiet,
        ("1", "d-1", "RUNNING", "None"),
        ("2", "d-1", "CONFIGURING", "None"),
        ("3-5%2", "d-1", "PENDING", "JobArrayTaskLimit"),
    )

    now = status_of(run)

    assert states(now) == ["SUCCEEDED", "RUNNING", "PENDING", "QUEUED", "QUEUED", "QUEUED"]
    assert (now.state, now.slurm_ids, now.members[3].message) == ("RUNNING", ("7",), "JobArrayTaskLimit")


def test_status_plain_job_in_the_queue_stands_for_its_member(slurm_run: Make, quiet: Any) -> None:
    run, _ = slurm_run()
    submitted(run, 1)
    queue(quiet, ("N/A", "d-1", "PENDING", "Resources"))

    now = status_of(run)

    assert (now.state, now.reason) == ("QUEUED", "Resources")


def test_status_some_ended_and_some_queued_is_running(slurm_run: Make, quiet: Any) -> None:
    run, _ = slurm_run(2)
    submitted(run, 2)
    attempt(run, 0, "FAILED")
    queue(quiet, ("1", "d-1", "PENDING", "x"))

    assert status_of(run).state == "RUNNING"


def test_status_requeued_attempt_is_not_the_end(slurm_run: Make, quiet: Any) -> None:
    run, _ = slurm_run()
    submitted(run, 1)
    attempt(run, 0, "REQUEUED")
    queue(quiet, ("N/A", "d-1", "PENDING", "BeginTime"))

    now = status_of(run)

    assert (now.state, now.members[0].attempts) == ("QUEUED", 1)


def test_status_cancelled_but_still_there_is_cancelling(slurm_run: Make, quiet: Any) -> None:
    run, _ = slurm_run()
    submitted(run, 1)
    write_json(run.cancelled, {"by": "me", "t": time.time()})
    queue(quiet, ("N/A", "d-1", "COMPLETING", "None"))

    assert status_of(run).state == "CANCELLING"


def test_status_cancelled_while_it_waited_is_cancelled(slurm_run: Make, quiet: Any) -> None:
    run, _ = slurm_run()
    submitted(run, 1)
    write_json(run.cancelled, {"by": "me", "t": time.time()})

    assert status_of(run).state == "CANCELLED"


@pytest.mark.parametrize(
    ("slurm", "state"),
    [
        ("CANCELLED by 1000", "CANCELLED"),
        ("NODE_FAIL", "FAILED"),
        ("DEADLINE", "EXPIRED"),
        ("OUT_OF_MEMORY", "FAILED"),
        ("COMPLETING", "RUNNING"),
        ("REQUEUED", "RUNNING"),
        ("BOOT_FAIL", "FAILED"),
        ("TIMEOUT", "FAILED"),
    ],
)
def test_status_gone_without_a_word_is_what_accounting_says(
    slurm_run: Make, quiet: Any, slurm: str, state: str
) -> None:
    run, _ = slurm_run()
    submitted(run, 1)
    quiet.put("sacct", f"print({S.join(('7', 'd-1', slurm))!r})")

    assert status_of(run).members[0].state == state


def test_status_member_that_ends_while_the_queue_is_asked_has_its_outcome(
    slurm_run: Make, quiet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = slurm_run(1)
    submitted(run, 1)
    attempt(run, 0)

    def asked(_: object) -> list[scheduler.Queued]:
        write_json(run.member(0).attempts()[-1].outcome, {"state": "FAILED", "cause": "user_error", "message": "mine"})
        return []

    monkeypatch.setattr(scheduler, "queue", asked)

    (member,) = status_of(run).members
    assert (member.state, member.cause, member.message) == ("FAILED", "user_error", "mine")


def test_status_gone_and_unknown_is_failed_with_a_reason(slurm_run: Make, quiet: Any) -> None:
    run, _ = slurm_run()
    submitted(run, 1)

    (member,) = status_of(run).members

    assert member.state == "FAILED"
    assert "left no outcome" in member.message


def test_status_submission_that_was_given_up_says_how_to_go_on(slurm_run: Make, quiet: Any) -> None:
    run, _ = slurm_run()
    Journal(run).abandon(Journal(run).intend(Part.whole(0)).intent, "sbatch: error: no\nmore")

    (member,) = status_of(run).members

    assert (member.state, "sbatch: error: no" in member.message, "retry d-1" in member.message) == (
        "FAILED",
        True,
        True,
    )


def test_status_submitted_again_has_not_ended_until_it_ends_again(slurm_run: Make, quiet: Any) -> None:
    run, _ = slurm_run(2)
    submitted(run, 2)
    attempt(run, 0, "SUCCEEDED")
    attempt(run, 1, "FAILED")
    journal = Journal(run)
    journal.reached(journal.intend(Part.whole(1)).intent, "8")
    quiet.put("squeue", f"print({S.join(('8', 'N/A', 'd-1.r1', 'RUNNING', 'None'))!r})")

    during = status_of(run)
    attempt(run, 1, "SUCCEEDED", 1)
    after = status_of(run)

    assert (states(during), during.state) == (["SUCCEEDED", "RUNNING"], "RUNNING")
    assert (states(after), after.state, after.slurm_ids) == (["SUCCEEDED", "SUCCEEDED"], "SUCCEEDED", ("7", "8"))


def test_status_queue_is_asked_once_for_all_members(slurm_run: Make, quiet: Any) -> None:
    run, _ = slurm_run(500)
    submitted(run, 500)
    queue(quiet, ("0-499%10", "d-1", "PENDING", "x"))

    status_of(run)

    assert len(quiet.calls("squeue")) == 1


def test_status_queue_that_does_not_answer_is_an_error(slurm_run: Make, quiet: Any) -> None:
    run, _ = slurm_run()
    submitted(run, 1)
    quiet.put("squeue", "sys.exit(1)")

    with pytest.raises(SiteError):
        status_of(run)


def test_status_broken_file_is_an_error_that_names_it(slurm_run: Make, quiet: Any) -> None:
    run, _ = slurm_run()
    run.plan.write_text('{"job": ')

    with pytest.raises(SiteError, match=r"plan\.json"):
        status_of(run)
