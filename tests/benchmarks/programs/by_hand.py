"""The loop that a careful person writes in an afternoon: plain PyTorch, and nothing that this run does not need."""

from __future__ import annotations

import contextlib
import os

import torch
import torch.distributed as dist
from given import Given, Stamps, given, kept, loss_of
from torch.nn.parallel import DistributedDataParallel


def main() -> None:
    having = given()
    if having.device.type == "cuda":
        torch.cuda.set_device(having.device)
    if having.world > 1:
        dist.init_process_group("cpu:gloo,cuda:nccl" if having.device.type == "cuda" else "gloo")
    train(having)
    if having.rank == 0:
        torch.save(having.model.state_dict(), kept())
    if having.world > 1:
        dist.destroy_process_group()


def train(having: Given) -> None:
    """All steps."""
    inputs, targets = having.inputs.to(having.device), having.targets.to(having.device)
    model = having.model.to(having.device)
    optimizer = having.optimizer(model)
    rates = [group["lr"] for group in optimizer.param_groups]
    if having.world > 1:
        ids = [having.device.index] if having.device.type == "cuda" else None
        model = DistributedDataParallel(model, device_ids=ids, gradient_as_bucket_view=True)
    narrow = (
        torch.autocast(having.device.type, dtype=torch.bfloat16)
        if having.precision == "bf16"
        else contextlib.nullcontext()
    )
    batch, per_epoch = having.spec.train.batch_size, len(inputs) // having.spec.train.batch_size
    dice = torch.Generator().manual_seed(having.spec.seed)
    stamps = Stamps(having)
    for step in range(having.steps):
        if step % per_epoch == 0:
            order = torch.randperm(len(inputs), generator=dice).to(having.device)
        begin = step % per_epoch * batch + having.rank * having.micro_size
        chosen = order[begin : begin + having.micro_size]
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * having.factor(step)
        with narrow:
            loss = loss_of(model(inputs[chosen]), targets[chosen])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        stamps.add(loss)


if __name__ == "__main__":
    main()
    os._exit(0)  # as ours: nothing is left to do
