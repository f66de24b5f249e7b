"""What is a state of training, outside of an engine? Tensors by names that all engines use, and a little JSON.

    model.<name>              parameters and buffers
    optimizer.<name>.<slot>   what the optimizer keeps of a parameter, such as exp_avg

A tensor of which this rank has a piece is a DTensor. On disk pieces are safetensors, as torch's distributed
checkpoint writes them (https://docs.pytorch.org/docs/stable/distributed.checkpoint.html), and it reads them back
for any number of ranks and any engine. When they are written, and whether they are whole, is checkpoint.py's.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint import hf_storage
from torch.distributed.checkpoint import state_dict as named
from torch.distributed.checkpoint import state_dict_loader as loader
from torch.distributed.checkpoint import state_dict_saver as saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

from trainer.durable import write_json
from trainer.parallel.group import Group

FOLDER, REST = "state", "rest.json"
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class State:
    """All from which an engine goes on."""

    tensors: Tensors
    rest: dict[str, Any] = field(default_factory=dict)
    """What is no tensor, as JSON can write it. The same on all ranks."""


def of(model: nn.Module, optimizer: torch.optim.Optimizer) -> State:
    """The state of a model and an optimizer that keep theirs as torch does.

    Raises TypeError for an entry of the model's that is not a tensor (torch calls it extra state).
    """
    theirs: dict[str, Any] = named.get_model_state_dict(model)
    if strange := [name for name, value in theirs.items() if not isinstance(value, Tensor)]:
        raise TypeError(f"the model's state_dict has entries that are not tensors: {', '.join(strange)}")
    again = ties(model)
    tensors = {f"model.{name}": value for name, value in theirs.items() if name not in again}
    others: dict[str, Any] = {}
    kept: dict[str, Any] = named.get_optimizer_state_dict(model, optimizer)
    for name, slots in kept["state"].items():
        for slot, value in slots.items():
            (tensors if isinstance(value, Tensor) else others)[f"optimizer.{name}.{slot}"] = value
    return State(tensors, {"param_groups": kept["param_groups"], "others": others})


def put(model: nn.Module, optimizer: torch.optim.Optimizer, state: State) -> None:
    """Give a state back to a model and an optimizer like those it is of."""
    slots: dict[str, dict[str, Any]] = {}
    for key, value in {**state.tensors, **state.rest["others"]}.items():
        kind, _, rest = key.partition(".")
        if kind == "optimizer":
            name, _, slot = rest.rpartition(".")
            slots.setdefault(name, {})[slot] = value
    groups = [
        {k: tuple(v) if isinstance(v, list) and k != "params" else v for k, v in group.items()}
        for group in state.rest["param_groups"]
    ]
    weights: dict[str, Any] = {k.removeprefix("model."): v for k, v in state.tensors.items() if k.startswith("model.")}
    tied = {name: weights[first] for name, first in ties(model).items()}
    named.set_model_state_dict(model, {**weights, **tied})
    kept: dict[str, Any] = {"state": slots, "param_groups": groups}
    named.set_optimizer_state_dict(model, optimizer, kept)


def ties(model: nn.Module) -> dict[str, str]:
    """Further names of parameters that have several, and their first: safetensors keeps each memory once."""
    first: dict[int, str] = {}
    every = model.named_parameters(remove_duplicate=False)
    return {name: known for name, p in every if (known := first.setdefault(id(p), name)) != name}


def weights(model: nn.Module) -> Tensors:
    """The whole model on the CPU; on rank 0, others get nothing. All ranks call it."""
    whole = named.StateDictOptions(full_state_dict=True, cpu_offload=True)
    found: dict[str, Any] = named.get_model_state_dict(model, options=whole)
    return found


class Copier:
    """Copies of states on the CPU, into memory that is used again: a copy is good until the next."""

    def __init__(self, device: torch.device) -> None:
        pinned = device.type == "cuda"
        self._stager = DefaultStager(StagingOptions(pinned, False, False, pinned))

    def copied(self, state: State) -> State:
        """Returns when everything has been copied."""
        copy: Any = self._stager.stage(dict(state.tensors))
        return State(copy, state.rest)


def write(folder: Path, state: State, group: Group) -> list[Path]:
    """Write this rank's pieces to folder/state; what all ranks have is written by one. Returns this rank's files.

    All ranks of the group call it. Raises OSError on all of them when one could not write.
    """
    into = folder / FOLDER
    into.mkdir(exist_ok=True)
    writer = hf_storage.HuggingFaceStorageWriter(str(into), save_distributed=True)
    try:
        with _among(group) as how:
            saver.save(state.tensors, storage_writer=writer, **how)
    except CheckpointException as e:
        raise OSError("; ".join(f"rank {rank}: {failure[0]}" for rank, failure in e.failures.items())) from e
    files = sorted(into.glob(f"shard-{group.rank + 1:05d}-*.safetensors"))
    if group.rank == 0:
        write_json(into / REST, state.rest)
        files.append(into / REST)
    return files


def rest(folder: Path) -> dict[str, Any]:
    """What `write` wrote that is no tensor."""
    document: dict[str, Any] = json.loads((folder / FOLDER / REST).read_text())
    return document


def read(folder: Path, tensors: Tensors, group: Group) -> None:
    """Read what `write` wrote into these tensors, whoever wrote which piece. All ranks call it, with any names."""
    reader = hf_storage.HuggingFaceStorageReader(str(folder / FOLDER))
    with _among(group) as how:
        loader.load(tensors, storage_reader=reader, **how)


@contextlib.contextmanager
def _among(group: Group) -> Iterator[dict[str, Any]]:
    """Whom torch's checkpoint asks; of one rank alone it warns that there is nobody."""
    if group.world > 1:
        yield {"process_group": group.process_group}
    else:
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            yield {"no_dist": True}
