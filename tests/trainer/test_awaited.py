"""Wherever a rank's data stop coming, a notice lets it leave that wait, and it has what the others' steps still take.

The other rank is played: it asks at the same steps and never says yes.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from trainer import loop
from trainer.data.demand import Demand
from trainer.data.feed import Batch
from trainer.data.hand import Hand
from trainer.parallel import told
from trainer.parallel.group import Group
from trainer.parallel.told import AT_ONCE_S, EVERY_S, Told
from trainer.signals import Notice, Stopped

CPU = torch.device("cpu")
STEPS, EVALUATION, FIRST_CALLS = 120, 4, 6
"""Steps, batches of an evaluation, calls that are answered at once."""
PACES: dict[str, Callable[[int], float]] = {
    "long": lambda _: 2 * AT_ONCE_S,
    "short": lambda _: EVERY_S,
    "very short": lambda _: EVERY_S / 11,
    "shorter and shorter": lambda step: AT_ONCE_S / (1 + step),
    "longer and longer": lambda step: EVERY_S / 20 * (1 + step),
    "sometimes long": lambda step: EVERY_S / 9 if step % 17 else 2 * AT_ONCE_S,
}
EVALUATED = (0, 9, 40)
"""Steps before which there is an evaluation."""


class Alone(Group):
    """The other rank says nothing."""

    def apart(self) -> Group:
        return self

    def largest_later(self, values: torch.Tensor) -> Any:
        return SimpleNamespace(wait=lambda: None)


class Clock:
    now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s


class Source:
    """Batches of a run, of which one never comes: a notice does, in the wait for it."""

    def __init__(self, notice: Notice, stuck: int | None = None) -> None:
        self.notice, self._stuck = notice, stuck
        self.asked = 0

    def __call__(self, count: int) -> Iterator[Batch]:
        for _ in range(count):
            if self.asked == self._stuck:
                self.notice.take(signal.SIGTERM, None)
                pytest.fail(f"batch {self._stuck} is waited for, for ever")
            self.asked += 1
            yield Batch(torch.tensor(0), torch.tensor(0), None)


def train(
    source: Source, clock: Clock, step_s: Callable[[int], float], passes: int, computed: Callable[[], None]
) -> None:
    """As the loop does; `computed` is called where a batch is."""
    nothing: Callable[..., None] = lambda *_, **__: None  # noqa: E731
    ledger = SimpleNamespace(beat=SimpleNamespace(at=nothing), mark=nothing)
    run: Any = SimpleNamespace(
        told=Told(Alone(0, 2)), notice=source.notice, ledger=ledger, progress=SimpleNamespace(step=0)
    )
    hand = Hand(source(STEPS * passes), CPU, Demand())
    for step in range(STEPS):
        if step in EVALUATED:
            evaluate(run, Hand(source(EVALUATION), CPU, Demand()), clock)
        loop.await_data(run, hand, passes)
        for micro in range(passes):
            if micro:
                loop._filled(run, hand, passes, passes - micro)
            assert hand.next() is not None
            computed()
        clock.now_s += step_s(step)


def evaluate(run: Any, hand: Hand, clock: Clock) -> None:
    run.told.begin()
    while True:
        loop.await_data(run, hand)
        if hand.next() is None:
            break
        clock.now_s += EVERY_S / 30
    run.told.begin()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(told, "FIRST_CALLS", FIRST_CALLS)
    monkeypatch.setattr(told, "time", clock)
    return clock


def test_awaited_after_an_evaluation_steps_are_asked_by_their_own_pace(clock: Clock) -> None:
    """The batches of an evaluation are quick: as many long steps would go by before a notice is heard."""
    one = Told(Alone(0, 2))

    def made(count: int, each_s: float) -> list[int]:
        found = []
        for _ in range(count):
            assert not one.heard() and not one.ask(False)
            found.append(one.ahead)
            clock.now_s += each_s
        return found

    assert made(2 * FIRST_CALLS, 4 * AT_ONCE_S)[-1] == 0
    one.begin()
    assert max(made(60, EVERY_S / 20)) == 20
    one.begin()
    assert set(made(20, 4 * AT_ONCE_S)) == {0}


@pytest.mark.parametrize("passes", [1, 2, 3])
@pytest.mark.parametrize("pace", list(PACES))
def test_awaited_data_that_never_come_are_not_waited_for_after_a_notice(clock: Clock, pace: str, passes: int) -> None:
    for stuck in range(STEPS * passes + EVALUATION * len(EVALUATED)):
        source = Source(Notice(), stuck)
        try:
            train(source, clock, PACES[pace], passes, lambda: None)
        except Stopped:
            assert source.asked == stuck
        else:  # it came to the last step before it needed to hear
            assert source.notice.broken is not None


@pytest.mark.parametrize("passes", [1, 2, 3])
@pytest.mark.parametrize("pace", list(PACES))
def test_awaited_are_no_more_data_after_a_notice_that_came_while_it_computed(
    clock: Clock, pace: str, passes: int
) -> None:
    for at in range(STEPS * passes):
        source, asked = Source(Notice()), []

        def computed(source: Source = source, asked: list[int] = asked, at: int = at) -> None:
            asked.append(source.asked)
            if len(asked) == at + 1:
                source.notice.take(signal.SIGTERM, None)

        with contextlib.suppress(Stopped):
            train(source, clock, PACES[pace], passes, computed)

        assert source.asked == asked[at]
