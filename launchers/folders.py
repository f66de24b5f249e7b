"""Where our own files stand, and where a folder is that a site file names."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).parents[1]
"""Holds conf/, trainer/ and containers/, in a checkout and in an installed wheel alike."""
RECIPES = ROOT / "containers"


def short(path: Path) -> str:
    """Relative to where the user stands, when it is below; else whole."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def folder_of(name: str) -> Path:
    """A path that a site file names, absolute; a relative one is below where the command was given."""
    return Path(name).expanduser().absolute()


def config_dirs() -> list[Path]:
    """The user's folders of groups and options that FAIRLEAD_CONFIG_DIR names."""
    return [Path(name) for name in os.environ.get("FAIRLEAD_CONFIG_DIR", "").split(":") if name]
