"""What a hand-written program and two other trainers are given: the spec, model, data and optimizer of ours.

They write down when steps ended in the two files that our trainer writes, so that one reader does for all.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from conf.document import from_document
from conf.schema import Spec, precision
from trainer import components, schedule


@dataclass(frozen=True)
class Given:
    """A spec, and what is made of it."""

    spec: Spec
    rank: int
    world: int
    model: nn.Module
    inputs: Tensor
    targets: Tensor

    @property
    def device(self) -> torch.device:
        cuda = self.spec.pools[0].accelerator.device == "cuda"
        return torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")

    @property
    def precision(self) -> str:
        return precision(self.spec)

    @property
    def steps(self) -> int:
        return self.spec.train.max_steps or 0

    @property
    def micro_size(self) -> int:
        """Samples of one rank in a step."""
        return self.spec.train.batch_size // self.world

    def loader(self) -> DataLoader[Any]:
        """Shuffled batches of one rank, for those who bring them to the right rank and device themselves."""
        pinned = self.device.type == "cuda"
        rows, size = Rows(self.inputs, self.targets), self.micro_size
        return DataLoader(rows, size, shuffle=True, drop_last=True, collate_fn=_as_it_is, pin_memory=pinned)

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Ours: AdamW in one fused kernel."""
        module, options = components.part("optimizer", self.spec.optimizer)
        made: torch.optim.Optimizer = module.build(options, model)
        return made

    def factor(self, step: int) -> float:
        """Of the learning rate."""
        return schedule.factor(self.spec.train.schedule, step, self.steps, self.spec.train.warmup_steps)


def given() -> Given:
    """From the environment that our ranks get."""
    spec = from_document(Spec, json.loads(Path(os.environ["FAIRLEAD_SPEC"]).read_text()))
    torch.manual_seed(spec.seed)
    source, options = components.part("data", spec.data)
    data = source.load(options)
    kind, options = components.part("model", spec.model)
    samples = data.train.batch(np.arange(len(data.train)))
    return Given(
        spec, int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), kind.build(options, data.shape), *samples
    )


class Rows(Dataset[Any]):
    """Samples that are read a batch at a time, without a Python object for each."""

    def __init__(self, inputs: Tensor, targets: Tensor) -> None:
        self.inputs, self.targets = inputs, targets

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        chosen = torch.tensor(indices)
        return self.inputs[chosen], self.targets[chosen]


def _as_it_is(batch: Any) -> Any:
    return batch


def loss_of(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy, the mean over samples and positions, in fp32 as ours."""
    return functional.cross_entropy(outputs.float().flatten(0, -2), targets.flatten())


class Stamps:
    """When did steps end? Every so many steps the mean loss over all ranks is read, as anybody would who watches."""

    def __init__(self, having: Given) -> None:
        self._given = having
        self._attempt = Path(os.environ["FAIRLEAD_ATTEMPT_DIR"])
        self._every = having.spec.train.log_every_steps
        self._loss = torch.zeros((), device=having.device)
        self.step = 0

    def add(self, loss: Tensor) -> None:
        """A step has ended, with this loss on this rank."""
        self._loss += loss.detach()
        self.step += 1
        if self.step == 1:
            self._write("ledger.jsonl", {"t": time.time(), "event": "first_step"})
        if self.step % self._every == 0 or self.step == self._given.steps:
            self._report()

    def _report(self) -> None:
        total = self._loss.double().cpu()
        if self._given.world > 1:
            torch.distributed.all_reduce(total)
        mean = total.item() / self._every / self._given.world
        self._loss.zero_()
        metrics = {"train/loss": mean}
        if self._given.device.type == "cuda":
            metrics["train/memory_gb"] = torch.cuda.max_memory_allocated() / 1e9
        self._write("metrics.jsonl", {"t": time.time_ns() // 1_000_000, "step": self.step, "metrics": metrics})

    def _write(self, name: str, document: dict[str, Any]) -> None:
        if self._given.rank == 0:
            with (self._attempt / name).open("a") as f:
                f.write(json.dumps(document) + "\n")


def kept() -> Path:
    """Where a program saves what it has trained."""
    return Path(os.environ["FAIRLEAD_ATTEMPT_DIR"]) / "kept"
