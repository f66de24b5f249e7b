"""What a component takes, gives and needs: read from trainer/<folder>/<kind>.py as a description.

The one place where the login node reads files of the trainer's: these import nothing heavy at their top (a test
holds them to it). The rules over what is said there are trainer_rules.py's.
"""

from __future__ import annotations

import functools
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from conf.document import from_document
from conf.schema import Component

FOLDERS = {"data": "sources", "engine": "engines", "model": "models", "optimizer": "optimizers"}
"""Configuration section -> folder below trainer/."""


def kinds(section: str, root: Path) -> list[str]:
    """Names that `kind` may have in a section."""
    folder = root / "trainer" / FOLDERS[section]
    return sorted(p.stem for p in folder.glob("*.py") if p.stem != "__init__")


def options_of(section: str, kind: str, root: Path) -> type:
    """The Options dataclass of a kind that `kinds` lists."""
    options: type = _description(root / "trainer" / FOLDERS[section] / f"{kind}.py").Options
    return options


def preview(data: Component, root: Path) -> Any:
    """The trainer.sources.Preview of data; None where their source has none, or is the user's own."""
    module = _of_kind("data", data.kind, root)
    tell = getattr(module, "preview", None)
    return tell(from_document(module.Options, data.options)) if module is not None and tell is not None else None


def takes(kind: str, root: Path) -> tuple[str, ...] | None:
    """The forms of samples that a kind of model can take; None where it does not say."""
    return getattr(_of_kind("model", kind, root), "TAKES", None)


def has_blocks(kind: str, root: Path) -> bool | None:
    """Whether a kind of model is made of blocks (trainer/parallel/units.py); None of a user's own."""
    module = _of_kind("model", kind, root)
    return None if module is None else bool(getattr(module, "HAS_BLOCKS", False))


@functools.cache
def measured(root: Path, task: str | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Metrics of our trainer in a task, in any where it is None: those an objective may name, and those beside."""
    score = _description(root / "trainer" / "score.py")
    names = score.METRICS[task] if task else dict.fromkeys(name for those in score.METRICS.values() for name in those)
    return tuple(names), score.BESIDE


@functools.cache
def _of_kind(section: str, kind: str, root: Path) -> ModuleType | None:
    """Looked up once: a grid asks for each of its members."""
    known = kind in kinds(section, root)
    return _description(root / "trainer" / FOLDERS[section] / f"{kind}.py") if known else None


@functools.cache
def _description(path: Path) -> ModuleType:
    """A file of the trainer's as a module of its own name, so that it is nobody's import."""
    name = f"_fairlead_described.{path.parent.name}.{path.stem}"
    found = importlib.util.spec_from_file_location(name, path)
    if found is None or found.loader is None:
        raise ImportError(f"{path} cannot be read as Python")
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    found.loader.exec_module(module)
    return module
