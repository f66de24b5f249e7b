"""A wait for data is broken off where the steps that are still made have theirs, and nowhere else."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from trainer.data.feed import Batch
from trainer.data.hand import Hand
from trainer.signals import Notice

WANTED = 4


def batches(count: int, at: Callable[[int], Any] = lambda _: None) -> Iterator[Batch]:
    """Numbered ones; `at` is called while each is waited for."""
    for number in range(count):
        at(number)
        yield Batch(torch.tensor([number]), torch.tensor([0]), None)


def rest(hand: Hand) -> list[int]:
    return [int(batch.inputs) for batch in iter(hand.next, None)]


def told_at(notice: Notice, number: int) -> Callable[[int], None]:
    return lambda now: notice.take(signal.SIGTERM, None) if now == number else None


def test_hand_takes_ahead_what_is_wanted_and_gives_all_in_order() -> None:
    waited_for: list[int] = []
    hand = Hand(batches(10, waited_for.append))

    hand.fill(WANTED, 0, Notice())

    assert waited_for == [0, 1, 2, 3]
    assert [int(batch.inputs) for batch in (hand.next(), hand.next()) if batch] == [0, 1]
    hand.fill(WANTED, 0, Notice())
    assert waited_for == [0, 1, 2, 3, 4, 5]
    assert rest(hand) == [2, 3, 4, 5]


def test_hand_of_data_that_end_holds_those_there_are() -> None:
    hand = Hand(batches(2))

    hand.fill(WANTED, 0, Notice())

    assert rest(hand) == [0, 1]
    hand.fill(WANTED, 0, Notice())
    assert hand.next() is None


def test_hand_data_that_cannot_be_read_leave_nothing_that_a_later_notice_breaks_off() -> None:
    def fails(number: int) -> None:
        raise OSError("gone")

    notice = Notice()
    with pytest.raises(OSError, match="gone"):
        Hand(batches(3, fails)).fill(WANTED, 0, notice)

    notice.take(signal.SIGTERM, None)

    assert notice.given and notice.broken is None


@pytest.mark.parametrize(("number", "needed"), list(itertools.product(range(WANTED), range(WANTED))))
def test_hand_notice_breaks_a_wait_off_once_there_is_what_is_needed(number: int, needed: int) -> None:
    notice = Notice()
    hand = Hand(batches(10, told_at(notice, number)))

    hand.fill(WANTED, needed, notice)

    assert not notice.breaks
    assert (notice.broken is not None) == (number >= needed)
    assert rest(hand)[: max(number, needed)] == list(range(max(number, needed)))


def test_hand_after_a_notice_waits_only_for_what_is_needed() -> None:
    notice, waited_for = Notice(), []
    notice.take(signal.SIGTERM, None)
    hand = Hand(batches(10, waited_for.append))

    hand.fill(WANTED, 2, notice)

    assert waited_for == [0, 1]
    assert notice.broken is None
