"""What the tests of all sources use: names that a careless reader breaks on, and samples as plain lists."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from trainer.data.splits import Split
from trainer.sources import Samples

HOSTILE = ["with space", "quo'te\"d", "ünïcode 雪", "new\nline", "-dash", "[x]*?"]
WHOLE = Split(fraction=0.0)
"""Everything trains."""


def coloured() -> list[Image.Image]:
    """Sixty images, blue, green and red by turns: a small model tells them apart."""
    colours = [(20, 30, 220), (10, 200, 40), (230, 20, 10)]
    return [Image.new("RGB", (12, 10), tuple(c + i // 3 for c in colours[i % 3])) for i in range(60)]


def png(image: Image.Image) -> bytes:
    """The image as a file."""
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def npy(array: Any) -> bytes:
    """The array as a file."""
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def everything(samples: Samples) -> tuple[Tensor, Tensor]:
    """All samples as one batch."""
    return samples.batch(np.arange(len(samples)))
