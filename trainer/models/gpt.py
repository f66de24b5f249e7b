"""A small decoder-only transformer over tokens, in the shape of GPT-2."""

from __future__ import annotations

from typing import TYPE_CHECKING

from conf.bounds import Count, Fraction, group
from trainer.failure import UserError
from trainer.sources import Form, Shape

if TYPE_CHECKING:
    from torch import nn

TAKES: tuple[Form, ...] = ("tokens",)
HAS_BLOCKS = True


@group
class Options:
    """How wide and how deep. The context length is the data's."""

    n_layer: Count = 4
    n_head: Count = 4
    width: Count = 128
    dropout: Fraction = 0.0


def build(options: Options, shape: Shape) -> nn.Module:
    """Scores for the next token at each position: (batch, length) int64 -> (batch, length, classes).

    Raises UserError when the width cannot be split among the heads.
    """
    if options.width % options.n_head:
        raise UserError(
            f"model.width is {options.width}, which {options.n_head} heads cannot share",
            "model.width",
            f"make it a multiple of model.n_head={options.n_head}",
        )
    from trainer.transformer import Transformer

    return Transformer(options, shape.input_shape[0], shape.outputs)
