"""The status, the summary and the list of jobs as text: short, with what is to be done."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import pytest

from launchers.jobs.status import status_of
from launchers.run_folder.record import write_json
from launchers.show import list_text, status_text, summary_text
from tests.launchers.standing import Make, attempt, queue, submitted, without_a_word
from tests.launchers.tried import T0


@pytest.fixture
def quiet(fakes: Any) -> Any:
    return without_a_word(fakes)


def test_status_text_shows_job_counts_and_folder(slurm_run: Make, quiet: Any) -> None:
    run, _ = slurm_run(2)
    submitted(run, 2)
    attempt(run, 0, "SUCCEEDED")
    attempt(run, 1, "FAILED")

    lines = list(status_text(status_of(run)))

    assert lines[0] == "d-1   PARTIALLY_SUCCEEDED   slurm 7"
    assert lines[1] == "  1 FAILED, 1 SUCCEEDED"
    assert "failed: m0" in lines[3]
    assert lines[-1].endswith(str(run.path))


def test_status_text_of_many_members_is_short(slurm_run: Make, quiet: Any) -> None:
    run, _ = slurm_run(100)
    submitted(run, 100)
    queue(quiet, ("0-99", "d-1", "PENDING", "Priority"))

    lines = list(status_text(status_of(run)))

    assert len(lines) < 30
    assert any("80 more" in line for line in lines)


def test_summary_text_without_a_result_has_the_folder(slurm_run: Make, quiet: Any) -> None:
    run, _ = slurm_run()
    submitted(run, 1)
    attempt(run, 0, "FAILED")

    text = "\n".join(summary_text(status_of(run), None, {}))

    assert "FAILED" in text
    assert str(run.path) in text


def test_summary_text_says_once_what_to_do(slurm_run: Make, quiet: Any) -> None:
    run, _ = slurm_run(members=2)
    submitted(run, 2)
    for index in (0, 1):
        attempt(run, index, "FAILED")
        write_json(run.member(index).attempts()[0].outcome, {"state": "FAILED", "cause": "site", "message": "full"})

    text = "\n".join(summary_text(status_of(run), None, {}))

    assert text.count("do         free space where the runs are") == 1
    assert f"fairlead retry {run.id}" in text


def test_list_text_is_a_line_for_each_job(slurm_run: Make, quiet: Any) -> None:
    run, _ = slurm_run()
    submitted(run, 1)
    attempt(run, 0, "SUCCEEDED")
    ended = dataclasses.replace(status_of(run), launched=T0, ended=T0 + 65)
    running = dataclasses.replace(ended, job="a-much-longer-name-1", state="RUNNING", ended=None)
    unknown = dataclasses.replace(ended, launched=None, ended=None)
    launched = time.strftime("%Y-%m-%d %H:%M", time.localtime(T0))

    assert list(list_text([ended, running, unknown], T0 + 7200)) == [
        "JOB                   LAUNCHED          LASTED      STATE      MEMBERS",
        f"d-1                   {launched}  1 min 05 s  SUCCEEDED  1 succeeded",
        f"a-much-longer-name-1  {launched}  2 h 00 min  RUNNING    1 succeeded",
        "d-1                                                 SUCCEEDED  1 succeeded",
    ]
    assert list(list_text([], T0)) == []
