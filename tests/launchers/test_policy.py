"""What follows a failed attempt: again here, back to the queue, or the end."""

from __future__ import annotations

import dataclasses
import math

import pytest

from conf.job_schema import Restarts
from launchers.host.policy import PAUSES_S, Course, allowed, decided, pause_s, suspect
from launchers.outcome import Outcome, State

LIMITS = Restarts(crash=2, hang=1, rendezvous=2)


def failed(cause: str = "crash", state: State = "FAILED") -> Outcome:
    return Outcome(state=state, cause=cause, exit_code=1, message="it broke")


def course(
    barren: int = 0, left_s: float = math.inf, told: bool = False, queue: bool = True, avoid: str = ""
) -> Course:
    return Course(barren=barren, left_s=left_s, notice_s=60, told=told, queue=queue, avoid=avoid)


@pytest.mark.parametrize(
    ("outcome", "often"),
    [
        (failed("crash"), 2),
        (failed("hang"), 1),
        (failed("out_of_memory"), 0),
        (failed("user_error"), 0),
        (failed("timeout"), 0),
        (failed("crash", "CANCELLED"), 0),
        (failed("node_failure", "REQUEUED"), 0),
    ],
)
def test_allowed_is_what_the_cause_allows(outcome: Outcome, often: int) -> None:
    assert allowed(outcome, LIMITS) == often


@pytest.mark.parametrize(
    ("now", "state"),
    [
        (course(), "RESTARTED"),
        (course(barren=1), "RESTARTED"),
        (course(barren=2), "FAILED"),
        (course(told=True), "REQUEUED"),
        (course(told=True, queue=False), "FAILED"),
        (course(left_s=60), "REQUEUED"),
        (course(left_s=62), "RESTARTED"),
        (course(barren=1, left_s=62), "REQUEUED"),
        (course(barren=2, told=True), "FAILED"),
        (course(barren=1, avoid="n3"), "RESTARTED"),
        (course(barren=2, avoid="n3"), "REQUEUED"),
    ],
)
def test_decided_by_progress_time_and_notices(now: Course, state: str) -> None:
    assert decided(failed(), 2, now).state == state


def test_decided_end_says_how_often_it_was_tried() -> None:
    said = decided(failed(), 2, course(barren=2)).message

    assert said.startswith("it broke; 2 restart(s) in a row") and "job.restarts" in said


def test_decided_to_go_elsewhere_says_why_and_without_which_hosts() -> None:
    found = decided(dataclasses.replace(failed(), host="n3"), 2, course(barren=2, avoid="n1,n3"))

    assert found.avoided == "n1,n3"
    assert found.message == "it broke; n3 ended 3 attempts in a row, and is avoided from now on"


@pytest.mark.parametrize(
    ("hosts", "host"), [([], None), (["n1"], "n1"), (["n1", "n1"], "n1"), (["n1", "n2"], None), ([None, None], None)]
)
def test_suspect_is_the_host_that_was_there_each_time(hosts: list[str | None], host: str | None) -> None:
    assert suspect(hosts) == host


def test_pause_grows_and_stays() -> None:
    assert [pause_s(n) for n in range(5)] == [*PAUSES_S, PAUSES_S[-1], PAUSES_S[-1]]
