"""Which matrix products are computed in 8 bits, and where can they be?

Weights stay in fp32 and everything else is computed in bf16; inputs, weights and gradients of linear layers are scaled
tensor by tensor and multiplied in fp8 (Micikevicius et al. 2022, arXiv:2209.05433), by torchao's Float8Linear
(https://docs.pytorch.org/ao/stable/api_reference/api_ref_float8.html). It pays for wide layers under train.compile.
Not yet run on a card: none was to be had; the same arithmetic runs in the tests on a CPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainer.failure import UserError
from trainer.packages import needed

if TYPE_CHECKING:
    import torch
    from torch import nn

MULTIPLE = 16
"""What both sides of a matrix must be a multiple of (torch._scaled_mm)."""
FIRST_NVIDIA = (8, 9)
"""Ada; Hopper is 9.0."""
AMD = ("gfx94", "gfx95")
"""CDNA 3 and 4."""


def must_be_there(device: torch.device) -> None:
    """Raises UserError for a device that does not multiply in fp8."""
    import torch

    if device.type != "cuda":
        what = f"a {device.type.upper()} cannot compute in fp8"
    elif torch.version.hip:
        chip = torch.cuda.get_device_properties(device).gcnArchName
        what = "" if chip.startswith(AMD) else f"a card with {chip} cannot compute in fp8, {' or '.join(AMD)} can"
    else:
        has = torch.cuda.get_device_capability(device)
        what = "" if has >= FIRST_NVIDIA else f"a card of compute capability {has} cannot compute in fp8, (8, 9) can"
    if what:
        raise UserError(what, "train.precision", "choose bf16, or a card such as accelerator=h100")


def converted(model: nn.Module) -> nn.Module:
    """The same model, in place, with linear layers that multiply in fp8; its parameters keep their names.

    Raises UserError without torchao, and for a model that has no such layer.
    """
    chosen = layers(model)
    if not chosen:
        what = f"train.precision is fp8, and no linear layer of {type(model).__name__} can be computed so"
        do = f"choose bf16, or a model with widths that are multiples of {MULTIPLE} (the last layer stays as it is)"
        raise UserError(what, "train.precision", do)
    torchao = needed("torchao.float8", "torchao", "train.precision=fp8", "fp8")
    done: nn.Module = torchao.convert_to_float8_training(model, module_filter_fn=lambda _, name: name in chosen)
    return done


def layers(model: nn.Module) -> list[str]:
    """Linear layers whose sides fit, but for the last: it gives the scores, which are sensitive."""
    from torch import nn

    linear = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    return [
        name for name, module in linear[:-1] if not module.in_features % MULTIPLE and not module.out_features % MULTIPLE
    ]
