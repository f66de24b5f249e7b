"""A plain network of fully connected layers: for columns of numbers, and as a first baseline."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from conf.bounds import Count, Fraction, NotNegative, group
from trainer.sources import Form, Shape

if TYPE_CHECKING:
    from torch import nn

TAKES: tuple[Form, ...] = ("images", "numbers")


@group
class Options:
    """How wide and how deep."""

    width: Count = 128
    depth: NotNegative = 2
    """Hidden layers; 0 is a linear model."""
    dropout: Fraction = 0.0


def build(options: Options, shape: Shape) -> nn.Module:
    """Flattens whatever a sample is, and gives one score per class, or the numbers of a regression."""
    from torch import nn

    layers: list[nn.Module] = [nn.Flatten()]
    features = math.prod(shape.input_shape)
    for _ in range(options.depth):
        layers += [nn.Linear(features, options.width), nn.ReLU(), nn.Dropout(options.dropout)]
        features = options.width
    return nn.Sequential(*layers, nn.Linear(features, shape.outputs))
