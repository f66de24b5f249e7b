"""Was one of the ranks told to stop? Asked at every step, with as little waiting for each other as a step allows.

Where steps are long, a question is answered at once. Where they are short, that would be one more point in each at
which ranks wait for each other: there a question goes out at one step and its answer is read at the next, when all have
long given theirs. Where they are shorter still, a question goes out every few steps. What a rank needs for the steps in
between it must have beforehand (`lag`): it cannot fall silent in them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from trainer.parallel.group import Group

AT_ONCE_S = 0.25
"""Steps that take longer lose less than a hundredth to an answer that is waited for."""
EVERY_S = 0.25
"""A question goes out so often at most. It takes 0.1 ms of a core, but where ranks and cores are as many it keeps them
from each other: asked every 0.05 s, steps of 2 ms took 5 % longer (tests/benchmarks/NOTES.md)."""
AHEAD_BYTES = 16 * 2**20
"""Of the data that a rank has beforehand for the steps between two questions, where that is more than one step; it has
those of one step more."""
FIRST_CALLS = 100
"""Each of which is answered at once: the first steps compile and fill caches, and say little of those that follow."""


class Told:
    """Something that is false until a rank was told. All ranks call `heard` and then `ask` at every step; all get the
    same answers."""

    def __init__(self, group: Group) -> None:
        self._group = group.apart()  # a question must not hold up gradients, nor wait behind them
        self._calls = self._asked = self._begun = 0
        self._asked_s = time.monotonic()
        self._next = Question(1, at_once=True)
        self._every, self._at_once = 1, True
        """What the question after the next will be like: no answer changes what ranks have prepared for already."""
        self._open: tuple[torch.Tensor, torch.distributed.Work] | None = None
        self._has_said = False
        """This rank has said yes: all hear it at the next call of `heard`."""

    @property
    def lag(self) -> int:
        """How many steps all ranks still make, of those for which nobody has called `ask` yet, if this one is told now,
        or was before."""
        return 0 if self._has_said or self._group.world == 1 else self._next.lag(self._calls)

    @property
    def ahead(self) -> int:
        """What `lag` may grow to with the next call of `ask`, or is."""
        if self._group.world == 1:  # it answers itself: a step of half a millisecond need not count
            return 0
        return max(self.lag, Question(self._every, self._at_once).lag(0))

    def begin(self) -> None:
        """All ranks begin something else, for which they have nothing prepared, and whose steps take another time: the
        next answers are waited for, and the first of them says nothing of that time."""
        self._next, self._every, self._at_once = Question(self._calls + 1, at_once=True), 1, True
        self._begun = self._asked = self._calls
        self._asked_s = time.monotonic()

    def heard(self) -> bool:
        """Whether some rank said yes in a question of an earlier step."""
        if self._open is None:
            return False
        (values, question), self._open = self._open, None
        question.wait()
        told, slowest_s, step_bytes = values.tolist()
        if self._calls >= FIRST_CALLS and self._calls > self._begun + 1:
            self._at_once = slowest_s > AT_ONCE_S
            fits = min(int(EVERY_S / max(slowest_s, 1e-6)), int(AHEAD_BYTES / max(step_bytes, 1)))
            self._every = max(1, min(2 * self._every, fits))
        return bool(told)

    def ask(self, flag: bool, step_bytes: int = 0) -> bool:
        """Whether some rank says yes, where that is answered at once. A step takes so many bytes of data."""
        if self._group.world == 1:
            return flag
        self._calls += 1
        if self._calls < self._next.call:
            return False
        now_s, at_once = time.monotonic(), self._next.at_once
        step_s = (now_s - self._asked_s) / (self._calls - self._asked)
        values = torch.tensor([float(flag), step_s, step_bytes], dtype=torch.float64)
        self._asked, self._asked_s, self._has_said = self._calls, now_s, flag
        self._next = Question(self._calls + self._every, self._at_once)
        self._open = (values, self._group.largest_later(values))
        return at_once and self.heard()


@dataclass(frozen=True)
class Question:
    """One that goes out at a call."""

    call: int
    at_once: bool

    def lag(self, calls: int) -> int:
        """Steps that are made before its answer is known, when there were so many calls."""
        return max(self.call - calls - 1, 0) + (0 if self.at_once else 1)
