"""Stochastic gradient descent: for convolutional networks with a tuned rate, and where memory is short."""

from __future__ import annotations

from typing import TYPE_CHECKING

from conf.bounds import Fraction, Positive, group
from trainer.optimizers import groups

if TYPE_CHECKING:
    from torch import nn, optim


@group
class Options:
    """Names and meanings are torch's."""

    lr: Positive = 0.1
    """The highest learning rate; train.schedule says how it is reached and left."""
    momentum: Fraction = 0.9
    nesterov: bool = True
    """Needs momentum; without it, it is left out."""
    weight_decay: Fraction = 5e-4


def build(options: Options, model: nn.Module) -> optim.Optimizer:
    """SGD with no decay on biases and scales, in one fused kernel unless the parameters are sharded (torch has none for
    these)."""
    from torch.optim import SGD

    nesterov = options.nesterov and options.momentum > 0
    parameters = groups(model, options.weight_decay)
    whole = not any(hasattr(parameter, "placements") for parameter in model.parameters())
    return SGD(parameters, lr=options.lr, momentum=options.momentum, nesterov=nesterov, fused=whole)
