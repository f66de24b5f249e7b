"""The same training with Hugging Face Accelerate, as its quick tour has it.

https://huggingface.co/docs/accelerate/quicktour
"""

from __future__ import annotations

import os

import torch
from accelerate import Accelerator, DataLoaderConfiguration, DistributedDataParallelKwargs
from given import Given, Stamps, given, kept, loss_of


def main() -> None:
    having = given()
    accelerator = Accelerator(
        cpu=having.device.type == "cpu",
        mixed_precision="bf16" if having.precision == "bf16" else "no",
        # Each rank steps the schedule once a step.
        step_scheduler_with_optimizer=False,
        dataloader_config=DataLoaderConfiguration(non_blocking=True),
        kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
    )
    train(having, accelerator)
    if having.rank == 0:
        torch.save(having.model.state_dict(), kept())
    accelerator.end_training()


def train(having: Given, accelerator: Accelerator) -> None:
    """All steps."""
    optimizer = having.optimizer(having.model)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, having.factor)
    model, optimizer, loader, schedule = accelerator.prepare(having.model, optimizer, having.loader(), schedule)
    stamps = Stamps(having)
    while stamps.step < having.steps:
        for inputs, targets in loader:
            loss = loss_of(model(inputs), targets)
            accelerator.backward(loss)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            stamps.add(loss)
            if stamps.step == having.steps:
                break


if __name__ == "__main__":
    main()
    os._exit(0)  # as ours: nothing is left to do
