"""How does an image's file become numbers? Pillow reads it; the largest square in its middle is scaled.

For every source of images: folders, tar shards, Hugging Face data sets.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from conf.bounds import Count, group
from trainer.data.augment import Augment, Own, apply, box_of, changed, own_of
from trainer.data.splits import Finding, picked
from trainer.failure import UserError
from trainer.packages import needed

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from trainer.data.splits import Part
    from trainer.sources import Data

    Content = tuple[bytes, Callable[[], str]]
    """A file as it was saved, and what names it: finding the name may take reading, so only a message does."""

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
DEEP = ("I", "F")
"""How Pillow's modes of more than 8 bits begin; converting them would cut numbers off."""


@group
class Look:
    """What becomes of an image: options of every source of images."""

    size: Count = 224
    """Height and width in pixels: the largest square in the middle, scaled."""
    channels: Literal[1, 3, 4] = 3
    """1 is grey, 3 colours, 4 colours and opacity."""
    mean: tuple[float, ...] = ()
    """Taken from each channel, which goes from 0 to 1; () takes nothing."""
    std: tuple[float, ...] = ()
    """What each channel is divided by then; () divides by nothing."""
    augment: Augment = Augment()
    """How training sees the images; validation sees them as they are."""

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.channels, self.size, self.size

    @property
    def how(self) -> str:
        """All that changes an image, for its digest."""
        return f"{self.size} {self.channels} {self.mean} {self.std}"


def mistakes(look: Look) -> tuple[Finding, ...]:
    """What can be seen to be wrong before any image is read."""
    for name in ("mean", "std"):
        numbers = getattr(look, name)
        if numbers and len(numbers) != look.channels:
            what = f"data.{name} has {len(numbers)} number(s), but data.channels is {look.channels}"
            return ((what, f"data.{name}", "give one number for each channel"),)
    if any(number <= 0 for number in look.std):
        return ((f"data.std is {list(look.std)}", "data.std", "give numbers above 0"),)
    return ()


@dataclass(frozen=True)
class Pictures:
    """Some images of a source, with their classes."""

    read: Callable[[np.ndarray], Iterable[Content]]
    """The files of the samples with these numbers."""
    classes: np.ndarray
    part: Part
    look: Look

    def __len__(self) -> int:
        return len(self.part)

    def batch(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        rows = picked(self.part, indices)
        found = [decoded(content, shown, self.look) for content, shown in self.read(rows)]
        return normalised(stacked(found), self.look), self.targets(rows)

    def targets(self, rows: np.ndarray) -> Tensor:
        import torch

        return torch.from_numpy(self.classes[rows]).long()


@dataclass(frozen=True)
class Augmented(Pictures):
    """Images that are a little different in each epoch."""

    own: Own | None

    def drawn(self, indices: np.ndarray, seed: int) -> tuple[Tensor, Tensor]:
        """As `batch`, changed; see sources.Drawn."""
        import numpy as np

        from trainer.data.order import seed_of

        rows = picked(self.part, indices)
        seeds = [seed_of(seed, int(row)) for row in rows]
        found = [
            decoded(content, shown, self.look, np.random.default_rng(one))
            for (content, shown), one in zip(self.read(rows), seeds, strict=True)
        ]
        inputs = stacked(found)
        if self.own is not None:
            for place, one in enumerate(seeds):
                inputs[place] = apply(self.own, inputs[place].clone(), one)
        return normalised(inputs, self.look), self.targets(rows)


def augmented(data: Data) -> Data:
    """The data with training's images as training sees them. Raises UserError when the user's own change is not
    there."""
    seen = data.train
    if not isinstance(seen, Pictures) or not seen.look.augment.draws:
        return data
    own = own_of(seen.look.augment)
    return replace(data, train=Augmented(seen.read, seen.classes, seen.part, seen.look, own))


def decoded(
    content: bytes, shown: Callable[[], str], look: Look, random: np.random.Generator | None = None
) -> np.ndarray:
    """Height x width x channels of uint8, turned as the camera was held; with random numbers, augmented.

    Raises UserError for what is no image; `shown` names it.
    """
    import numpy as np

    image, ops = (needed(f"PIL.{part}", "Pillow", "images") for part in ("Image", "ImageOps"))
    try:
        with image.open(io.BytesIO(content)) as read:
            if read.mode.startswith(DEEP):
                raise ValueError(f"it has more than 8 bits a channel (mode {read.mode})")
            upright = ops.exif_transpose(read).convert(MODES[look.channels])
        if random is None:
            fitted = ops.fit(upright, (look.size, look.size), image.Resampling.BILINEAR)
        else:
            box = box_of(look.augment, upright.size, random)
            fitted = upright.resize((look.size, look.size), image.Resampling.BILINEAR, box)
            fitted = changed(look.augment, fitted, random)
    except (OSError, ValueError, SyntaxError, EOFError, image.DecompressionBombError) as e:
        what = f"{shown()} cannot be read as an image: {_reason(e)}"
        raise UserError(what, "data.path", "replace it, or take it out of the data") from None
    return np.asarray(fitted).reshape(look.size, look.size, look.channels)


def stacked(pictures: Sequence[np.ndarray]) -> Tensor:
    """Decoded images as a batch of channels x height x width, from 0 to 1."""
    import numpy as np
    import torch

    inputs = np.stack(pictures).transpose(0, 3, 1, 2).astype(np.float32, order="C") / np.float32(255)
    return torch.from_numpy(inputs)


def normalised(inputs: Tensor, look: Look) -> Tensor:
    """The images with each channel's mean taken away, and divided by its std."""
    import torch

    if look.mean:
        inputs -= torch.tensor(look.mean)[:, None, None]
    if look.std:
        inputs /= torch.tensor(look.std)[:, None, None]
    return inputs


def _reason(error: Exception) -> str:
    """Without the object in memory that Pillow names."""
    return "it is none that Pillow knows" if type(error).__name__ == "UnidentifiedImageError" else str(error)
