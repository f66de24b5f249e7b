"""A wait for data is broken off where the steps that are still made have theirs, and nowhere else."""

from __future__ import annotations

import gc
import itertools
import signal
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from trainer.data.demand import Demand
from trainer.data.feed import Batch, Feed
from trainer.data.hand import Hand
from trainer.data.order import PADDING
from trainer.signals import Notice
from trainer.sources import TensorSamples

CPU, ELSEWHERE = torch.device("cpu"), torch.device("meta")
WANTED = 4


def batches(count: int, at: Callable[[int], Any] = lambda _: None) -> Iterator[Batch]:
    """Numbered ones; `at` is called while each is waited for."""
    for number in range(count):
        at(number)
        yield Batch(torch.tensor([number]), torch.tensor([0]), None)


def hand_of(batches: Iterator[Batch], device: torch.device = CPU) -> Hand:
    return Hand(batches, device, Demand())


def rest(hand: Hand) -> list[int]:
    return [int(batch.inputs) for batch in iter(hand.next, None)]


def told_at(notice: Notice, number: int) -> Callable[[int], None]:
    return lambda now: notice.take(signal.SIGTERM, None) if now == number else None


def test_hand_takes_ahead_what_is_wanted_and_gives_all_in_order() -> None:
    waited_for: list[int] = []
    hand = hand_of(batches(10, waited_for.append))

    hand.fill(WANTED, 0, Notice())

    assert waited_for == [0, 1, 2, 3]
    assert [int(batch.inputs) for batch in (hand.next(), hand.next()) if batch] == [0, 1]
    hand.fill(WANTED, 0, Notice())
    assert waited_for == [0, 1, 2, 3, 4, 5]
    assert rest(hand) == [2, 3, 4, 5]


def test_hand_of_data_that_end_holds_those_there_are() -> None:
    hand = hand_of(batches(2))

    hand.fill(WANTED, 0, Notice())

    assert rest(hand) == [0, 1]
    hand.fill(WANTED, 0, Notice())
    assert hand.next() is None


def test_hand_data_that_cannot_be_read_leave_nothing_that_a_later_notice_breaks_off() -> None:
    def fails(number: int) -> None:
        raise OSError("gone")

    notice = Notice()
    with pytest.raises(OSError, match="gone"):
        hand_of(batches(3, fails)).fill(WANTED, 0, notice)

    notice.take(signal.SIGTERM, None)

    assert notice.given and notice.broken is None


@pytest.mark.parametrize(("number", "needed"), list(itertools.product(range(WANTED), range(WANTED))))
def test_hand_notice_breaks_a_wait_off_once_there_is_what_is_needed(number: int, needed: int) -> None:
    notice = Notice()
    hand = hand_of(batches(10, told_at(notice, number)))

    hand.fill(WANTED, needed, notice)

    assert not notice.breaks
    assert (notice.broken is not None) == (number >= needed)
    assert rest(hand)[: max(number, needed)] == list(range(max(number, needed)))


def test_hand_after_a_notice_waits_only_for_what_is_needed() -> None:
    notice, waited_for = Notice(), []
    notice.take(signal.SIGTERM, None)
    hand = hand_of(batches(10, waited_for.append))

    hand.fill(WANTED, 2, notice)

    assert waited_for == [0, 1]
    assert notice.broken is None


def on_device() -> int:
    return sum(type(one) is Tensor and one.device == ELSEWHERE for one in gc.get_objects())


@pytest.mark.parametrize("workers", [0, 1])
def test_hand_brings_a_batch_to_the_device_when_its_turn_comes(workers: int) -> None:
    """With a step of eight passes in hand, and those of two more: each batch is inputs, targets and weights."""
    samples = TensorSamples(torch.rand(200, 5), torch.arange(200))
    order = [(0, np.array([2 * number, 2 * number + 1, PADDING])) for number in range(40)]
    hand = hand_of(Feed(samples, ELSEWHERE, workers).batches(order), ELSEWHERE)
    gc.collect()  # what earlier tests left there
    before = on_device()

    for number in range(40):
        hand.fill(24, 0, Notice())
        batch = hand.next()
        assert batch is not None and batch.inputs.shape == (3, 5)
        assert on_device() - before == 3, number
    assert hand.next() is None
    assert hand.largest_bytes == 3 * 5 * 4 + 3 * 8


def test_hand_gives_to_the_bit_what_was_read() -> None:
    samples = TensorSamples(torch.rand(200, 5), torch.arange(200))
    order = [(0, np.arange(3 * number, 3 * number + 3)) for number in range(40)]
    feed = Feed(samples, CPU)
    hand = hand_of(feed.batches(order))

    for number, place in enumerate(order):
        hand.fill(1 + number % 24, 0, Notice())
        given, read = hand.next(), feed[place]
        assert given is not None and torch.equal(given.inputs, read.inputs)
        assert torch.equal(given.targets, read.targets) and given.weights is None
