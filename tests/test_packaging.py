"""What the lock file pins can be installed where pyproject.toml says that it can."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path

from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_pinned_versions_allow_the_oldest_python() -> None:
    """pip does not say so, but goes through older versions of everything else for hours (Debian 12 has 3.11.2)."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    oldest = project["requires-python"].removeprefix(">=") + ".0"
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {_normal(line.split("==")[0]) for line in lines if "==" in line and not line.startswith("#")}

    installed = [each for each in importlib.metadata.distributions() if _normal(each.name) in pinned]
    wanted = {each.name: SpecifierSet(each.metadata.get("Requires-Python") or "") for each in installed}

    assert len(installed) > 100
    assert {name: str(versions) for name, versions in wanted.items() if oldest not in versions} == {}
