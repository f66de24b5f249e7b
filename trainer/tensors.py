"""How are random numbers and a model's weights written without pickle? As safetensors.

The state that training goes on from is state.py's.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

State = dict[str, Any]


def random_state() -> State:
    """This rank's random numbers: torch's, the device's, numpy's and Python's."""
    version, words, gauss = random.getstate()
    old: Any = np.random.get_state()
    assert old[0] == "MT19937" and version == 3
    tensors = {
        "torch": torch.get_rng_state(),
        "python": torch.tensor(words, dtype=torch.int64),
        "python_gauss": torch.tensor([] if gauss is None else [gauss], dtype=torch.float64),
        "numpy": torch.from_numpy(old[1].astype(np.int64)),
        "numpy_position": torch.tensor(old[2:4], dtype=torch.int64),
        "numpy_gauss": torch.tensor(old[4:], dtype=torch.float64),
    }
    if torch.cuda.is_initialized():
        tensors["cuda"] = torch.cuda.get_rng_state()
    return tensors


def save_random(folder: Path, rank: int, state: State) -> Path:
    """Write what `random_state` gave."""
    return _save(folder / f"random-{rank}.safetensors", state)


def load_random(folder: Path, rank: int) -> None:
    """Set the random numbers of this rank back to what `save_random` wrote."""
    tensors = load_file(folder / f"random-{rank}.safetensors")
    torch.set_rng_state(tensors["torch"])
    gauss = tensors["python_gauss"].tolist()
    random.setstate((3, tuple(tensors["python"].tolist()), gauss[0] if gauss else None))
    position, has_gauss = tensors["numpy_position"].tolist()
    keys = tensors["numpy"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, position, has_gauss, tensors["numpy_gauss"].item()))
    if "cuda" in tensors and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(tensors["cuda"])


def seed(value: int) -> None:
    """Set all random numbers of this rank."""
    torch.manual_seed(value)
    random.seed(value)
    np.random.seed(value % 2**32)


def drawn(action: Callable[[], object]) -> bool:
    """Whether an action draws any of the CPU's random numbers; they go on where they were."""
    with seeded(0):
        before = torch.get_rng_state(), random.getstate(), repr(np.random.get_state(legacy=False))
        action()
        after = torch.get_rng_state(), random.getstate(), repr(np.random.get_state(legacy=False))
    return not torch.equal(before[0], after[0]) or before[1:] != after[1:]


def reseed(value: int) -> None:
    """Set the CPU's random numbers."""
    torch.default_generator.manual_seed(value)
    random.seed(value)
    np.random.seed(value % 2**32)


@contextmanager
def seeded(value: int) -> Iterator[None]:
    """Random numbers from this seed while the block runs; afterwards they go on where they were. The CPU's alone."""
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()
    reseed(value)
    try:
        yield
    finally:
        torch.set_rng_state(before[0])
        random.setstate(before[1])
        np.random.set_state(before[2])


def save_weights(path: Path, weights: State) -> None:
    """Write a model's tensors to a file of their own."""
    _save(path, weights)


def _save(path: Path, tensors: State) -> Path:
    """Raises OSError when the disk does not take it."""
    seen: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        # safetensors refuses tensors that share memory, such as tied weights: write them twice.
        apart[name] = tensor.detach().clone() if place in seen else tensor.detach().contiguous()
        seen.add(place)
    try:
        save_file(apart, path)
    except SafetensorError as e:
        raise OSError(f"{path.name}: {e}") from e
    return path
