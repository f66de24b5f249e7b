"""The program under attack, a user's own: a model that takes its time, and data made from a seed.

Until the file `struck` is there it waits, at a place that the model's options name: so the fault always finds the
training where the case wants it, however busy the machine is. A file `waits-<rank>` says that it does, and a file
`told-<rank>` that SIGUSR2 came while it waited in a step.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

FEATURES, CLASSES = 12, 4
SPARE_STEPS = 3
"""Made after the step that the fault waits for, before the model waits itself."""
PATIENCE_S = 120
sync = os.fsync


class Net(nn.Module):
    """Two layers. `hold` is where it waits: step, evaluation, checkpoint, or nothing."""

    def __init__(
        self, step_s: float = 0.0, dropout: float = 0.0, hold: str = "", at_step: int = 0, struck: str = ""
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(FEATURES, 64), nn.ReLU(), nn.Dropout(dropout), nn.Linear(64, CLASSES))
        self.struck, self.at_step, self.passes = Path(struck), at_step, 0
        self.step_s, self.hold = step_s, "" if self.struck.exists() else hold
        if self.hold == "checkpoint":
            os.fsync = self._slow_sync  # a disk that is slow with this checkpoint

    def forward(self, x: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            self._take_time()
        return self.layers(x)

    def _take_time(self) -> None:
        if self.training:
            self.passes += 1
            time.sleep(self.step_s)
            if self.hold == "step" and self.passes == self.at_step + SPARE_STEPS:
                self._wait_and_hear()
        elif self.hold == "evaluation" and self.passes >= self.at_step:
            self._wait()

    def _slow_sync(self, fd: int) -> None:
        folder = str(Path(f"/proc/self/fd/{fd}").readlink()).partition("/checkpoints/step-")[2].partition("/")[0]
        step = folder.partition(".tmp")[0]
        if step.isdigit() and int(step) >= self.at_step:
            self._wait()
            time.sleep(0.1)
        sync(fd)

    def _wait_and_hear(self) -> None:
        obeyed = signal.getsignal(signal.SIGUSR2)

        def told(number: int, frame: FrameType | None) -> None:
            self._say("told")
            if callable(obeyed):
                obeyed(number, frame)

        signal.signal(signal.SIGUSR2, told)
        self._wait()
        signal.signal(signal.SIGUSR2, obeyed)

    def _wait(self) -> None:
        self._say("waits")
        deadline = time.monotonic() + PATIENCE_S
        while not self.struck.exists() and time.monotonic() < deadline:
            time.sleep(0.01)

    def _say(self, what: str) -> None:
        self.struck.with_name(f"{what}-{os.environ['RANK']}").touch()


def rows(train: int, validation: int) -> tuple[TensorDataset, TensorDataset]:
    """A training and a validation set of points around a few centres."""
    random = torch.Generator().manual_seed(20261121)
    centres = torch.randn(CLASSES, FEATURES, generator=random)
    labels = torch.randint(CLASSES, (train + validation,), generator=random)
    points = centres[labels] + 0.7 * torch.randn(len(labels), FEATURES, generator=random)
    made = [TensorDataset(points[part], labels[part]) for part in (slice(train), slice(train, None))]
    return made[0], made[1]
