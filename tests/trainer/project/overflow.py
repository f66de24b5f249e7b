"""A user's model whose gradients overflow once, on the last rank alone, and which tells what weights each rank uses."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path
from typing import Any

import own
import torch
from torch import Tensor, nn


class Net(own.Net):
    """Overflows in training pass `at` of the first attempt, in the first row of one weight and of its bias: of a model
    in pieces, in what another rank has."""

    def __init__(self, at: int, dropout: float) -> None:
        super().__init__(dropout=dropout)
        self.at = at
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                layer.register_forward_hook(self._used)
        self.layers[1].register_forward_hook(self._spoil)

    def _used(self, layer: nn.Module, inputs: Any, outputs: Tensor) -> None:
        """Here the weights are whole, of a model in pieces too."""
        if self.training:
            values = torch.cat([p.detach().flatten() for p in layer.parameters()]).float()
            path = Path(os.environ["FAIRLEAD_ATTEMPT_DIR"], f"weights-{os.environ['RANK']}")
            with path.open("a") as f:
                print(sha256(values.numpy().tobytes()).hexdigest(), file=f)

    def _spoil(self, layer: nn.Module, inputs: Any, outputs: Tensor) -> None:
        if not self.training:
            return
        self.at -= 1
        last = int(os.environ["RANK"]) + 1 == int(os.environ["WORLD_SIZE"])
        if self.at == 0 and last and Path(os.environ["FAIRLEAD_ATTEMPT_DIR"]).name == "attempt-1":
            outputs.register_hook(lambda grad: grad.index_fill(1, torch.tensor([0]), torch.inf))
