"""A rank that keeps the others waiting is found, and told of once."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

from conf.schema import Component
from launchers.jobs.ranks import rank_times
from launchers.run_folder.record import Attempt
from tests.trainer.ranks import Member, own
from trainer.insight import stragglers
from trainer.insight.stragglers import FORWARDS, WINDOWS, Alone, Own, Watch, per_step, placed, spread, told

Make = Callable[..., Member]


def test_spread_is_the_slowest_rank_by_the_median() -> None:
    assert spread([1.0, 1.5, 1.0, 0.9]) == {"train/slowest_rank": 1.0, "train/rank_spread": 1.5}


@pytest.mark.parametrize(("taken", "times"), [([1.0, 2.0], 2.0), ([2.0, 2.0], 1.0), ([0.0, 0.0], 0.0)])
def test_spread_of_two_is_by_the_faster_one(taken: list[float], times: float) -> None:
    assert spread(taken)["train/rank_spread"] == times


def test_spread_of_one_rank_is_none() -> None:
    assert spread([3.0]) == {}


@pytest.mark.parametrize("world", [1, 3])
def test_what_all_ranks_placed_adds_up_to_what_each_told(world: int) -> None:
    each = [Own(1.0 + rank, 0.5 * rank, 0.1 * rank) for rank in range(world)]

    assert told(sum(placed(own, rank, world) for rank, own in enumerate(each)).tolist()) == each  # type: ignore[union-attr]


def test_each_rank_is_told_by_the_step() -> None:
    assert per_step([Own(1.0, 0.5), Own(4 / 3, 0.0)], 2) == {"ranks": {"own_s": [0.5, 0.6667], "waited_s": [0.25, 0.0]}}
    assert per_step([Own(1.0, 0.5)], 2) == {}


def windows(*taken: list[float], seconds: float = 2.0) -> list[int | None]:
    watch = Watch()
    return [watch.slow(one, seconds) for one in taken]


SLOW, WELL, OTHER = [1.0, 1.5, 1.0], [1.0, 1.2, 1.0], [1.5, 1.0, 1.0]


def test_watch_names_a_rank_that_is_slow_for_several_windows_once() -> None:
    assert windows(*[SLOW] * 8) == [None] * (WINDOWS - 1) + [1] + [None] * (8 - WINDOWS)


@pytest.mark.parametrize(
    "taken", [[SLOW, SLOW, WELL] * 3, [SLOW, OTHER] * 4, [WELL] * 6], ids=["comes and goes", "changes", "a little"]
)
def test_watch_is_silent_of_what_passes(taken: list[list[float]]) -> None:
    assert windows(*taken) == [None] * len(taken)


def test_watch_is_silent_where_it_costs_little() -> None:
    """Most of the time goes into the exchange."""
    assert windows(*[SLOW] * 6, seconds=20.0) == [None] * 6


def test_alone_counts_data_and_forward_passes_and_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 2.0, 10.0, 11.0, 20.0, 20.5])
    monkeypatch.setattr(stragglers.time, "perf_counter", lambda: next(clock))
    alone = Alone(torch.device("cpu"))
    for _ in range(2):
        alone.begin()
        alone.end()

    assert alone.taken_s(waited_s=5.0) == 5.0 + FORWARDS * 3.0
    alone.begin()
    alone.end()
    assert alone.taken_s(waited_s=0.0) == FORWARDS * 0.5


def test_time_alone_is_without_what_others_are_waited_for() -> None:
    alone = Alone(torch.device("cpu"), waits_in_forward=True)

    alone.begin()
    time.sleep(1.0)
    alone.end()
    slept_s = alone.taken_s(waited_s=0.0) / FORWARDS
    alone.begin()
    until = time.thread_time() + 0.1
    while time.thread_time() < until:
        pass
    alone.end()
    computed_s = alone.taken_s(waited_s=0.0) / FORWARDS

    assert slept_s < 0.5 and computed_s >= 0.1


@pytest.mark.parametrize(("engine", "way"), [("ddp", "slow"), ("fsdp", "busy")])
def test_slow_rank_of_a_run_is_in_its_metrics_and_in_the_log(member: Make, engine: str, way: str) -> None:
    """Also where the others wait for it in their forward passes, for weights of layers that are large enough to be
    fetched on their own: they look as slow by the clock on the wall."""
    train = {"max_steps": 30, "log_every_steps": 5, "eval_every_steps": 30}
    run = member(ranks=2, train=train, engine=Component(kind=engine), model=own("stuck.Stuck", ways=way, width=12_000))

    assert run.run() == [0, 0], run.log()

    first, second = rank_times(Attempt(run.attempt))
    assert first.times == 1 and second.times > 1.3 and second.own_s > 0.25
    assert (first.host, second.host) == (os.uname().nodename,) * 2
    rows: list[dict[str, Any]] = [line["metrics"] for line in run.lines("metrics.jsonl") if "metrics" in line]
    seen = [row for row in rows if "train/rank_spread" in row]
    assert len(seen) == 6 and all(row["train/slowest_rank"] == 1 for row in seen[1:])
    assert all(row["train/rank_spread"] > 1.3 for row in seen[1:])
    (warning,) = [line for line in run.log().splitlines() if "keeps them waiting" in line]
    assert warning.startswith(f"rank 1 on {os.uname().nodename} takes ")
    (told,) = [line for line in run.lines("ledger.jsonl") if line["event"] == "straggler"]
    assert (told["rank"], told["host"], told["times"] >= 1.3) == (1, os.uname().nodename, True)
