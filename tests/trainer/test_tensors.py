"""What goes to disk comes back the same, without pickle."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from trainer import tensors


def test_random_numbers_go_on_where_they_were(tmp_path: Path) -> None:
    def draw() -> list[float]:
        return [torch.rand(1).item(), random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn()]

    tensors.seed(7)
    draw()  # an odd number of normal values: the second of a pair is kept for later
    tensors.save_random(tmp_path, 3, tensors.random_state())
    expected = draw()

    tensors.seed(8)
    tensors.load_random(tmp_path, rank=3)

    assert draw() == expected


def test_save_on_a_disk_that_takes_nothing_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"model\.safetensors"):
        tensors.save_weights(tmp_path / "not-there" / "model.safetensors", {"weight": torch.zeros(1)})
