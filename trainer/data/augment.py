"""How are images changed anew each time training sees them? Mirrored, cropped, recoloured, or by the user's own code.

What is drawn depends on the run's seed, the epoch and the sample alone: the same on any number of ranks and workers,
and after any stop. Validation sees images as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

from conf.bounds import Bound, Fraction, group
from trainer.failure import UserError
from trainer.packages import needed

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

RATIOS = (3 / 4, 4 / 3)
"""Width to height of a crop, before it is scaled to a square."""
TRIES = 10
"""Of a crop that fits into the image; then it is the largest square in the middle."""
Own = Callable[["Tensor"], "Tensor"]


@group
class Augment:
    """What is drawn for each image."""

    flip: bool = False
    """Mirrored left to right, every second time."""
    crop: Annotated[float, Bound(gt=0, le=1)] | None = None
    """A part of the image, scaled: this share of its area at least, 3:4 to 4:3. None takes the middle."""
    colour: Fraction = 0.0
    """By what part brightness, contrast and saturation may change, up or down."""
    own: Mapping[str, Any] | None = None
    """`_target_` and its arguments: your function, or an object that can be called as torchvision's transforms can,
    with channels x height x width from 0 to 1, before mean and std. Its random numbers of torch, numpy and Python are
    seeded."""

    @property
    def draws(self) -> bool:
        return self.flip or self.crop is not None or self.colour > 0 or self.own is not None


def box_of(augment: Augment, size: tuple[int, int], random: np.random.Generator) -> tuple[float, float, float, float]:
    """What is shown of an image of some width and height: left, upper, right, lower."""
    width, height = size
    for _ in range(TRIES if augment.crop is not None else 0):
        area = width * height * random.uniform(augment.crop or 1, 1)
        ratio = math.exp(random.uniform(math.log(RATIOS[0]), math.log(RATIOS[1])))
        wide, high = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if wide <= width and high <= height:
            left, upper = random.uniform(0, width - wide), random.uniform(0, height - high)
            return left, upper, left + wide, upper + high
    side = min(width, height)
    left, upper = (width - side) / 2, (height - side) / 2
    return left, upper, left + side, upper + side


def changed(augment: Augment, image: Any, random: np.random.Generator) -> Any:
    """A Pillow image, mirrored and recoloured."""
    ops, enhance = (needed(f"PIL.{part}", "Pillow", "data.augment") for part in ("ImageOps", "ImageEnhance"))
    if augment.flip and random.random() < 0.5:
        image = ops.mirror(image)
    if augment.colour:
        for kind in (enhance.Brightness, enhance.Contrast, enhance.Color):
            image = kind(image).enhance(random.uniform(1 - augment.colour, 1 + augment.colour))
    return image


def own_of(augment: Augment) -> Own | None:
    """The user's own code, ready to be called. Raises UserError when its name leads nowhere."""
    if augment.own is None:
        return None
    from trainer import components

    return components.call_of("data.augment.own", augment.own)


def apply(own: Own, image: Tensor, seed: int) -> Tensor:
    """The user's own change of one image, with random numbers of its own."""
    from trainer import tensors

    with tensors.seeded(seed):
        given = own(image)
    if getattr(given, "shape", None) != image.shape:
        what = f"data.augment.own makes {getattr(given, 'shape', type(given).__name__)} of {tuple(image.shape)}"
        raise UserError(what, "data.augment.own", "return a tensor of the shape it was given")
    return given
