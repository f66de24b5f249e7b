"""Asking for points by many processes at once, some of which are killed or stopped."""

from __future__ import annotations

import errno
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launchers.plan import Plan
from launchers.run_folder.record import (
    LockBusy,
    Run,
    is_locked,
    locked,
    make_private,
    read_json,
    read_lines,
    write_json,
    write_once,
)
from launchers.search import ask as asking
from launchers.search.ask import ask
from launchers.search.points import give
from launchers.search.study import LEASE_S, Study
from tests.launchers.asked import (
    CARDS,
    Made,
    Process,
    ask_all,
    at_line,
    begin,
    different,
    end,
    maker,
    points_of,
    until,
    waits,
)

LINES = 360
"""Of ours that one ask runs through, about."""
TPE = ("sweep.algorithm=tpe", "sweep.startup_trials=4")


@pytest.fixture
def search(workdir: Path) -> Made:
    return maker(workdir)


def lock_of(run: Run) -> Path:
    return make_private(run.path / "study") / "ask.lock"


def give_with_others(run: Run, plan: Plan, index: int) -> Any:
    return give(run, plan, index, asking._others(run.path / "study", index))


def waiting(run: Run, plan: Plan, indices: list[int], act: Callable[..., None] = ask_all) -> list[Process]:
    """Members that wait, each in a process of its own. The caller holds the lock."""
    askers = [begin(act, run, plan, [index]) for index in indices]
    until(lambda: all(waits(run, index) for index in indices))
    return askers


def codes(processes: list[Process]) -> list[int | None]:
    for process in processes:
        process.join(280)
    return [process.exitcode for process in processes]


# --- many at once -------------------------------------------------------------------------------------


def _work(run: Run, plan: Plan, indices: range) -> None:
    for index in indices:
        ask_all(run, plan, [index])
        end(run, index, 0.5 + index / 1e4)


def test_ask_eight_processes_of_two_hundred_trials_give_no_point_twice(search: Made) -> None:
    run, plan = search("sweep.trials=1600")

    assert codes([begin(_work, run, plan, range(i, 1600, 8)) for i in range(8)]) == [0] * 8

    assert sorted(points_of(run)) == list(range(1600))
    assert different(run) == 1600
    assert "trials is 1600" in (ask(run, plan, 1600) or "")


def test_ask_eight_processes_of_tpe_give_no_point_twice(search: Made) -> None:
    run, plan = search(*TPE, "sweep.trials=64")

    assert codes([begin(_work, run, plan, range(i, 64, 8)) for i in range(8)]) == [0] * 8

    assert (len(points_of(run)), different(run)) == (64, 64)
    assert {t.state for t in Study(run).trials()} == {"SUCCEEDED"}


def test_ask_gives_points_to_all_that_wait_and_live(search: Made) -> None:
    run, plan = search()
    (make_private(run.path / "study" / "waiting") / "9").touch()  # of one that was killed while it waited

    with locked(lock_of(run)):
        askers = waiting(run, plan, [1, 2, 3])
        assert give_with_others(run, plan, 0) == (None, None)
        assert sorted(points_of(run)) == [0, 1, 2, 3]
        assert codes(askers) == [0, 0, 0], "they need no lock to see their points"

    assert list((run.path / "study" / "waiting").iterdir()) == [], "not even of the one that was killed"


def test_ask_lock_that_is_each_hosts_own_still_gives_every_member_one_point(
    search: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "is_locked", lambda path: False)  # what another host holds
    run, plan = search()

    assert codes([begin(ask_all, run, plan, list(range(i, 24, 4))) for i in range(4)]) == [0] * 4

    assert (sorted(points_of(run)), different(run)) == (list(range(24)), 24)


def test_ask_one_member_by_many_processes_gives_one_point(search: Made) -> None:
    run, plan = search()
    with locked(lock_of(run)):
        askers = [begin(ask_all, run, plan, [5]) for _ in range(4)]
        until(lambda: waits(run, 5))

    assert codes(askers) == [0] * 4
    assert list(points_of(run)) == [5]
    assert len(Study(run).trials()) == 1


def _write(path: Path, word: str) -> None:
    raise SystemExit(0 if write_once(path, {"by": word * 1000}) else 9)


def test_write_once_by_many_processes_is_written_by_one(tmp_path: Path) -> None:
    writers = [begin(_write, tmp_path / "point.json", str(i)) for i in range(8)]

    assert sorted(codes(writers), key=str) == [0, *[9] * 7]
    assert read_json(tmp_path / "point.json")["by"][0] == str([w.exitcode for w in writers].index(0))
    assert [p.name for p in tmp_path.iterdir()] == ["point.json"]


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOTSUP])
def test_write_once_where_no_links_can_be_made_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def link(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", link)

    assert write_once(tmp_path / "point.json", {"by": "me"})

    assert [p.name for p in tmp_path.iterdir()] == ["point.json"]


def test_give_point_that_came_from_elsewhere_meanwhile_stays(search: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    run, plan = search()
    theirs = {"point": {"optimizer.lr": 0.01, "model": "mlp"}, "sections": {}, "asked": 1.0, "reserved_gpu_hours": 0}

    def meanwhile(*_: Any) -> dict[str, Any]:
        write_json(run.member(0).point, theirs)
        return {}

    monkeypatch.setattr("launchers.search.points._Source._checked", meanwhile)

    assert give(run, plan, 0, []) == (None, None)

    assert read_json(run.member(0).point) == theirs


# --- killed -------------------------------------------------------------------------------------------


def _give_and_die(run: Run, plan: Plan, index: int, others: list[int], line: int) -> None:
    """Holds the lock while the others begin to wait, then gives points until its end."""
    with locked(lock_of(run)):
        until(lambda: all(waits(run, other) for other in others))
        at_line(line, signal.SIGKILL, lambda: give_with_others(run, plan, index))


@pytest.mark.parametrize("words", [(), TPE])
def test_ask_giver_killed_between_any_two_lines_costs_nobody_a_point(search: Made, words: tuple[str, ...]) -> None:
    run, plan = search(*words, "sweep.trials=36")
    chance, killed = random.Random(7), 0
    for first in range(0, 36, 3):
        giver = begin(_give_and_die, run, plan, first, [first + 1, first + 2], chance.randrange(1, 2 * LINES))
        until(lambda giver=giver: is_locked(lock_of(run)) or giver.exitcode is not None)  # type: ignore[misc]
        askers = [begin(ask_all, run, plan, [first + i]) for i in (1, 2)]
        assert codes(askers) == [0, 0]
        giver.join()
        killed += giver.exitcode == -signal.SIGKILL
        seen = read_json(run.member(first).point)
        assert ask(run, plan, first) is None
        assert seen in (None, read_json(run.member(first).point)), "a point that was written stays"

    assert killed >= 6
    assert (sorted(points_of(run)), different(run)) == (list(range(36)), 36)
    assert "trials is 36" in (ask(run, plan, 36) or ""), "no more and no less than the budget"


def _ask_and_die(run: Run, plan: Plan, indices: list[int], line: int) -> None:
    at_line(line, signal.SIGKILL, lambda: ask_all(run, plan, indices))


def test_ask_waiter_killed_between_any_two_lines_has_a_whole_point_or_none(search: Made) -> None:
    run, plan = search("sweep.trials=40")
    chance, killed = random.Random(3), 0
    for first in range(0, 40, 2):
        line = chance.randrange(1, 200)  # of which it runs about twenty for each look
        with locked(lock_of(run)):
            waiter = begin(_ask_and_die, run, plan, [first + 1], line)
            until(lambda i=first + 1, w=waiter: waits(run, i) or w.exitcode is not None)  # type: ignore[misc]
            time.sleep(chance.uniform(0.0, 0.2))
            assert give_with_others(run, plan, first) == (None, None)
            seen = read_json(run.member(first + 1).point)
        waiter.join(280)
        killed += waiter.exitcode == -signal.SIGKILL
        assert ask(run, plan, first + 1) is None
        assert seen in (None, read_json(run.member(first + 1).point))

    assert killed >= 6
    assert different(run) == len(Study(run).trials()) == 40


def test_ask_killed_at_any_time_leaves_a_whole_point_or_none(search: Made) -> None:
    run, plan = search()
    chance = random.Random(1)
    for index in range(25):
        asker = begin(ask_all, run, plan, [index])
        time.sleep(chance.uniform(0.0, 0.15))
        os.kill(int(asker.pid or 0), signal.SIGKILL)
        asker.join()
        seen = read_json(run.member(index).point)
        assert ask(run, plan, index) is None, "the lock died with its holder"
        assert seen in (None, read_json(run.member(index).point))

    assert different(run) == 25


def test_point_of_a_member_that_was_killed_before_it_ran_gives_its_reserve_back(search: Made) -> None:
    run, plan = search(*CARDS, "+sweep.limits={gpu_hours: 48}")
    give(run, plan, 0, [1])
    assert give(run, plan, 2, [])[1], "both reserves are out"
    assert Study(run).silent() == set(), "it has only just been given"
    old = time.time() - LEASE_S - 10
    os.utime(run.member(1).path, (old, old))

    assert ask(run, plan, 2) is None

    assert [(t.number, t.state, t.gpu_hours) for t in Study(run).trials({1})][1] == (1, "LOST", 0.0)


def test_ended_trials_without_an_entry_count_as_what_they_are(search: Made) -> None:
    """A supervisor was killed between its outcome and the entry in ended/."""
    run, plan = search("sweep.trials=2")
    ask(run, plan, 0)
    end(run, 0, 0.7)
    next(run.ended.iterdir()).unlink()
    old = time.time() - LEASE_S - 10
    attempt = run.member(0).attempts()[0].path
    os.utime(attempt, (old, old))
    assert Study(run).silent() == {0}

    assert ask(run, plan, 1) is None

    assert [t.state for t in Study(run).trials({0})] == ["SUCCEEDED", "RUNNING"]
    assert read_lines(Study(run).folder / "known.jsonl") == []
    assert "trials is 2" in (ask(run, plan, 2) or "")


# --- budgets ------------------------------------------------------------------------------------------


def test_give_to_others_keeps_within_the_gpu_hours(search: Made) -> None:
    run, plan = search(*CARDS, "+sweep.limits={gpu_hours: 72}")

    assert give(run, plan, 0, [1, 2, 3, 4]) == (None, None)

    assert sorted(points_of(run)) == [0, 1, 2]
    why, later = give(run, plan, 3, [])
    assert why is None
    assert later and "72.00 reserved" in later


def test_give_to_others_keeps_within_the_number_of_trials(search: Made) -> None:
    run, plan = search("sweep.trials=3")

    assert give(run, plan, 0, [1, 2, 3, 4]) == (None, None)

    assert sorted(points_of(run)) == [0, 1, 2]
    assert "trials is 3" in (ask(run, plan, 3) or "")


def test_give_what_is_wrong_for_another_member_is_the_others_to_hear(
    search: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(path: Path, document: Any) -> bool:
        if path.parent.name == "1":
            raise OSError("Input/output error")
        return write_once(path, document)

    monkeypatch.setattr("launchers.search.points.write_once", write)
    run, plan = search()

    assert give(run, plan, 0, [1, 2]) == (None, None)

    assert list(points_of(run)) == [0]
    with pytest.raises(OSError, match="Input/output"):
        ask(run, plan, 1)


def test_ask_budget_that_was_raised_while_it_waited_holds(search: Made) -> None:
    run, plan = search("sweep.trials=1")
    ask(run, plan, 0)
    assert ask(run, plan, 1)

    with locked(lock_of(run)):  # as `extend` does it
        asker = begin(ask_all, run, plan, [1])
        until(lambda: waits(run, 1))
        write_json(Study(run).budget, {"trials": 2, "limits": {}})
        Study(run).over.unlink()

    assert codes([asker]) == [0]
    assert sorted(points_of(run)) == [0, 1]


# --- slow storage -------------------------------------------------------------------------------------


def _give_and_stop(run: Run, plan: Plan, index: int, line: int) -> None:
    with locked(lock_of(run)):
        at_line(line, signal.SIGSTOP, lambda: give_with_others(run, plan, index))


@pytest.fixture
def stopped(search: Made) -> Any:
    """A member that hangs with the lock in its hand."""
    run, plan = search()
    giver = begin(_give_and_stop, run, plan, 0, 60)
    until(lambda: Path(f"/proc/{giver.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
    yield run, plan, giver
    giver.kill()
    giver.join()


def test_ask_while_one_hangs_with_the_lock_waits_for_it(stopped: tuple[Run, Plan, Process]) -> None:
    run, plan, giver = stopped
    askers = waiting(run, plan, [1, 2])
    assert points_of(run) == {}

    os.kill(int(giver.pid or 0), signal.SIGCONT)

    assert codes([giver, *askers]) == [0, 0, 0]
    assert (sorted(points_of(run)), different(run)) == ([0, 1, 2], 3)


def test_ask_while_one_hangs_for_too_long_says_so_and_can_ask_again(
    stopped: tuple[Run, Plan, Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, plan, giver = stopped
    monkeypatch.setattr(asking, "LOCK_LIMIT_S", 0.3)

    with pytest.raises(LockBusy, match=r"no point for member 1: ask.lock was held by others for 0.3 s"):
        ask(run, plan, 1)

    assert not waits(run, 1)
    giver.kill()
    giver.join()
    assert ask(run, plan, 1) is None
