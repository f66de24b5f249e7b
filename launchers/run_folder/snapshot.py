"""The code a run executes, copied when it is launched: Fairlead's own and the project's, uncommitted edits
included, so that nothing edited while a job waits can change it.

`code/fairlead` holds our packages; `code/project` what git knows of the folder the command was given in
(tracked files as they are now, those of submodules too, and new ones that no .gitignore hides).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from launchers.errors import SiteError
from launchers.folders import ROOT
from sweeps.names import nearest

PACKAGES = ("conf", "launchers", "sweeps", "trainer")
OURS = (*PACKAGES, "containers", "tests", "CHANGELOG.md", "Makefile", "README.md", "constraints.txt", "pyproject.toml")
"""In Fairlead's own repository, beside hidden files. Who works in a clone of it may put his own project beside them."""
SCRIPTS = (".py", ".sh", ".R", ".r", ".jl", ".pl", ".lua", ".m")
YAML = (".yaml", ".yml")
HYDRA_WROTE = "multirun.yaml"
"""Stands in a folder of outputs."""
MAX_FILE_MB, MAX_TOTAL_MB = 10, 200


@dataclass(frozen=True)
class Snapshot:
    """What was copied, for the provenance."""

    project: str | None
    """Folder the project was taken from; None when there was none."""
    files: int
    skipped: tuple[str, ...]
    """Files of the project left out because they are larger than MAX_FILE_MB."""


def take(code: Path, cwd: Path, outputs: Sequence[Path] = ()) -> Snapshot:
    """Copy into the folder `code`, which must not exist yet. What lies below `outputs` (runs, images) is no code.

    Raises SiteError when the project's files are more than MAX_TOTAL_MB together.
    """
    take_ours(code)
    project = code / "project"
    project.mkdir(parents=True)
    root = _root_of(cwd)
    if root:
        (project / cwd.resolve().relative_to(root)).mkdir(parents=True, exist_ok=True)
    found = list(_project_files(root)) if root else list(_plain_files(cwd))
    base = root or cwd
    found = [name for name in found if not any((base / name).is_relative_to(folder) for folder in outputs)]
    files, skipped = _within_limits(base, found)
    for name in files:
        target = project / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(base / name, target)  # the content, also of a link: its target may change while a job waits
    return Snapshot(str(base) if files else None, len(files), tuple(skipped))


def take_ours(code: Path) -> None:
    """Our packages alone."""
    for package in PACKAGES:
        shutil.copytree(
            ROOT / package, code / "fairlead" / package, ignore=shutil.ignore_patterns("__pycache__", "*.pyc")
        )


def below(cwd: Path) -> str:
    """Where in `code/project` the folder is that `take` was given: a program that is started there finds its files."""
    root = _root_of(cwd)
    return "" if root is None else str(cwd.resolve().relative_to(root))


def holds(cwd: Path, file: Path) -> bool:
    """Whether a snapshot that is taken in `cwd` will have a file."""
    root, file = _root_of(cwd), file.resolve()
    base = root or cwd.resolve()
    names = (_project_files(root) if root else _plain_files(base)) if file.is_relative_to(base) else ()
    return any((base / name).resolve() == file for name in names)


def names(cwd: Path) -> frozenset[str]:
    """The files that a snapshot which is taken in `cwd` will have there and below, by their paths from `cwd`."""
    root, here = _root_of(cwd), cwd.resolve()
    found = ((root or here) / name for name in (_project_files(root) if root else _plain_files(here)))
    return frozenset(os.path.relpath(path, here) for path in found)


def why_not_frozen(script: str, cwd: Path) -> tuple[str, str] | None:
    """Why a script, named by its path from `cwd`, will not be in a snapshot that is taken there, and what to do; None
    when it will be."""
    frozen = names(cwd)
    if os.path.normpath(script) in frozen:
        return None
    if (cwd / script).is_file():
        do = "take it out of .gitignore; outside a git repository: put it into the folder you launch in"
        return "is there, but not among the files that are frozen with the job", do
    known = [name for name in sorted(frozen) if name.endswith(Path(script).suffix or ".py")]
    do = nearest(script, known) if known else "there is no such file here: launch in your project's folder"
    why = "is a folder" if (cwd / script).is_dir() else "is not among the files that are frozen with the job"
    return why, do


def beside(cwd: Path) -> tuple[str, ...]:
    """Files that stand in `cwd`, no repository, and that a snapshot does not take; hidden ones are not meant."""
    if _root_of(cwd) is not None:
        return ()
    taken = set(_plain_files(cwd))
    files = (p.name for p in cwd.iterdir() if not p.name.startswith(".") and p.is_file())
    return tuple(sorted(name for name in files if name not in taken))


def roots(cwd: Path) -> tuple[Path, ...]:
    """Where a program that is started in a snapshot of `cwd` looks for modules: the same folders, as they are here."""
    root = _root_of(cwd)
    return tuple(dict.fromkeys((cwd.resolve(), (root or cwd).resolve())))


def tracked(folder: Path) -> list[str] | None:
    """What git knows of a folder and no .gitignore hides, by paths from it; None where it is in no repository."""
    root, here = _root_of(folder), folder.resolve()
    if root is None:
        return None
    found = (root.resolve() / name for name in _git_files(root))
    return [str(path.relative_to(here)) for path in found if path.is_relative_to(here)]


def git(folder: Path, *arguments: str, timeout_s: float = 60) -> str | None:
    """Output of a git command in a folder, or None where git or a repository is not there."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            timeout=timeout_s,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode("utf-8", "surrogateescape") if done.returncode == 0 else None


def _root_of(cwd: Path) -> Path | None:
    top = git(cwd, "rev-parse", "--show-toplevel")
    return Path(top.rstrip("\n")) if top else None


def _git_files(root: Path) -> Iterable[str]:
    """Tracked, also in submodules that are there, and new ones that no .gitignore hides."""
    listed = git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard") or ""
    if (root / ".gitmodules").is_file():  # git ls-files(1): into submodules only for what is tracked
        listed += git(root, "ls-files", "-z", "--cached", "--recurse-submodules") or ""
    return (name for name in dict.fromkeys(listed.split("\0")) if name and (root / name).is_file())


def _project_files(root: Path) -> Iterable[str]:
    """What git knows of a project; of Fairlead's own repository what its user put beside it."""
    return (name for name in _git_files(root) if root != ROOT or not _is_ours(name))


def _is_ours(name: str) -> bool:
    first = name.partition("/")[0]
    return first in OURS or first.startswith(".")


def _plain_files(cwd: Path) -> Iterable[str]:
    """Without git: the Python files here and in packages directly below, scripts and YAML here, and folders of YAML
    directly below. A home folder is not walked."""
    packages = [p.parent for p in cwd.glob("*/__init__.py")]
    for folder in packages:
        yield from (str(p.relative_to(cwd)) for p in folder.rglob("*.py"))
    for folder in {p.parent for p in cwd.glob("[!.]*/*.y*ml") if p.suffix in YAML and p.name != HYDRA_WROTE}:
        yield from (str(p.relative_to(cwd)) for p in folder.rglob("*.y*ml") if p.suffix in YAML and p.is_file())
    yield from (p.name for p in cwd.iterdir() if p.suffix in (*SCRIPTS, *YAML) and p.is_file())


def _within_limits(base: Path, names: Iterable[str]) -> tuple[list[str], list[str]]:
    files, skipped, total = [], [], 0
    for name in names:
        size = (base / name).stat().st_size
        if size > MAX_FILE_MB * 10**6:
            skipped.append(name)
            continue
        total += size
        files.append(name)
    if total > MAX_TOTAL_MB * 10**6:
        do = "add what is not code to .gitignore (data belongs into a data source); without a submodule: git submodule"
        do += " deinit PATH"
        what = f"the project's files are {total / 1e6:.0f} MB, more than the {MAX_TOTAL_MB} MB a snapshot takes"
        raise SiteError(what, where=str(base), do=do)
    return files, skipped
