"""For which cards is an image made? Its environment says so, where its makers have it say so.

The images of nvidia/cuda set CUDA_VERSION, NVIDIA_REQUIRE_CUDA and NVIDIA_VISIBLE_DEVICES, and what is made from them
has them (NVIDIA Container Toolkit, «Environment Variables (OCI Spec)»); PyTorch's own on Docker Hub set the last; AMD's
set ROCM_PATH. An image that says nothing may be for any cards, or for none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from launchers.command import output_of

SAYS = {
    "cuda": ("CUDA_VERSION", "NVIDIA_REQUIRE_CUDA", "NVIDIA_VISIBLE_DEVICES"),
    "rocm": ("ROCM_PATH", "ROCM_VERSION"),
}
NO_CARDS = ("", "none", "void")
"""Values by which NVIDIA_VISIBLE_DEVICES asks for no card."""
EXPORT = re.compile(r'^\s*export\s+(\w+)=(?:"\$\{\1:-)?"?([^"}\s]*)', re.MULTILINE)
"""As Apptainer writes down the environment of an image that it pulls, and as a recipe's %environment has it."""
ASK_S = 120


@dataclass(frozen=True)
class Cards:
    """What an image says of the cards it is for."""

    kind: str
    """As accelerator.kind."""
    said_by: tuple[str, ...]
    """Names of the variables that say so."""


def cards_of(environment: Mapping[str, str]) -> Cards | None:
    """What an image's environment says; None where it says nothing."""
    for kind, names in SAYS.items():
        if said_by := tuple(name for name in names if environment.get(name, "") not in NO_CARDS):
            return Cards(kind, said_by)
    return None


def cards_of_sif(image: Path, apptainer: str) -> Cards | None:
    """As cards_of, of an image file, of which no program is started. Raises CommandError where it cannot be read."""
    return cards_of(
        dict(EXPORT.findall(output_of([apptainer, "inspect", "--environment", str(image)], timeout_s=ASK_S)))
    )
