"""Asking for points: once each, whoever is killed when, and what ends a study."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from launchers.run_folder.record import make_private, read_json, read_lines, write_json
from launchers.search.ask import ask
from launchers.search.study import LEASE_S, Study
from tests.launchers.asked import Made, end, maker, points_of


@pytest.fixture
def search(workdir: Path) -> Made:
    return maker(workdir)


# --- one point each -----------------------------------------------------------------------------------


def test_ask_point_is_in_the_spec_of_the_member_alone(search: Made) -> None:
    run, plan = search()

    assert ask(run, plan, 7) is None

    claim = read_json(run.member(7).point)
    assert set(claim["sections"]) <= {"optimizer", "model"}
    assert claim["sections"]["optimizer"]["options"]["lr"] == claim["point"]["optimizer.lr"]
    assert ("model.dropout" in claim["point"]) == (claim["point"]["model"] == "cnn")
    assert claim["sections"].get("model", {"kind": "cnn"})["kind"] == claim["point"]["model"]


def test_ask_image_that_the_launch_chose_is_the_members(search: Made) -> None:
    """The templates were composed before the image was built."""
    run, plan = search()
    spec = read_json(run.spec)
    spec["pools"][0]["container"] |= {"image": "/images/x.sif", "digest": f"sha256:{'0' * 64}"}
    write_json(run.spec, spec)

    ask(run, plan, 0)

    claim = read_json(run.member(0).point)
    assert claim["sections"].keys() <= {"optimizer", "model"}
    assert {**spec, **claim["sections"]}["pools"] == spec["pools"]


def test_ask_again_gives_the_same_point(search: Made) -> None:
    run, plan = search()
    ask(run, plan, 0)
    before = run.member(0).point.read_bytes()
    end(run, 0)

    assert ask(run, plan, 0) is None

    assert run.member(0).point.read_bytes() == before


def test_ask_grid_gives_what_an_undisturbed_run_gives_in_any_order(search: Made) -> None:
    words = ("sweep.algorithm=grid", "~sweep.parameters", "+sweep.parameters={seed: {type: integer, min: 1, max: 6}}")
    run, plan = search(*words, "sweep.trials=6")
    for index in (3, 0, 5, 1, 4, 2):
        ask(run, plan, index)

    assert [points_of(run)[i] for i in range(6)] == [{"seed": i} for i in range(1, 7)]


# --- when it is over ----------------------------------------------------------------------------------


def test_ask_beyond_the_budget_says_so_once_and_for_all(search: Made) -> None:
    run, plan = search("sweep.trials=2")
    ask(run, plan, 0)
    ask(run, plan, 1)

    why = ask(run, plan, 2)

    assert why and "trials" in why
    assert read_json(Study(run).over)["why"] == why
    assert not run.member(2).point.exists()


def test_ask_after_equal_failures_stops_and_names_the_error(search: Made) -> None:
    run, plan = search("+sweep.limits={same_failures: 3}")
    for index in range(3):
        ask(run, plan, index)
        end(run, index, None, state="FAILED", cause="user_error", message="KeyError: 'lr'")

    why = ask(run, plan, 3)

    assert why and "KeyError: 'lr'" in why


def test_ask_lost_trials_count_to_no_limit(search: Made) -> None:
    run, plan = search("+sweep.limits={same_failures: 2, max_failed: 1}")
    for index in range(4):
        ask(run, plan, index)
        end(run, index, None, state="FAILED", cause="node_failure", message="a node was lost")

    assert ask(run, plan, 4) is None
    assert {t.state for t in Study(run).trials()} == {"LOST", "RUNNING"}


# --- what trials are ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "outcome", "state"),
    [
        (0.9, {}, "SUCCEEDED"),
        (None, {}, "FAILED"),
        ("nan", {}, "INFEASIBLE"),
        ("inf", {}, "INFEASIBLE"),
        ("-inf", {}, "INFEASIBLE"),
        (0.9, {"state": "PRUNED", "cause": "pruned"}, "PRUNED"),
        (0.9, {"state": "FAILED", "cause": "user_error"}, "FAILED"),
        (0.9, {"state": "FAILED", "cause": "out_of_memory"}, "FAILED"),
        (0.9, {"state": "FAILED", "cause": "timeout"}, "TIMEOUT"),
        (0.9, {"state": "FAILED", "cause": "site"}, "LOST"),
        (0.9, {"state": "CANCELLED", "cause": "cancelled"}, "CANCELLED"),
        (0.9, {"state": "REQUEUED", "cause": "preempted"}, "RUNNING"),
    ],
)
def test_trial_state_is_the_outcomes(search: Made, value: Any, outcome: dict[str, str], state: str) -> None:
    run, plan = search()
    ask(run, plan, 0)
    end(run, 0, value, **outcome)
    if outcome.get("state") == "REQUEUED":
        for path in run.ended.iterdir():
            path.unlink()

    (trial,) = Study(run).trials()

    assert trial.state == state


def test_trial_that_never_reported_its_metric_says_which(search: Made) -> None:
    run, plan = search()
    ask(run, plan, 0)
    end(run, 0, None)

    assert Study(run).trials()[0].error == "it never reported val/accuracy"


def test_trials_from_the_cache_are_those_of_the_folders(search: Made) -> None:
    run, plan = search()
    for index in range(4):
        ask(run, plan, index)
        end(run, index, 0.1 * index)
    ask(run, plan, 4)  # remembers the others
    cached = Study(run).trials()
    known = Study(run).folder / "known.jsonl"
    assert len(read_lines(known)) == 4
    known.unlink()

    assert Study(run).trials() == cached


@pytest.mark.parametrize("damage", ["", '{"mark": [0, "SUCC', "{}\n", "null\n", '{"mark": 1}\n'])
def test_trials_with_a_damaged_cache_are_still_right(search: Made, damage: str) -> None:
    run, plan = search()
    ask(run, plan, 0)
    end(run, 0)
    (Study(run).folder / "known.jsonl").write_text(damage)

    assert [t.state for t in Study(run).trials()] == ["SUCCEEDED"]


def test_trial_with_a_torn_last_report_has_the_whole_ones(search: Made) -> None:
    run, plan = search()
    ask(run, plan, 0)
    end(run, 0, 0.5)
    with (run.member(0).path / "attempt-0" / "metrics.jsonl").open("a") as f:
        f.write('{"t": 1, "step": 2, "metrics": {"val/acc')

    assert [r.step for r in Study(run).trials()[0].reports] == [1]


def test_trial_that_is_tried_again_is_no_longer_what_the_cache_says(search: Made) -> None:
    run, plan = search()
    ask(run, plan, 0)
    end(run, 0, 0.5, state="FAILED", cause="site")
    ask(run, plan, 1)
    end(run, 0, 0.7)

    trial = Study(run).trials()[0]

    assert (trial.state, trial.attempts, trial.reports[-1].metrics) == ("SUCCEEDED", 2, {"val/accuracy": 0.7})


def test_silent_supervisor_is_one_whose_sign_of_life_is_old_by_the_file_systems_clock(search: Made) -> None:
    run, plan = search()
    for index in (0, 1):
        ask(run, plan, index)
        make_private(run.member(index).path / "attempt-0")
        (run.member(index).path / "attempt-0" / "alive").touch()
    old = time.time() - LEASE_S - 10
    for path in (run.member(0).path / "attempt-0" / "alive", run.member(0).path / "attempt-0"):
        os.utime(path, (old, old))

    assert Study(run).silent() == {0}
