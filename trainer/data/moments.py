"""What are mean and standard deviation of columns, over the rows that train? Taken in pieces, in fp64.

Two passes, so that large numbers that differ little keep their digits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from trainer.data.splits import Part

PIECE = 1 << 16
"""Rows whose sums are taken at once."""


def of_columns(columns: np.ndarray, train: Part, missing: str = "refuse") -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each column, of rows x columns; a column that does not change by more than float32
    can tell is divided by 1. Gaps count as 0, or for nothing where their column's mean fills them (`missing`: mean)."""
    import numpy as np

    def total(of: Any) -> np.ndarray:
        pieces = (columns[np.asarray(train[i : i + PIECE])] for i in range(0, len(train), PIECE))
        return sum((of(piece.astype(np.float64)) for piece in pieces), np.zeros(columns.shape[1]))

    count = total(lambda rows: (~np.isnan(rows)).sum(0)) if missing == "mean" else np.float64(len(train))
    with np.errstate(invalid="ignore"):
        mean = total(lambda rows: np.nan_to_num(rows).sum(0)) / count
    fill = mean if missing == "mean" else np.zeros_like(mean)
    deviation = np.sqrt(total(lambda rows: ((filled(rows, fill) - mean) ** 2).sum(0)) / len(train))
    deviation[deviation <= np.abs(mean) * np.finfo(np.float32).eps] = 1
    return mean, deviation


def of_target(targets: np.ndarray, train: Part, wanted: bool) -> tuple[float, float]:
    """What is taken from a row of numbers, and what it is divided by then; 0 and 1 where that is not wanted."""
    if not wanted:
        return 0.0, 1.0
    mean, deviation = of_columns(targets[:, None], train)
    return float(mean[0]), float(deviation[0])


def filled(rows: np.ndarray, fill: np.ndarray) -> np.ndarray:
    """The rows with something in every gap, as float64."""
    import numpy as np

    return np.where(np.isnan(rows), fill, rows)


def scaled(targets: np.ndarray, offset: float, scale: float) -> np.ndarray:
    """Numbers as a model learns them, in float32."""
    import numpy as np

    return ((targets.astype(np.float64) - offset) / scale).astype(np.float32)
