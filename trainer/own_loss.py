"""How does a loss of the user's own (`train.loss`) take the place of a task's? Called with whole batches, for a loss of
each sample: so batches that are filled up, and evaluations over any number of ranks, are as exact as with ours.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from trainer import components
from trainer.failure import UserError
from trainer.score import Task

log = logging.getLogger(__name__)

KEY = "train.loss"
OF_LOSS = ("train/loss", "val/loss")


@dataclass(frozen=True)
class OwnLoss:
    """A loss of the user's own, of outputs and targets as the task gives them."""

    task: Task
    call: Callable[[Tensor, Tensor], Any]
    name: str

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Of each sample. Raises UserError where that is not what comes."""
        found = self.call(*self.task.given(outputs, targets))
        count = len(targets)
        if not isinstance(found, Tensor) or found.shape != (count,):
            came = f"a tensor of {tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
            what = f"{KEY} gives {came} for {count} samples, and one loss for each is wanted: ({count},)"
            do = "take no sum or mean over the samples (torch's own losses: reduction: none), but one over all else"
            raise UserError(what, f"{KEY}._target_: {self.name}", do)
        return found.float()

    def total(self, outputs: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        """Their sum, each times its weight."""
        losses = self.losses(outputs, targets)
        return losses.sum() if weights is None else (losses * weights).sum()

    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The task's, where outputs are what it takes: this loss may be of others."""
        try:
            return self.task.sums(outputs, targets)
        except UserError as misfit:
            _say_left_out(misfit.what)
            return outputs.new_zeros((0, len(targets)), dtype=torch.float32)


@functools.cache
def _say_left_out(why: str) -> None:
    log.info("the task's metrics beside the loss are left out: %s", why)


def with_loss(task: Task, said: Mapping[str, Any], objective: str, device: torch.device) -> Task:
    """The task by the loss that `train.loss` names, which is reported as it is. The task's other metrics are left out
    where the model's outputs do not fit them, unless one is the objective.

    Raises UserError when the name leads nowhere, or to what cannot be called or would have to be trained.
    """
    call, name = components.call_of(KEY, said), str(said[components.TARGET])
    if isinstance(call, nn.Module):
        if [*call.parameters()]:
            what = f"{KEY} is {name}, which has weights of its own, and only the model's are trained"
            raise UserError(what, f"{KEY}._target_", "put them into the model; constants of a loss are buffers")
        call = call.to(device)
    own = OwnLoss(task, call, name)
    sums = own.sums if objective in OF_LOSS else task.sums
    return replace(task, total=own.total, losses=own.losses, sums=sums, unit=1.0)
