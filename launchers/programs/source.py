"""What can be installed for a job: a folder that describes a project, a wheel, a source distribution, and wheelhouses.

Files are read, never changed: building writes into a source, and so it is done in a copy.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

from launchers.folders import ROOT
from launchers.programs.words import OURS
from launchers.run_folder import snapshot

DISTRIBUTIONS = (".whl", ".tar.gz", ".zip", ".tar.bz2")
"""File names that pip takes for a wheel or a source distribution."""
MADE = re.compile(r"__pycache__|build|dist|.*\.egg-info|\..*|venv|node_modules")
"""Folders that are made from a project, and none of its sources; where git does not say so."""


def path_of(source: str) -> Path:
    """Where a `job.source` is: one that comes with Fairlead, or a path of the user's."""
    return ROOT / source.removeprefix(OURS) if source.startswith(OURS) else Path(source).expanduser().absolute()


def why_none(path: Path) -> str:
    """Why a path is no source; empty where it is one."""
    try:
        if path.is_dir():
            described = any((path / name).is_file() for name in ("pyproject.toml", "setup.py"))
            return "" if described else "a folder with neither pyproject.toml nor setup.py"
        if not path.is_file():
            return "and there is no such file or folder"
        return "" if path.name.endswith(DISTRIBUTIONS) else "which is no wheel and no source distribution"
    except OSError as e:
        return f"which cannot be read: {e.strerror}"


def wheels(folder: Path) -> list[Path]:
    """What pip finds in a wheelhouse; nothing in what is no folder."""
    try:
        return sorted(path for path in folder.iterdir() if path.name.endswith(DISTRIBUTIONS) and path.is_file())
    except OSError:
        return []


def name_of(path: Path) -> str:
    """A short name for folders and messages: the project's as its pyproject.toml says it, or the file's."""
    name = path.resolve().name
    if path.is_dir():
        try:
            said = tomllib.loads((path / "pyproject.toml").read_text(encoding="utf-8"))["project"]["name"]
            name = said if isinstance(said, str) else name
        except (OSError, ValueError, KeyError, TypeError):
            pass  # an older kind of project; pip says it where the file is broken
    else:
        name = name.partition("-")[0]
    return re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-.")[:40] or "source"


def digest_of(paths: Iterable[tuple[str, Path]]) -> str:
    """sha256 over names and contents."""
    whole = hashlib.sha256()
    for name, path in sorted(paths):
        with path.open("rb") as f:
            content = hashlib.file_digest(f, "sha256").hexdigest()
        whole.update(f"{content} {path.stat().st_mode & 0o100:o} {name}\0".encode("utf-8", "surrogateescape"))
    return f"sha256:{whole.hexdigest()}"


def files_of(path: Path) -> list[tuple[str, Path]]:
    """A source's files, by their names in it: what git knows of a folder and no .gitignore hides, or where there is no
    git all but what MADE names."""
    if path.is_file():
        return [(path.name, path)]
    known = snapshot.tracked(path)
    names = _all_files(path) if known is None else known
    return [(name, path / name) for name in names]


def _all_files(folder: Path) -> Iterator[str]:
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not MADE.fullmatch(name)]
        here = Path(root)
        yield from (str((here / name).relative_to(folder)) for name in files if (here / name).is_file())


def copy_to(path: Path, target: Path) -> Path:
    """A copy of a source in a folder that is not there yet; what to hand to pip."""
    target.mkdir()
    for name, file in files_of(path):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, target / name)
    return target / path.name if path.is_file() else target
