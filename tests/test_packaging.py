"""What the lock file pins can be installed where pyproject.toml says that it can; and what our scripts say."""

from __future__ import annotations

import importlib.metadata
import itertools
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
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


@pytest.mark.parametrize("script", ["tests/run", "tests/benchmarks/run", "tests/chaos/run"])
@pytest.mark.parametrize("word", ["--help", "-h"])
def test_help_of_a_script_is_the_comment_at_its_top_and_begins_nothing(script: str, word: str, tmp_path: Path) -> None:
    lines = (ROOT / script).read_text(encoding="utf-8").splitlines()[1:]
    comment = [line[2:] for line in itertools.takewhile(lambda line: line.startswith("# "), lines)]
    for name in ("bash", "sed"):  # all that there is on PATH
        (tmp_path / name).symlink_to(str(shutil.which(name)))

    argv, env = [str(ROOT / script), word], {"PATH": str(tmp_path)}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=20, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    assert len(comment) >= 2 and done.stdout.splitlines() == comment
