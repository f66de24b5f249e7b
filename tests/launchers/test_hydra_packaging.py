"""The plugin where Hydra looks for it: in the wheel, in an editable install, and at next to no cost for others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.launchers.hydra_apps import BOTH, Application, make

SCAN = """
import json, sys, time
from hydra.core.plugins import Plugins
stats = Plugins.instance().get_stats()
ours = {n: s for n, s in stats.modules_import_time.items() if "fairlead" in n}
from hydra.core.config_store import ConfigStore
import hydra_plugins
groups = ConfigStore.instance().repo["hydra"]
print(json.dumps({"ours": ours, "all": sorted(stats.modules_import_time), "loaded": sorted(sys.modules),
                  "registered": ["fairlead.yaml" in groups[g] for g in ("launcher", "sweeper")],
                  "path": list(hydra_plugins.__path__)}))
"""
BUILD = "import sys; from hatchling.build import {0}; print({0}(sys.argv[1]))"


def _built(kind: str, folder: Path) -> zipfile.ZipFile:
    argv = [sys.executable, "-W", "ignore", "-c", BUILD.format(kind), str(folder)]
    said = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120).stdout
    return zipfile.ZipFile(folder / said.split()[-1])


def _new_environment(folder: Path) -> str:
    """An interpreter that has what Fairlead needs, and no Fairlead."""
    venv.create(folder, symlinks=True)
    site = next(folder.glob("lib/python*/site-packages"))
    (site / "needed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return str(folder / "bin" / "python")


def _scanned(path: str) -> dict[str, object]:
    env = {**os.environ, "PYTHONPATH": path}
    said = subprocess.run([sys.executable, "-c", SCAN], env=env, capture_output=True, text=True, check=True, cwd="/")
    assert not said.stderr
    document: dict[str, object] = json.loads(said.stdout)
    return document


def test_plugin_of_a_wheel_is_found_and_runs(tmp_path: Path, workdir: Path) -> None:
    wheel, python = _built("build_wheel", tmp_path), _new_environment(tmp_path / "venv")
    names = wheel.namelist()
    wheel.extractall(next(tmp_path.glob("venv/lib/python*/site-packages")))

    assert "hydra_plugins/fairlead_plugin/launcher.py" in names
    assert "hydra_plugins/__init__.py" not in names, "a namespace package, which other plugins share"
    assert "launchers/plugin/hydra_plugins/fairlead_plugin/_returned.py" in names, "members find it in the snapshot"
    installed = Application(make(workdir / "project").folder, path="", python=python)
    installed(*BOTH, "x=1,2")
    assert installed.seen(1)[0] == "1"


def test_plugin_of_an_editable_install_is_on_the_path(tmp_path: Path) -> None:
    wheel = _built("build_editable", tmp_path)
    (pth,) = (name for name in wheel.namelist() if name.endswith(".pth"))
    folders = wheel.read(pth).decode().split()

    found = _scanned(":".join(folders))

    assert found["registered"] == [True, True]
    assert str(ROOT / "launchers" / "plugin" / "hydra_plugins") in found["path"]


def test_plugin_costs_other_applications_little(workdir: Path) -> None:
    found = _scanned(str(ROOT / "launchers" / "plugin"))

    assert found["registered"] == [True, True]
    assert not [n for n in found["all"] if n.rpartition(".")[2].startswith("_")]
    assert not {"launchers", "conf", "trainer", "submitit", "pydantic", "optuna"} & set(found["loaded"])
    assert sum(found["ours"].values()) < 0.1


@pytest.mark.parametrize("twice", [False, True])
def test_plugin_found_twice_is_one_plugin(twice: bool, tmp_path: Path) -> None:
    """In a member, whose path has the snapshot's in front of what is installed."""
    own, other = str(ROOT / "launchers" / "plugin"), tmp_path / "hydra_plugins"
    if twice:
        other.symlink_to(ROOT / "launchers" / "plugin" / "hydra_plugins")

    found = _scanned(f"{own}:{tmp_path}")

    assert len(found["ours"]) == 4 and found["registered"] == [True, True]
