"""A user's model whose rank 1 gets stuck, or dies, or is slow: each attempt in its own way."""

from __future__ import annotations

import os
import signal
import time

import torch.distributed as dist
from own import Net
from torch import Tensor


class Stuck(Net):
    """`ways` are words for the attempts, in their order; an attempt beyond them is well."""

    def __init__(self, ways: str = "", at: int = 6, width: int = 16) -> None:
        super().__init__(width)
        names, number = ways.split(), int(os.environ.get("FAIRLEAD_ATTEMPT", "0"))
        self.way = names[number] if number < len(names) else ""
        self.at, self.seen = at, 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen += self.training
        if self.way == "slow" and self.training and os.environ["RANK"] == "1":
            time.sleep(0.25)  # more than a busy machine adds to the other rank's steps
        if self.way == "busy" and self.training and os.environ["RANK"] == "1":
            until = time.thread_time() + 0.25
            while time.thread_time() < until:
                pass
        if self.training and self.seen == self.at:
            if self.way == "unequal" and os.environ["RANK"] == "0":
                dist.barrier()  # which the other rank leaves out
            elif os.environ["RANK"] == "1":
                get_stuck(self.way)
        return super().forward(x)


def get_stuck(way: str) -> None:
    if way == "loop":
        while True:
            pass
    elif way == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif way == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
