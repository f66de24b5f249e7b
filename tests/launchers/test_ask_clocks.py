"""Searches on hosts whose clocks differ by an hour: leases, wall time, and what trials cost."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from launchers.run_folder.record import read_json, write_json
from launchers.search.ask import ask
from launchers.search.points import give
from launchers.search.study import LEASE_S, Study
from tests.launchers.asked import CARDS, Made, end, maker, points_of


@pytest.fixture
def search(workdir: Path) -> Made:
    return maker(workdir)


@pytest.mark.parametrize("ahead_s", [1800, -1800])
def test_ask_by_hosts_whose_clocks_differ_keeps_the_wall_time(
    search: Made, monkeypatch: pytest.MonkeyPatch, ahead_s: float
) -> None:
    run, plan = search("+sweep.limits={wall_min: 5}")
    clock = time.time
    ask(run, plan, 0)
    monkeypatch.setattr(time, "time", lambda: clock() + ahead_s)

    assert ask(run, plan, 1) is None

    first, second = Study(run).trials()
    assert 0 <= second.asked - first.asked < 200
    monkeypatch.setattr(time, "time", clock)
    claim = read_json(run.member(0).point)
    write_json(run.member(0).point, {**claim, "asked": claim["asked"] - 301})
    assert "wall_min is 5" in (ask(run, plan, 2) or "")


def test_silent_supervisor_is_told_by_no_hosts_clock(search: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    run, plan = search()
    give(run, plan, 0, [1])
    old = time.time() - LEASE_S - 10
    os.utime(run.member(0).path, (old, old))
    clock = time.time
    for ahead_s in (-3600, 3600):
        monkeypatch.setattr(time, "time", lambda ahead_s=ahead_s: clock() + ahead_s)

        assert Study(run).silent() == {0}


def test_trial_whose_clock_went_back_costs_nothing_less_than_nothing(search: Made) -> None:
    run, plan = search(*CARDS, "+sweep.limits={gpu_hours: 48}")
    ask(run, plan, 0)
    end(run, 0, started=2000.0, ended=1000.0)

    assert Study(run).trials()[0].gpu_hours == 0.0
    assert give(run, plan, 1, [2, 3]) == (None, None)
    assert sorted(points_of(run)) == [0, 1, 2]
