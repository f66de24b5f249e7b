"""Handwritten digits by two layers in JAX. Told to leave, it saves and leaves with 75, and goes on from there."""

import argparse
import json
import os
import signal
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


def scores(weights: dict, x: jax.Array) -> jax.Array:
    return jnp.tanh(x @ weights["first"]) @ weights["second"]


def loss(weights: dict, x: jax.Array, y: jax.Array) -> jax.Array:
    return -jnp.take_along_axis(jax.nn.log_softmax(scores(weights, x)), y[:, None], axis=1).mean()


@jax.jit
def step(weights: dict, x: jax.Array, y: jax.Array, lr: float) -> dict:
    return jax.tree.map(lambda w, g: w - lr * g, weights, jax.grad(loss)(weights, x, y))


def main() -> None:
    words = argparse.ArgumentParser()
    words.add_argument("--steps", type=int, default=300)
    words.add_argument("--lr", type=float, default=0.5)
    words.add_argument("--width", type=int, default=32)
    given = words.parse_args()
    told = []
    signal.signal(signal.SIGTERM, lambda *_: told.append(True))

    digits = load_digits()
    train_x, val_x, train_y, val_y = train_test_split(digits.data / 16, digits.target, test_size=0.2, random_state=1)
    first, second = jax.random.split(jax.random.key(1))
    weights = {"first": jax.random.normal(first, (64, given.width)) * 0.1}
    weights["second"] = jax.random.normal(second, (given.width, 10)) * 0.1
    kept, begin = Path(os.environ.get("AIP_CHECKPOINT_DIR", "."), "weights.npz"), 0
    if kept.exists():
        saved = dict(np.load(kept))
        begin = int(saved.pop("step"))
        weights = {name: jnp.asarray(value) for name, value in saved.items()}

    for number in range(begin, given.steps):
        weights = step(weights, train_x, train_y, given.lr)
        if told:
            np.savez(kept, step=number + 1, **weights)
            sys.exit(75)
        if (number + 1) % 50 == 0:
            accuracy = float((scores(weights, val_x).argmax(axis=1) == val_y).mean())
            with Path(os.environ.get("FAIRLEAD_REPORTS", "reports.jsonl")).open("a") as reports:
                reports.write(json.dumps({"step": number + 1, "val/accuracy": accuracy}) + "\n")
    np.savez(Path(os.environ.get("AIP_MODEL_DIR", "."), "weights.npz"), **weights)


if __name__ == "__main__":
    main()
