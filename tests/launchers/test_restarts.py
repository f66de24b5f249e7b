"""Attempts that end by a fault are started again on the same nodes: as often as is declared, and as is of use."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import pytest

from conf.job_schema import Restarts
from launchers.run_folder.record import write_json
from tests.launchers.attempted import AT_ONCE, Make, Start, ended, made, outcomes, until


@pytest.fixture
def make_run(workdir: Path) -> Make:
    return partial(made, workdir)


CRASHING = """
import os, signal, sys
kept, attempt = os.environ["AIP_CHECKPOINT_DIR"], int(os.environ["FAIRLEAD_ATTEMPT"])
if attempt in SAVING:
    os.mkdir(kept + f"step-{attempt}")
os.makedirs(kept + f"step-9.tmp.attempt-{attempt}")
if attempt < 6:
    os.kill(os.getpid(), signal.SIGSEGV)
"""


@pytest.mark.parametrize(
    ("saving", "states"),
    [
        ((), ["RESTARTED", "RESTARTED", "FAILED"]),
        ((1,), ["RESTARTED"] * 3 + ["FAILED"]),
        ((1, 3, 5), ["RESTARTED"] * 6 + ["SUCCEEDED"]),
    ],
    ids=["never further", "once further", "further and further"],
)
def test_restarts_end_when_nothing_new_was_saved(
    make_run: Make, start: Start, saving: tuple[int, ...], states: list[str]
) -> None:
    program = (sys.executable, "-Sc", CRASHING.replace("SAVING", repr(saving)))
    run = make_run(*program, restarts=Restarts(crash=2))

    ended(start(run, patch=AT_ONCE))

    assert [o["state"] for o in outcomes(run)] == states


def test_restarts_not_after_what_the_program_itself_raised(make_run: Make, start: Start) -> None:
    run = make_run(sys.executable, "-Sc", "raise SystemExit(3)", restarts=Restarts(crash=2, hang=2))

    assert ended(start(run, patch=AT_ONCE)) == 1

    assert [(o["state"], o["cause"]) for o in outcomes(run)] == [("FAILED", "user_error")]


def test_restart_that_waits_is_given_up_when_the_user_cancels(make_run: Make, start: Start) -> None:
    run = make_run(sys.executable, "-Sc", CRASHING.replace("SAVING", "()"), restarts=Restarts(crash=2))
    process = start(run, patch="import launchers.host.policy as p; p.PAUSES_S = (600.0,)")
    until(lambda: run.member(0).attempts() and run.member(0).attempts()[0].outcome.exists())

    write_json(run.cancelled, {})

    assert ended(process) == 1
    assert [o["state"] for o in outcomes(run)] == ["RESTARTED", "CANCELLED"]
