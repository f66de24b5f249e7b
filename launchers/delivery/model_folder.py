"""What a program left in its model folder, as one model of the tracking store: its files as they are.

A folder that MLflow saved (with a file MLmodel) can be loaded from there as such; any other can be downloaded. Nothing
in it is opened but to be copied: no pickle is loaded. Links that lead out of the folder are left out.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

GB = 10**9
SAVED = "MLmodel"


@dataclass(frozen=True)
class ModelFolder:
    """The files of a model."""

    path: Path

    @cached_property
    def root(self) -> Path:
        """The folder that MLflow saved, where that is all there is; else the folder itself."""
        there = [p for p in self.path.iterdir() if not p.name.startswith(".")] if self.path.is_dir() else []
        if len(there) == 1 and (there[0] / SAVED).is_file() and not there[0].is_symlink():
            return there[0]
        return self.path

    @cached_property
    def files(self) -> Mapping[str, Path]:
        """Name below the root -> file."""
        return dict(sorted(_files(self.root)))

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(path.stat().st_size for path in self.files.values())

    @cached_property
    def sha256(self) -> str:
        """Of all names and contents."""
        whole = hashlib.sha256()
        for name, path in self.files.items():
            with path.open("rb") as f:
                digest = hashlib.file_digest(f, "sha256").hexdigest()
            whole.update(f"{digest}  {name}\n".encode("utf-8", "surrogateescape"))
        return "sha256:" + whole.hexdigest()

    def too_large(self, most_gb: float) -> str:
        """Why it is not uploaded; empty where it is."""
        if self.size <= most_gb * GB:
            return ""
        return f"{self.root} has {self.size / GB:.3g} GB, and tracking.model_gb is {most_gb:g}"

    def link_into(self, folder: Path) -> None:
        """The files as links, for what copies a whole folder."""
        for name, path in self.files.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(path)


def _files(root: Path) -> Iterator[tuple[str, Path]]:
    home = root.resolve()
    for place, _, names in os.walk(root):
        for name in names:
            whole = Path(place, name).resolve()
            if whole.is_file() and whole.is_relative_to(home):
                yield Path(place, name).relative_to(root).as_posix(), whole
