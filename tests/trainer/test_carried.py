"""The sets that scikit-learn carries along are what its own loaders return."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import sklearn.datasets

from trainer.data import carried
from trainer.failure import UserError


@pytest.mark.parametrize("name", get_args(carried.Name))
def test_a_set_is_what_its_loader_returns(name: carried.Name) -> None:
    how = {"scaled": False} if name == "diabetes" else {}
    found, loaded = carried.read(name), getattr(sklearn.datasets, f"load_{name}")(**how)

    assert found.rows.dtype == loaded.data.dtype and np.array_equal(found.rows, loaded.data)
    assert found.target.dtype == loaded.target.dtype and np.array_equal(found.target, loaded.target)
    assert found.columns == tuple(loaded.feature_names)
    assert found.classes == tuple(str(one) for one in loaded.get("target_names", ()))


def test_images_are_rows_in_their_shape() -> None:
    loaded = sklearn.datasets.load_digits()

    assert np.array_equal(carried.read("digits").rows.reshape(-1, *carried.IMAGE), loaded.images)


def test_a_set_is_read_without_importing_the_library() -> None:
    script = "import sys; from trainer.data import carried; carried.read('digits'); print('sklearn' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=100
    )

    assert done.stdout == "False\n", done.stderr


def test_where_it_is_not_installed_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    with pytest.raises(UserError, match=r"needs the Python package scikit-learn[\s\S]*fairlead\[train\]"):
        carried.read("iris")
