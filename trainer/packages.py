"""Which package does a part of the trainer need beyond those that every run needs? Imported when it is used."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

from trainer.failure import UserError


def needed(module: str, package: str, where: str, extra: str = "train") -> Any:
    """The module. Raises UserError, naming the package and our extra that brings it, where it is not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as e:
        if e.name is None or not f"{module}.".startswith(f"{e.name}."):
            raise
        raise _missing(package, where, extra) from None


def folder_of(module: str, package: str, where: str) -> Path:
    """Where a package lies, which is not imported. Raises UserError like `needed`."""
    found = importlib.util.find_spec(module)
    if found is None or found.origin is None:
        raise _missing(package, where)
    return Path(found.origin).parent


def _missing(package: str, where: str, extra: str = "train") -> UserError:
    what = f"{where} needs the Python package {package}, which is not installed where the trainer runs"
    ours = f"without a container: pip install 'fairlead[{extra}]'"
    do = f"{ours}; in one: add it to the image's lock file and rebuild it"
    return UserError(what, where, do)
