"""Two ranks that ask at every step whether one of them was told to stop hear it at the same step, and soon."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.trainer.ranks import ROOT, free_port
from trainer.parallel.group import Group
from trainer.parallel.told import AHEAD_BYTES, AT_ONCE_S, EVERY_S, FIRST_CALLS, Told

SLOWER = 2
"""Rank 1's steps take so many times as long as rank 0's."""
SHORTEST_S, SHORT_S, LONG_S = EVERY_S / 40, EVERY_S / 3, AT_ONCE_S
CASES = {
    "first step": (1, SHORTEST_S),
    "before steps are known to be short": (FIRST_CALLS - 3, SHORTEST_S),
    "long steps": (FIRST_CALLS + 50, LONG_S),
    "short steps": (FIRST_CALLS + 50, SHORT_S),
    **{f"very short steps, {late} later": (1000 + late, SHORTEST_S) for late in range(3)},
    "very short steps of large data": (1000, SHORTEST_S, AHEAD_BYTES // 5),
}
"""Call from which rank 1 has been told, seconds of a step of rank 0, and bytes that rank 1 has for one."""
ANSWERED_AT_ONCE = list(CASES)[:3]
BEGIN = """
import json, os, sys
from trainer.parallel import group, told
from trainer.rank import Rank

rank, port = int(sys.argv[1]), int(sys.argv[2])
ranks = group.join(Rank(rank, rank, 2, 2, 0, ("127.0.0.1", port)), "gloo", meeting_s=60)
"""
HEARD = f"""
calls, step_s, asked = 0, 0.0, 0
told.time.monotonic = lambda: calls * step_s * (1 + rank * {SLOWER - 1})
later = group.Group.largest_later
def counted(self, values):
    global asked
    asked += 1
    return later(self, values)
group.Group.largest_later = counted
found = {{}}
for name, (told_at, step_s, *size) in {CASES!r}.items():
    calls, asked, lag = 0, 0, None
    one = told.Told(ranks)
    for calls in range(1, 2001):
        if one.heard():
            break
        assert 0 <= one.lag <= one.ahead <= (5 if size else 25)
        if calls == told_at:
            lag = one.lag
        if one.ask(rank == 1 and calls >= told_at, rank * sum(size)):
            break
    found[name] = [calls, lag, asked]
print(json.dumps(found))
group.leave()
"""
AHEAD = f"""
one = told.Told(ranks)
told.time.monotonic = iter(range(10**6)).__next__
told.AT_ONCE_S = told.EVERY_S = 2.0
for _ in range({FIRST_CALLS} + 1):
    assert not one.heard() and not one.ask(False)
for _ in range(5):
    assert not one.heard()
    if rank == 1:
        os.read(0, 1)
    assert not one.ask(False)
    if rank == 0:
        print("asked", flush=True)
print("ended", flush=True)
group.leave()
"""


def started(script: str) -> list[subprocess.Popen[str]]:
    argv, port = [sys.executable, "-c", BEGIN + script], str(free_port())
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    return [subprocess.Popen([*argv, str(r), port], env=env, stdin=pipe, stdout=pipe, text=True) for r in (0, 1)]


@pytest.fixture(scope="module")
def heard() -> list[dict[str, list[int]]]:
    """Of each rank: the call at which it heard, the lag when rank 1 was told, and how often it had asked."""
    return [json.loads(rank.communicate(timeout=90)[0]) for rank in started(HEARD)]


@pytest.mark.parametrize("case", list(CASES))
def test_told_all_ranks_hear_it_at_the_step_that_the_lag_said(case: str, heard: list[dict[str, list[int]]]) -> None:
    (at, lag, asked), other = (found[case] for found in heard)

    assert other == [at, lag, asked]
    assert at == CASES[case][0] + lag
    assert (lag == 0) == (case in ANSWERED_AT_ONCE)


def test_told_where_steps_are_short_ranks_seldom_ask(heard: list[dict[str, list[int]]]) -> None:
    asked = {case: found[2] for case, found in heard[0].items()}

    assert asked["short steps"] == CASES["short steps"][0]
    assert FIRST_CALLS < asked["very short steps, 0 later"] < FIRST_CALLS + 60
    assert FIRST_CALLS + 150 < asked["very short steps of large data"] < FIRST_CALLS + 200


def test_told_where_steps_are_short_no_rank_waits_for_another_to_ask() -> None:
    """Rank 1 asks only when rank 0 has asked and gone on."""
    first, second = started(AHEAD)
    assert first.stdout and second.stdin

    for _ in range(5):
        assert first.stdout.readline() == "asked\n"
        second.stdin.write("x")
        second.stdin.flush()

    assert first.stdout.readline() == "ended\n"
    assert [rank.communicate(timeout=60)[0] for rank in (first, second)] == ["", "ended\n"]
    assert (first.returncode, second.returncode) == (0, 0)


def test_told_one_rank_alone_hears_itself() -> None:
    told = Told(Group(0, 1))

    assert (told.lag, told.ahead, told.heard()) == (0, 0, False)
    assert [told.ask(flag) for flag in (False, True)] == [False, True]
