"""The status of a search: its trials, its best or its Pareto set, and what it has spent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from conf.sweep_schema import Goal, Limits
from launchers.errors import SiteError
from launchers.jobs.status import status_of
from launchers.run_folder.record import write_json
from launchers.search.standing import standing_of
from tests.launchers.standing import Make, lines_of, queue, searched, submitted, without_a_word
from tests.launchers.tried import accuracies, start, tried


@pytest.fixture
def quiet(fakes: Any) -> Any:
    return without_a_word(fakes)


def test_status_text_of_a_search_says_how_it_stands(workdir: Path) -> None:
    run = searched(workdir, limits=Limits(wall_min=10**6, gpu_hours=3))
    accuracies(run, [0.5, 0.75, None])
    tried(run, 3, {"optimizer.lr": 0.1, "model.width": 4}, {"val/accuracy": 0.2}, state="PRUNED")
    write_json(run.path / "study" / "over.json", {"why": "enough", "t": 0})

    assert lines_of(run)[2:7] == [
        "  best         trial 1  val/accuracy 0.75  optimizer.lr=0.002 model.width=5",
        "  trials       4 of 6: 2 succeeded, 1 failed, 1 pruned",
        "  used         40 s of 694 d 10 h, 0 of 3 GPU-hours",
        "  slots        2, idle 54% of the time (55% before the last trial began)",
        "  over         enough",
    ]


def test_status_text_of_a_search_before_it_begins_has_no_best(workdir: Path, quiet: Any) -> None:
    run = searched(workdir, launcher="slurm")
    submitted(run, 6)
    queue(quiet, ("0-5", "d-1", "PENDING", "Priority"))

    assert lines_of(run)[2:5] == ["  best so far  none", "  trials       0 of 6", "  used         0.0 s"]


def test_status_text_of_a_search_counts_what_runs_and_reserves(workdir: Path, quiet: Any) -> None:
    run = searched(workdir, launcher="slurm", limits=Limits(gpu_hours=3))
    submitted(run, 6)
    queue(quiet, ("0-5", "digits-1", "RUNNING", "None"))
    accuracies(run, [0.5])
    start(run, 1, {"optimizer.lr": 0.1, "model.width": 4}, {"val/accuracy": 0.9})

    text = "\n".join(lines_of(run))

    assert "best so far  trial 0  val/accuracy 0.5" in text
    assert "2 of 6: 1 succeeded, 1 running" in text
    assert "0 of 3 GPU-hours (0.5 more reserved)" in text


def test_status_text_of_a_search_with_several_goals_has_the_pareto_set(workdir: Path) -> None:
    goals = (Goal(metric="val/accuracy", goal="maximize"), Goal(metric="seconds", goal="minimize"))
    run = searched(workdir, objectives=goals)
    for i, (accuracy, seconds) in enumerate([(0.9, 30), (0.8, 10), (0.7, 20)]):
        tried(run, i, {"optimizer.lr": 0.1, "model.width": 4}, {"val/accuracy": accuracy, "seconds": seconds})

    assert "  Pareto set   2 trials: 0, 1" in lines_of(run)


def test_status_of_a_search_takes_a_trial_that_nothing_runs_for_lost(workdir: Path, quiet: Any) -> None:
    run = searched(workdir, launcher="slurm")
    submitted(run, 6)
    start(run, 0, {"optimizer.lr": 0.1, "model.width": 4})

    now = status_of(run)

    search = standing_of(run, now)
    assert search is not None
    assert search["trials"] == {"LOST": 1}


def test_status_of_a_job_that_is_no_search_has_no_standing(slurm_run: Make, quiet: Any) -> None:
    run, _ = slurm_run(2)
    submitted(run, 2)

    assert standing_of(run, status_of(run)) is None


def test_status_of_ended_trials_that_are_not_shown_opens_none_of_their_files(workdir: Path) -> None:
    run = searched(workdir, trials=40)
    accuracies(run, [0.5] * 40)
    run.member(39).point.write_text("{")
    run.member(39).attempts()[0].outcome.write_text("{")

    now = status_of(run, progress_of=20)

    assert now.counts == {"SUCCEEDED": 40}
    assert [m.point["model.width"] for m in now.members[:20]] == list(range(4, 24))
    assert now.members[39].attempts == 1
    with pytest.raises(SiteError):
        status_of(run)
