"""The network of model kind `gpt`. Apart from its options, which must be readable where torch is not installed.

Shapes: b batch, t position, w width, h head, v vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from trainer.models.gpt import Options


class Transformer(nn.Module):
    """Pre-norm blocks over learned positions; the output shares its weights with the embedding."""

    def __init__(self, options: Options, length: int, vocabulary: int) -> None:
        super().__init__()
        self.token = nn.Embedding(vocabulary, options.width)
        self.position = nn.Embedding(length, options.width)
        self.dropout = nn.Dropout(options.dropout)
        self.blocks = nn.ModuleList(Block(options) for _ in range(options.n_layer))
        self.norm = nn.LayerNorm(options.width)
        self.apply(_initialise)
        # GPT-2: what is added to the residual stream shrinks with the number of additions.
        for name, weight in self.blocks.named_parameters():
            if name.endswith(("attention.out.weight", "shrink.weight")):
                nn.init.normal_(weight, std=0.02 * (2 * options.n_layer) ** -0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        """(b, t) int64 -> (b, t, v)."""
        x = self.token(tokens) + self.position.weight[: tokens.shape[1]]
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x)
        return functional.linear(self.norm(x), self.token.weight)


class Block(nn.Module):
    """Attention, then two layers on each position alone."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(options.width)
        self.attention = Attention(options)
        self.norm = nn.LayerNorm(options.width)
        self.grow = nn.Linear(options.width, 4 * options.width)
        self.shrink = nn.Linear(4 * options.width, options.width)
        self.dropout = nn.Dropout(options.dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.dropout(self.shrink(functional.gelu(self.grow(self.norm(x)))))


class Attention(nn.Module):
    """Each position looks at itself and what came before."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.heads, self.dropped = options.n_head, options.dropout
        self.qkv = nn.Linear(options.width, 3 * options.width)
        self.out = nn.Linear(options.width, options.width)
        self.dropout = nn.Dropout(options.dropout)

    def forward(self, x: Tensor) -> Tensor:
        b, t, w = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.heads, w // self.heads).permute(2, 0, 3, 1, 4)
        dropped = self.dropped if self.training else 0.0
        y = functional.scaled_dot_product_attention(q, k, v, dropout_p=dropped, is_causal=True)
        return self.dropout(self.out(y.transpose(1, 2).reshape(b, t, w)))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
