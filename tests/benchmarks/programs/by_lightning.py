"""The same training with PyTorch Lightning, in the mode that it has for measuring itself: `barebones`, which leaves out
logger, checkpoints, progress bar and summary.

https://lightning.ai/docs/pytorch/stable/common/trainer.html
"""

from __future__ import annotations

import os
from typing import Any

import pytorch_lightning as lightning
import torch
from given import Given, Stamps, given, kept, loss_of
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor


class Module(lightning.LightningModule):
    """Automatic optimization, one schedule step after each."""

    def __init__(self, having: Given) -> None:
        super().__init__()
        self.having, self.model, self.stamps = having, having.model, Stamps(having)

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        return loss_of(self.model(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        optimizer = self.having.optimizer(self.model)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self.having.factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_batch_end(self, outputs: Any, batch: Any, index: int) -> None:
        self.stamps.add(outputs["loss"])


def main() -> None:
    having = given()
    cuda = having.device.type == "cuda"
    trainer = lightning.Trainer(
        accelerator="gpu" if cuda else "cpu",
        devices=having.world,
        strategy=DDPStrategy(gradient_as_bucket_view=True) if having.world > 1 else "auto",
        precision="bf16-mixed" if having.precision == "bf16" else "32-true",
        max_steps=having.steps,
        max_epochs=-1,
        limit_val_batches=0,
        barebones=True,
    )
    trainer.fit(Module(having), having.loader())
    if having.rank == 0:
        torch.save(having.model.state_dict(), kept())


if __name__ == "__main__":
    main()
    os._exit(0)  # as ours: nothing is left to do
