"""The optimizers that are there: each step in one kernel, where torch has it."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from conf.schema import Component
from trainer.components import kinds, part


@pytest.mark.parametrize("kind", kinds("optimizer"))
def test_optimizer_steps_in_a_fused_kernel(kind: str) -> None:
    module, options = part("optimizer", Component(kind=kind))
    model = nn.Sequential(nn.Linear(6, 16), nn.Linear(16, 3))
    optimizer = module.build(options, model)
    model(torch.randn(4, 6)).sum().backward()

    with profile(activities=[ProfilerActivity.CPU]) as seen:
        optimizer.step()

    kernels = {event.key for event in seen.key_averages()}
    assert f"aten::_fused_{kind}_" in kernels
