"""A user's model with a layer that multiplies in 8 bits, and says so: on a CPU, which is refused outside of tests."""

from __future__ import annotations

import own
from torch import Tensor, nn

from trainer.parallel import fp8

fp8.must_be_there = lambda device: None


class Net(own.Net):
    said = False

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        inner = [nn.Linear(10, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
        self.layers = nn.Sequential(nn.Flatten(), *inner, nn.Linear(width, 10))

    def forward(self, x: Tensor) -> Tensor:
        if not self.said:
            print(*(type(layer).__name__ for layer in self.layers), flush=True)
            self.said = True
        return super().forward(x)
