"""How large is the learning rate at a step? A pure function of the step, so a resume needs no state."""

from __future__ import annotations

import math


def factor(kind: str, step: int, total_steps: int, warmup_steps: int = 0) -> float:
    """What the optimizer's learning rate is multiplied by at `step` (0 is the first).

    It rises linearly to 1 over the warm-up, then stays (`constant`) or falls towards 0, which it would
    reach at `total_steps`, on a line (`linear`) or half a cosine (`cosine`).
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    if kind == "constant":
        return 1.0
    if kind == "linear":
        return 1.0 - progress
    if kind == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * progress))
    raise ValueError(f"schedule is {kind}, but it must be constant, linear or cosine")
