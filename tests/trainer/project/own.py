"""A user's own code, which knows nothing of Fairlead: a model, data and an optimizer for `_target_`.

The model can be told by environment variables to give its own process notice, to fail, or to wait for a file, at a
certain step.
"""

from __future__ import annotations

import atexit
import math
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

if "RANK" in os.environ:
    atexit.register(print, "own.py has tidied up")


class Net(nn.Module):
    """Two layers. Counts its forward passes in training and in evaluation."""

    def __init__(self, width: int = 16, dropout: float = 0.0, inputs: int = 10, norm: bool = False) -> None:
        super().__init__()
        inner = nn.BatchNorm1d(width) if norm else nn.ReLU()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(inputs, width), inner, nn.Dropout(dropout), nn.Linear(width, 10)
        )
        self.passes = {"TRAINING": 0, "EVALUATION": 0}

    def forward(self, x: Tensor) -> Tensor:
        if not torch.compiler.is_compiling() and os.environ.get("RANK") == os.environ.get("OWN_RANK", "0"):
            self._count("TRAINING" if self.training else "EVALUATION")
        return self.layers(x)

    def _count(self, phase: str) -> None:
        self.passes[phase] += 1
        wanted, _, what = os.environ.get(f"OWN_{phase}", "").partition(":")
        if wanted == str(self.passes[phase]):
            if what == "fail":
                raise RuntimeError("the user's own mistake")
            if what == "wait":
                while not Path(os.environ["OWN_GO"]).exists():
                    time.sleep(0.02)
                return
            if what == "hang":
                os.kill(os.getpid(), signal.SIGUSR2)
                time.sleep(600)
            os.killpg(os.getpgid(0), signal.Signals[what])


class Sized(Net):
    """The same, as large as the data want it."""

    def __init__(self, shape: Any, width: int = 16) -> None:
        super().__init__(width, inputs=math.prod(shape.input_shape))
        self.layers[-1] = nn.Linear(width, shape.outputs)


class Deep(Net):
    """The same behind many small layers: hardly anything to compute, and many gradients to exchange."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.before = nn.Sequential(*(nn.Linear(10, 10, bias=False) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.before(x))


class Blocks(Net):
    """The same behind a list of two blocks."""

    def __init__(self) -> None:
        super().__init__(dropout=0.2)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(10, 10), nn.Tanh()) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return super().forward(x)


class Blobs(Dataset[Any]):
    """Points around ten centres, made one by one."""

    classes = 10

    def __init__(self, rows: int, pause_s: float = 0.0, paused: int | None = None) -> None:
        self.rows, self.pause_s, self.paused = rows, pause_s, paused

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if self.paused in (None, int(os.environ.get("RANK", "0"))):
            time.sleep(self.pause_s)
        if "OWN_STUCK" in os.environ and os.environ["RANK"] == "1" and Path(os.environ["OWN_STUCK"]).exists():
            Path(os.environ["OWN_STUCK"]).with_name("stuck").touch()
            time.sleep(600)
        random = torch.Generator().manual_seed(index)
        label = index % 10
        return nn.functional.one_hot(torch.tensor(label), 10) + 0.1 * torch.randn(10, generator=random), label


def blobs(rows: int, pause_s: float = 0.0, paused: int | None = None) -> tuple[Blobs, TensorDataset]:
    """A training set that is read sample by sample, slowly (by one rank, if told), and a validation set in memory."""
    kept = [Blobs(rows + 40)[i] for i in range(rows, rows + 40)]
    inputs, labels = zip(*kept, strict=True)
    return Blobs(rows, pause_s, paused), TensorDataset(torch.stack(inputs), torch.tensor(labels))


def late_blobs(rows: int) -> tuple[Blobs, TensorDataset]:
    """Data that nobody waits for to the end."""
    Path(os.environ["FAIRLEAD_MEMBER_DIR"], f"loading-{os.environ['RANK']}").touch()
    time.sleep(600)
    return blobs(rows)


def slope(rows: int) -> tuple[TensorDataset, list[tuple[Tensor, float]]]:
    """Numbers to be predicted; the validation set is read one by one, and has targets that Python makes."""
    inputs = torch.randn(rows + 30, 10, generator=torch.Generator().manual_seed(1))
    targets = inputs[:, 0] - 2 * inputs[:, 1] + 1
    return TensorDataset(inputs[:rows], targets[:rows, None]), [
        (one, target.item()) for one, target in zip(inputs[rows:], targets[rows:], strict=True)
    ]


def huber(outputs: Tensor, targets: Tensor, delta: float) -> Tensor:
    """In the target's own units."""
    return nn.functional.huber_loss(outputs, targets, reduction="none", delta=delta)


def mean_of_all(outputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.mse_loss(outputs, targets)


def number(outputs: Tensor, targets: Tensor) -> float:
    return 0.5


class Gaussian:
    """Of a mean and the logarithm of a variance for each sample."""

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        mean, log_variance = outputs.unbind(1)
        return 0.5 * (log_variance + (targets - mean).square() / log_variance.exp())


class Learned(nn.Module):
    """A loss with a weight that nobody trains."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.weight * (outputs - targets).square()


not_callable = 3


def not_a_model() -> str:
    return "a string"


class Numbered(Dataset[Any]):
    """Each sample bears its own number."""

    classes = 2

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.tensor([float(index), 1.0]), index % 2


def numbered(rows: int) -> tuple[Numbered, Numbered]:
    return Numbered(rows), Numbered(4)


class Witness(nn.Module):
    """Writes down the numbers of the samples that it is trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        if self.training and not torch.compiler.is_compiling():
            path = Path(os.environ["FAIRLEAD_ATTEMPT_DIR"], f"witness-{os.environ['RANK']}")
            with path.open("a") as f:
                print(*(int(number) for number in x[:, 0].tolist()), file=f)
        return self.layer(x / 100)


class Noisy:
    """A change of images that draws random numbers of every kind."""

    def __init__(self, most: float = 0.1) -> None:
        self.most = most

    def __call__(self, image: Tensor) -> Tensor:
        return image + self.most * (torch.rand_like(image) + random.random() + np.random.rand())


def brighter(image: Tensor, by: float) -> Tensor:
    return image + by


def cropped(image: Tensor) -> Tensor:
    return image[:, :, :4]


def binary(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Of one score for two classes."""
    return torch.nn.functional.binary_cross_entropy_with_logits(outputs[:, 0], targets.float(), reduction="none")
