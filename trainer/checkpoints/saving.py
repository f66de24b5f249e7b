"""How does training go on while a checkpoint is written? The state is copied, and a thread writes the copy.

What a whole checkpoint is stands in checkpoint.py, when one is due in keeping.py. A second one begins when the first
is on disk, or could not be brought there.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer import tensors
from trainer.checkpoints import progress
from trainer.checkpoints.checkpoint import Checkpoints
from trainer.checkpoints.costs import Costs

if TYPE_CHECKING:
    import torch

    from trainer.checkpoints.state import Copier, State

Told = Callable[[OSError | None], None]
"""Is told, by the thread that writes, that a checkpoint is on disk, or why it is not."""


class Saver:
    """Saves one checkpoint at a time. All ranks call `begin` and `wait`, in the same order."""

    def __init__(
        self,
        checkpoints: Checkpoints,
        device: torch.device,
        in_background: bool,
        costs: Costs,
        kept: int | None = None,
    ) -> None:
        self.costs, self.kept = costs, kept
        """`kept` is the step of the newest checkpoint on disk, as far as `wait` has seen; None before there is one."""
        self.failures = 0
        """Saves in a row that failed, as far as `wait` has seen; the same on all ranks, as `kept` is."""
        self.why: OSError | None = None
        """Of the last failure."""
        self.best: int | None = None
        """The step whose checkpoint must not be deleted for newer ones."""
        self.before_waiting: Callable[[], None] = lambda: None
        """Called where a checkpoint that is under way has to be waited for."""
        self._checkpoints, self._device = checkpoints, device
        self._copier: Copier | None = None
        self._thread = ThreadPoolExecutor(1, "checkpoint") if in_background else None
        self._importing: Future[object] | None = None
        if self._thread:  # half a second that the first steps need not wait for
            self._importing = self._thread.submit(importlib.import_module, "trainer.checkpoints.state")
        self._under_way: Future[None] | None = None
        self._step, self._begun = -1, 0.0

    def begin(self, step: int, state: Callable[[], State], document: Mapping[str, Any], told: Told) -> None:
        """Save a step's state, the random numbers as they are now, and rank 0's document.

        Returns as soon as training may go on. Whether the checkpoint got onto the disk, `told` and `wait` say; where
        it did not, older ones are untouched.
        """
        begun = time.perf_counter()
        self.wait()
        part = self._part(self._copied(state()) if self._thread else state(), document)
        self._step, self._begun, best = step, begun, self.best
        stall_s = time.perf_counter() - begun if self._thread else None

        def save() -> None:
            try:
                self._checkpoints.save(step, part, best)
            except OSError as e:
                told(e)
                raise
            whole_s = time.perf_counter() - begun
            self.costs.note(whole_s if stall_s is None else stall_s, whole_s)
            told(None)

        self._under_way = self._thread.submit(save) if self._thread else _done(save)

    def wait(self) -> bool:
        """Return when what was begun is on disk; False, on all ranks, where it could not be brought there."""
        under_way, self._under_way = self._under_way, None
        if under_way:
            if not under_way.done():
                self.before_waiting()
            try:
                under_way.result()
            except OSError as e:
                self.failures, self.why = self.failures + 1, e
            else:
                self.failures, self.kept = 0, self._step
        return not self.failures

    def is_at(self, step: int) -> bool:
        """Whether a checkpoint of this step is on disk or on its way."""
        return step in (self.kept, self._step if self._under_way else None)

    def expected_s(self) -> float | None:
        """How much longer what is under way takes, as far as one can tell; None where nothing is."""
        if self._under_way is None or self._under_way.done() or self.costs.durable_s is None:
            return None
        return max(0.0, self.costs.durable_s - (time.perf_counter() - self._begun))

    def settle(self) -> None:
        """Return when no thread works, however what it did has ended (`wait` tells)."""
        for work in (self._importing, self._under_way):
            if work:
                work.exception()

    def _copied(self, state: State) -> State:
        from trainer.checkpoints.state import Copier

        self._copier = self._copier or Copier(self._device)
        return self._copier.copied(state)

    def _part(self, state: State, document: Mapping[str, Any]) -> Callable[[Path], list[Path]]:
        """What writes this rank's part of a checkpoint."""
        from trainer.checkpoints.state import write

        group, random = self._checkpoints.group, tensors.random_state()

        def written(folder: Path) -> list[Path]:
            files = [*write(folder, state, group), tensors.save_random(folder, group.rank, random)]
            return [*files, progress.write(folder, document)] if group.rank == 0 else files

        return written


def _done(work: Callable[[], None]) -> Future[None]:
    """Work that was done here and now, as if by a thread."""
    done: Future[None] = Future()
    try:
        work()
        done.set_result(None)
    except OSError as e:
        done.set_exception(e)
    return done
