"""A user's own optimizers that say once what they are given: gradients as torch's DistributedDataParallel treats them,
and parameters as engine fsdp cuts them."""

from __future__ import annotations

from typing import Any

import torch

from trainer.engines.ddp import KEPT


class AdamW(torch.optim.AdamW):
    said = False

    def step(self, closure: Any = None) -> Any:
        if not self.said:
            grads = [p.grad for group in self.param_groups for p in group["params"]]
            shared = all(grad.untyped_storage().nbytes() > grad.nbytes for grad in grads)
            told = KEPT[-1]._get_ddp_logging_data()
            print(f"gradients lie in parcels: {shared}, static graph: {bool(told.get('static_graph'))}", flush=True)
            self.said = True
        return super().step(closure)


class Pieces(torch.optim.AdamW):
    """Says over which ranks parameters are cut, and how."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, lr=lr)
        cut = {
            f"pieces {p.device_mesh.mesh_dim_names} {tuple(p.device_mesh.shape)} {p.placements}"
            for group in self.param_groups
            for p in group["params"]
        }
        print(*cut, sep="\n", flush=True)
