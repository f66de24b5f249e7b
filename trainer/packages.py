"""Which package does a part of the trainer need beyond those that every run needs? Imported when it is used."""

from __future__ import annotations

import importlib
from typing import Any

from trainer.failure import UserError


def needed(module: str, package: str, where: str, extra: str = "train") -> Any:
    """The module. Raises UserError, naming the package and our extra that brings it, where it is not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as e:
        if e.name is None or not f"{module}.".startswith(f"{e.name}."):
            raise
        what = f"{where} needs the Python package {package}, which is not installed where the trainer runs"
        ours = f"without a container: pip install 'fairlead[{extra}]'"
        do = f"{ours}; in one: add it to the image's lock file and rebuild it"
        raise UserError(what, where, do) from None
