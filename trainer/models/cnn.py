"""A small convolutional network for small images, such as 8 x 8 digits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from conf.bounds import Count, Fraction, group
from trainer.sources import Form, Shape

if TYPE_CHECKING:
    from torch import nn

TAKES: tuple[Form, ...] = ("images",)


@group
class Options:
    """How wide."""

    width: Count = 32
    """Channels of the first stage; the second has twice as many."""
    dropout: Fraction = 0.1


def build(options: Options, shape: Shape) -> nn.Module:
    """Two stages of two convolutions, an average over the image, one score per class (or numbers)."""
    from torch import nn

    def convolution(inputs: int, outputs: int) -> list[nn.Module]:
        # One group of norms: unlike batch norm, it does not depend on how a batch is spread over ranks.
        return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.GroupNorm(1, outputs), nn.ReLU()]

    width = options.width
    return nn.Sequential(
        *convolution(shape.input_shape[0], width),
        *convolution(width, width),
        nn.MaxPool2d(2, ceil_mode=True),
        *convolution(width, 2 * width),
        *convolution(2 * width, 2 * width),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(options.dropout),
        nn.Linear(8 * width, shape.outputs),
    )
