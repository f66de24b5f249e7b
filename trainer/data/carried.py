"""What is in the small data sets that scikit-learn carries along? Read from its files, as its loaders read them.

Importing it for that takes two seconds of CPU time at each start of each rank.
https://scikit-learn.org/stable/datasets/toy_dataset.html
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from trainer.packages import folder_of

if TYPE_CHECKING:
    import numpy as np

Name = Literal["digits", "wine", "breast_cancer", "iris", "diabetes"]
IMAGE = (8, 8)
"""Of digits: pixels from 0 to 16."""
_FILES = {"wine": "wine_data.csv", "breast_cancer": "breast_cancer.csv", "iris": "iris.csv"}
_MEASURES = (
    "radius", "texture", "perimeter", "area", "smoothness", "compactness", "concavity", "concave points", "symmetry",
    "fractal dimension",
)  # fmt: skip
_COLUMNS = {
    "iris": tuple(f"{part} {way} (cm)" for part in ("sepal", "petal") for way in ("length", "width")),
    "wine": (
        "alcohol", "malic_acid", "ash", "alcalinity_of_ash", "magnesium", "total_phenols", "flavanoids",
        "nonflavanoid_phenols", "proanthocyanins", "color_intensity", "hue", "od280/od315_of_diluted_wines", "proline",
    ),
    "breast_cancer": (
        *(f"mean {measure}" for measure in _MEASURES),
        *(f"{measure} error" for measure in _MEASURES),
        *(f"worst {measure}" for measure in _MEASURES),
    ),
    "diabetes": ("age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6"),
}  # fmt: skip
"""As the loaders call them: the files do not."""


@dataclass(frozen=True)
class Carried:
    """A set: float64 rows of samples by columns, and for each sample the number of its class; or, in a set without
    classes, a float64 number to be predicted."""

    rows: np.ndarray
    target: np.ndarray
    columns: tuple[str, ...]
    classes: tuple[str, ...]


def read(name: Name) -> Carried:
    """The whole set. Raises UserError where scikit-learn is not installed."""
    folder = folder_of("sklearn", "scikit-learn", "data.kind: sklearn") / "datasets" / "data"
    if name == "diabetes":
        return _diabetes(folder)
    return _digits(folder / "digits.csv.gz") if name == "digits" else _table(folder / _FILES[name], _COLUMNS[name])


def _digits(path: Path) -> Carried:
    import numpy as np

    numbers = np.loadtxt(path, delimiter=",")
    columns = tuple(f"pixel_{row}_{column}" for row in range(IMAGE[0]) for column in range(IMAGE[1]))
    return Carried(numbers[:, :-1], numbers[:, -1].astype(int), columns, tuple(str(digit) for digit in range(10)))


def _diabetes(folder: Path) -> Carried:
    """442 people, ten columns as they were measured, and how far the disease had gone a year later."""
    import numpy as np

    rows = np.loadtxt(folder / "diabetes_data_raw.csv.gz")
    return Carried(rows, np.loadtxt(folder / "diabetes_target.csv.gz"), _COLUMNS["diabetes"], ())


def _table(path: Path, columns: tuple[str, ...]) -> Carried:
    """The first line: samples, columns, classes."""
    import numpy as np

    with path.open(encoding="utf-8", newline="") as file:
        (_, _, *classes), *lines = csv.reader(file)
    numbers = np.array(lines, np.float64)
    return Carried(numbers[:, :-1], numbers[:, -1].astype(int), columns, tuple(classes))
