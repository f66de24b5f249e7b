"""What is data to the loop? Samples to be read by index, and what is worth knowing about them.

Each file beside this one is a kind of source: `Options`, `load(options) -> Data`, and `preview(options) -> Preview`,
which says before anything is read whether a model can take it (optional). One of rows with columns, or of files with a
class each, has `listed(options) -> Listed` (trainer/data/listed.py) as well: then `job.data_format` can write them for
other programs. One of files has `listed_at(options, where, there) -> Listed`, too, for those at an address.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

Form = Literal["images", "numbers", "tokens"]
"""What a sample is: channels x height x width, numbers in any other shape, or a row of tokens, such as bytes."""
TaskName = Literal["classification", "next_token", "regression"]
"""What is learned: one class a sample, one class a position, or numbers (trainer/score.py)."""
RowTask = Literal["classification", "regression"]
"""What a source of rows may be told to learn."""

WHOLE_BYTES = 1_000_000_000
PROBES = 256
"""A digest is of the contents of all samples up to so many bytes; beyond, of all sizes and of so many contents."""


@dataclass(frozen=True)
class Preview:
    """What can be said of data without reading them."""

    form: Form | None
    """None where only the data say."""
    validation: bool = True
    """Whether anything is kept for validation."""
    mistakes: tuple[tuple[str, str, str], ...] = ()
    """What is wrong with the options beyond their types: what, the key, what to do."""
    export: Literal["rows", "files"] | None = None
    """What is written for programs that are not our trainer: rows with columns, as JSON lines or CSV, or where each
    file is and its class, as JSON lines alone. None of what cannot be exported."""
    task: TaskName = "classification"


class Samples(Protocol):
    """A map-style data set that reads many samples at once."""

    def __len__(self) -> int: ...

    def batch(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        """Inputs and targets, stacked along the first dimension."""
        ...


class Drawn(Samples, Protocol):
    """Samples that are a little different each time, by random numbers."""

    def drawn(self, indices: np.ndarray, seed: int) -> tuple[Tensor, Tensor]:
        """As `batch`, changed. What is drawn depends on the seed, which is the epoch's, and on the sample alone: not on
        what else is in the batch, nor on what was drawn before. The loop calls it where there is one."""
        ...


@dataclass(frozen=True)
class Card:
    """A data set as the tracking store records it."""

    name: str
    digest: str
    """Fingerprint of the content: the same samples give the same digest, on any machine."""
    rows: int
    features: str
    source: str
    classes: tuple[str, ...] = ()
    """What class 0, 1, ... is called in the data; () where they have no names."""
    columns: tuple[str, ...] = ()
    """What feature 0, 1, ... is called in the data, likewise."""
    offset: tuple[float, ...] = ()
    """What was taken from each feature (or channel) before it was divided by its `scale`; () where nothing was."""
    scale: tuple[float, ...] = ()
    fill: tuple[float, ...] = ()
    """What stood for a gap in each feature before that; () where there may be none."""


@dataclass(frozen=True)
class Shape:
    """What a model must know of the data."""

    task: TaskName
    input_shape: tuple[int, ...]
    """Without the batch dimension."""
    input_dtype: str
    outputs: int
    """How many numbers a model gives: scores of classes, at each position where there are several, or what is
    predicted. 0 where the data do not say."""
    target_offset: float = 0.0
    """What was taken from the numbers of a regression before they were divided by their scale."""
    target_scale: float = 1.0

    @property
    def form(self) -> Form:
        if self.task == "next_token":
            return "tokens"
        return "images" if len(self.input_shape) == 3 else "numbers"


@dataclass(frozen=True)
class Data:
    """What a source gives: data sets that share no sample, and their shape."""

    shape: Shape
    train: Samples
    validation: Samples
    train_card: Card
    validation_card: Card
    test: Samples | None = None
    """For one evaluation at the end; None where none is declared."""
    test_card: Card | None = None

    @property
    def cards(self) -> tuple[tuple[str, Card], ...]:
        """What each part is used for, and its card."""
        found = (("train", self.train_card), ("validation", self.validation_card), ("test", self.test_card))
        return tuple((name, card) for name, card in found if card is not None)


S = TypeVar("S", bound=Samples)


def data_of_parts(shape: Shape, parts: Sequence[S], card: Callable[[S], Card]) -> Data:
    """The Data of parts as `splits.parts` cut them: for training, validation and, where there is a third, a test."""
    train, validation = parts[:2]
    test = parts[2] if len(parts) > 2 else None
    last = None if test is None else card(test)
    return Data(shape, train, validation, card(train), card(validation), test, last)


@dataclass(frozen=True)
class TensorSamples:
    """Samples that lie in memory."""

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.inputs)

    def batch(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        import torch

        chosen = torch.from_numpy(indices)
        return self.inputs[chosen], self.targets[chosen]

    def digest(self) -> str:
        """SHA-256 of all inputs and targets."""
        import hashlib

        seen = hashlib.sha256()
        for tensor in (self.inputs, self.targets):
            seen.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
            seen.update(tensor.contiguous().numpy().tobytes())
        return seen.hexdigest()


def probed(count: int, size_bytes: int) -> range:
    """Numbers of the samples whose contents a digest reads, of so many that have so many bytes together."""
    return range(0, count, 1 if size_bytes <= WHOLE_BYTES else -(-count // PROBES))
