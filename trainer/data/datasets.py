"""How do a user's own data sets (`data._target_`) become Data? Two ordinary torch data sets, seen our way.

A data set is anything with a length whose items are pairs (input, target). Targets that are whole numbers are classes:
then it may say `classes`, a number or a list of names, as torchvision's do; our own models need it. Floats are numbers
to be predicted, and are learned as they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from conf.schema import Component
from trainer import tensors
from trainer.components import TARGET
from trainer.data.order import seed_of
from trainer.failure import UserError
from trainer.sources import Card, Data, Samples, Shape, TaskName, TensorSamples

TRIED = 8
"""Samples that are read to see whether reading draws random numbers."""
PROBES = 256
"""Samples that stand for a data set's content in its digest, where reading all could take hours."""


@dataclass(frozen=True)
class Mapped:
    """A data set that is read one sample at a time."""

    dataset: Any
    draws: bool = True
    """Whether reading a sample draws random numbers, as far as some samples tell."""
    numbers: bool = False
    """Whether targets are numbers to be predicted, likewise."""

    def __len__(self) -> int:
        return len(self.dataset)

    def batch(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        return self._stacked(self.dataset[int(i)] for i in indices)

    def drawn(self, indices: np.ndarray, seed: int) -> tuple[Tensor, Tensor]:
        """As `batch`; the random numbers that reading a sample draws are its own (see sources.Drawn). Where no sample
        was seen to draw any, a whole batch has one seed: setting it for each would take longer than the reading."""
        with tensors.seeded(seed_of(seed, int(indices[0]))):
            return self._stacked(self._drawn(int(i), seed) for i in indices) if self.draws else self.batch(indices)

    def _drawn(self, index: int, seed: int) -> Any:
        tensors.reseed(seed_of(seed, index))
        return self.dataset[index]

    def _stacked(self, pairs: Iterable[tuple[Any, Any]]) -> tuple[Tensor, Tensor]:
        inputs, targets = (torch.stack([torch.as_tensor(one) for one in side]) for side in zip(*pairs, strict=True))
        if targets.is_floating_point() and not self.numbers:
            what = "some targets of your data set are floats, and the first ones that were read are whole numbers"
            raise UserError(what, "data._target_", "give floats alone (numbers to be predicted), or int (classes)")
        return inputs, targets.float() if self.numbers else targets.long()

    def digest(self) -> str:
        """SHA-256 of the length and of samples taken at equal distances."""
        places = np.unique(np.linspace(0, len(self) - 1, min(PROBES, len(self))).astype(np.int64))
        content = TensorSamples(*self.drawn(places, 0)).digest()
        return hashlib.sha256(f"{len(self)} {content}".encode()).hexdigest()


def data_of(name: str, train: Any, validation: Any) -> Data:
    """A training and a validation set as the loop reads them."""
    parts = [_samples(dataset) for dataset in (train, validation)]
    inputs, targets = parts[0].batch(np.zeros(1, dtype=np.int64))
    kind = str(inputs.dtype).removeprefix("torch.")
    features = "x".join(str(n) for n in inputs.shape[1:]) + f" {kind}"
    cards = [Card(name, part.digest(), len(part), features, name) for part in parts]
    if targets.is_floating_point():
        shape = Shape("regression", tuple(inputs.shape[1:]), kind, targets[0].numel())
    else:
        task: TaskName = "classification" if targets.ndim == 1 else "next_token"
        shape = Shape(task, tuple(inputs.shape[1:]), kind, _classes(train, parts[0]))
    return Data(shape, parts[0], parts[1], cards[0], cards[1])


def told_apart(data: Data, component: Component) -> str:
    """What tells these data from others. Of a user's own (`_target_`) the sizes alone, as reading them may draw random
    numbers of any library."""
    parts = [(part, card) for part, card in data.cards if part != "test"]
    own = TARGET in component.options
    return ", ".join(f"{card.rows} for {part}" + ("" if own else f" ({card.digest[:16]})") for part, card in parts)


def must_be_the_same(told: Sequence[str], before: str) -> str:
    """What `told_apart` says on every rank: the same, and what it said when the run began ("" is any).

    Raises UserError on all ranks where it is not: a run goes on with the data that it began with, or not at all.
    """
    now = told[0]
    if other := next((rank for rank, said in enumerate(told) if said != now), None):
        what = f"ranks see different data: rank 0 samples {now}, and rank {other} {told[other]}"
        raise UserError(what, "data", "let all nodes read the same files (staging brings them from one place)")
    if before not in ("", now):
        what = f"the data have changed since this run began: samples {now}, and it began with {before}"
        do = "bring the earlier data back, or launch anew; train.start_from=RUN begins with its weights"
        raise UserError(what, "data", do)
    return now


def _samples(dataset: Any) -> Mapped | TensorSamples:
    if isinstance(dataset, TensorDataset):
        inputs, targets = dataset.tensors
        return TensorSamples(inputs, targets.float() if targets.is_floating_point() else targets.long())
    places = np.linspace(0, len(dataset) - 1, min(TRIED, len(dataset))).astype(np.int64).tolist()
    tried = list[Any]()
    draws = tensors.drawn(lambda: tried.extend(dataset[i][1] for i in places))
    return Mapped(dataset, draws, any(torch.as_tensor(target).is_floating_point() for target in tried))


def _classes(dataset: Any, samples: Samples) -> int:
    """How many classes there are; 0 if nobody says."""
    said = getattr(dataset, "classes", None)
    if said is not None:
        return said if isinstance(said, int) else len(said)
    return int(samples.targets.max()) + 1 if isinstance(samples, TensorSamples) else 0
