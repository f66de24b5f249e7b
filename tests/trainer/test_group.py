"""Two ranks that ask at every step whether one of them was told to stop hear it at the same step."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.trainer.ranks import ROOT, free_port
from trainer.parallel.group import ANSWER_S, FIRST_CALLS, Group, Told

SHORT_S, LONG_S = ANSWER_S / 40, ANSWER_S
SLOWER = 2
"""Rank 1's steps take so many times as long as rank 0's."""
CASES = {
    "first step": (1, SHORT_S),
    "before steps are known to be short": (FIRST_CALLS - 3, SHORT_S),
    "long steps": (FIRST_CALLS + 50, LONG_S),
    "short steps": (1000, SHORT_S),
}
"""Call from which rank 1 has been told, and seconds of a step."""
SCRIPT = f"""
import json, sys
from trainer.parallel import group
from trainer.rank import Rank

rank, port = int(sys.argv[1]), int(sys.argv[2])
ranks = group.join(Rank(rank, rank, 2, 2, 0, ("127.0.0.1", port)), "gloo", meeting_s=60)
calls, step_s, agreed = 0, 0.0, 0
group.time.monotonic = lambda: calls * step_s * (1 + rank * {SLOWER - 1})
largest = group.Group.largest
def counted(self, values):
    global agreed
    agreed += 1
    return largest(self, values)
group.Group.largest = counted
found = {{}}
for name, (told_at, step_s) in {CASES!r}.items():
    calls, agreed = 0, 0
    told = group.Told(ranks)
    for calls in range(1, 2001):
        due, before = told.is_due, agreed
        heard = told.any(rank == 1 and calls >= told_at)
        assert due == (agreed > before)
        if heard:
            break
    found[name] = [calls, agreed]
print(json.dumps(found))
group.leave()
"""


@pytest.fixture(scope="module")
def heard() -> list[dict[str, list[int]]]:
    """Of each rank: the call at which it heard, and how often the ranks had agreed by then."""
    argv, port = [sys.executable, "-c", SCRIPT], str(free_port())
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    ranks = [subprocess.Popen([*argv, str(r), port], env=env, stdout=subprocess.PIPE, text=True) for r in (0, 1)]
    return [json.loads(rank.communicate(timeout=90)[0]) for rank in ranks]


@pytest.mark.parametrize("case", list(CASES)[:3])
def test_told_in_the_first_steps_and_in_long_ones_all_ranks_hear_at_once(
    case: str, heard: list[dict[str, list[int]]]
) -> None:
    told_at, _ = CASES[case]

    assert [found[case] for found in heard] == [[told_at, told_at]] * 2


def test_told_where_steps_are_short_all_ranks_hear_soon_and_seldom_ask(heard: list[dict[str, list[int]]]) -> None:
    (at, agreed), other = (found["short steps"] for found in heard)

    assert other == [at, agreed]
    assert 1000 <= at < 1000 + ANSWER_S / SHORT_S / SLOWER
    assert agreed < FIRST_CALLS + 60


def test_told_one_rank_alone_hears_itself() -> None:
    told = Told(Group(0, 1))

    assert told.is_due
    assert [told.any(flag) for flag in (False, True)] == [False, True]
