"""AdamW: the default for nearly everything."""

from __future__ import annotations

from typing import TYPE_CHECKING

from conf.bounds import Fraction, Positive, group
from trainer.optimizers import groups

if TYPE_CHECKING:
    from torch import nn, optim


@group
class Options:
    """Names and meanings are torch's."""

    lr: Positive = 1e-3
    """The highest learning rate; train.schedule says how it is reached and left."""
    weight_decay: Fraction = 0.01
    betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    eps: Positive = 1e-8


def build(options: Options, model: nn.Module) -> optim.Optimizer:
    """AdamW in one fused kernel, with no decay on biases and scales."""
    from torch.optim import AdamW

    parameters = groups(model, options.weight_decay)
    return AdamW(parameters, lr=options.lr, betas=options.betas, eps=options.eps, fused=True)
