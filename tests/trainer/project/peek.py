"""A user's own optimizer that says once how torch's DistributedDataParallel treats the gradients it is given."""

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
