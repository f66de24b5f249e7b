"""How do the ranks of a run meet, and agree on small things? Gradients travel elsewhere: in engines/.

Everything here is a few numbers on the CPU over gloo, also on GPU nodes, so that agreeing never waits for
a device. One rank alone opens no port and needs no network.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from trainer.failure import CardLost, RendezvousError, UserError
from trainer.rank import Rank

T = TypeVar("T")

MEETING_S = 300
"""Containers of one step start within seconds of each other, but a cold file system takes minutes."""

GIVEN = ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS", "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
"""What Slurm says of the cards that a step has («Generic Resource (GRES) Scheduling»)."""
NO_CARD = ("", "-1", "NoDevFiles")

SILENCE_S = 1800
"""How long a rank waits for the others: rank 0 alone writes checkpoints and exports the model."""


@dataclass(frozen=True)
class Group:
    """All ranks of the run. Every method must be called by all of them, in the same order."""

    rank: int
    world: int
    process_group: Any = None
    """torch's; None is the one of all ranks."""

    def apart(self) -> Group:
        """The same ranks with connections of their own, for another thread."""
        if self.world == 1:
            return self
        return Group(self.rank, self.world, dist.new_group(backend="gloo", timeout=timedelta(seconds=SILENCE_S)))

    def any(self, flag: bool) -> bool:
        """Whether it is true on some rank; the same answer on all."""
        if self.world == 1:
            return flag
        return bool(self.sum(torch.tensor([int(flag)])).item())

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Sum over all ranks of a tensor on the CPU."""
        if self.world > 1:
            dist.all_reduce(values, group=self.process_group)
        return values

    def largest(self, values: torch.Tensor) -> torch.Tensor:
        """The largest value over all ranks in each place of a tensor on the CPU."""
        if self.world > 1:
            dist.all_reduce(values, dist.ReduceOp.MAX, group=self.process_group)
        return values

    def largest_later(self, values: torch.Tensor) -> dist.Work:
        """The same while this rank goes on: the values are there when what is returned has been waited for."""
        return dist.all_reduce(values, dist.ReduceOp.MAX, group=self.process_group, async_op=True)

    def first(self, number: int) -> int:
        """Rank 0's number, on all ranks."""
        return int(self.sum(torch.tensor([number if self.rank == 0 else 0])).item())

    def gather(self, value: T) -> list[T]:
        """Every rank's value, in order of rank, on all ranks."""
        values: list[Any] = [value]
        if self.world > 1:
            values = [None] * self.world
            dist.all_gather_object(values, value, group=self.process_group)
        return values

    def together(self, action: Callable[[], T]) -> list[T]:
        """Do something that may fail on one rank; if it does, fail on all of them instead of hanging.

        Returns every rank's result. Raises OSError on all ranks, naming those that failed.
        """
        value: T | None = None
        error = None
        try:
            value = action()
        except OSError as e:
            error = str(e)
        answers = self.gather((value, error))
        failed = [f"rank {r}: {said}" for r, (_, said) in enumerate(answers) if said is not None]
        if failed:
            raise OSError("; ".join(failed))
        return [answer for answer, _ in answers]  # type: ignore[misc]

    def wait(self) -> None:
        """Return when all ranks are here."""
        self.first(0)


def join(rank: Rank, backend: str, meeting_s: float = MEETING_S) -> Group:
    """Meet the other ranks.

    Raises RendezvousError when they are not all there within `meeting_s`.
    """
    if rank.world > 1:
        host, port = rank.master
        patience = timedelta(seconds=meeting_s)
        try:
            store = dist.TCPStore(host, port, rank.world, rank.first, patience)  # type: ignore[attr-defined]
            dist.init_process_group(
                # Tensors on the CPU go over gloo in any case.
                "cpu:gloo,cuda:nccl" if backend == "nccl" else backend,
                store=store,
                rank=rank.number,
                world_size=rank.world,
                timeout=timedelta(seconds=SILENCE_S),
            )
            Group(rank.number, rank.world).wait()
        except RuntimeError as e:
            raise RendezvousError(
                f"rank {rank.number} of {rank.world} did not meet the others at {host}:{port}: {e}"
            ) from e
    return Group(rank.number, rank.world)


def leave() -> None:
    """Close the connections."""
    if dist.is_initialized():
        dist.destroy_process_group()


def device(kind: str, rank: Rank) -> torch.device:
    """Where this rank computes: the CPU, its own card, or the only card it can see."""
    if kind == "cpu":
        return torch.device("cpu")
    visible = torch.cuda.device_count()
    if not visible:
        what = "accelerator.device is cuda, but torch sees no card"
        if given := _given():
            raise CardLost(f"{what}, and Slurm gave one ({given}): its driver, or accelerator.container_flag")
        do = "choose a container whose torch is built for this accelerator, or accelerator=none"
        raise UserError(what, f"rank {rank.number}, torch {torch.__version__}", do)
    index = 0 if visible == 1 else rank.local
    if index >= visible:
        raise UserError(
            f"local rank {rank.local} has no card of its own: torch sees {visible}",
            "machine.ranks_per_node",
            f"lower it to {visible}, or ask for more with accelerator.count",
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def _given() -> str:
    """What Slurm gave a rank whose torch could drive it; empty where it gave none, or this torch is for others."""
    there = {name: value for name in GIVEN if (value := os.environ.get(name, "").strip()) not in NO_CARD}
    fits = torch.backends.cuda.is_built() and (bool(torch.version.hip) or "ROCR_VISIBLE_DEVICES" not in there)
    return next((f"{name}={value}" for name, value in there.items() if fits and "SLURM_JOB_ID" in os.environ), "")
