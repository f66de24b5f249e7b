"""A store of images of one small recipe, and an `apptainer build` that writes files alone."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conf import machine_schema, schema
from launchers.apptainer import image, image_build
from tests.conftest import ROOT, Fakes

BUILD = schema.ImageBuild(bootstrap="localimage", base="/bases/debian 12, slim", options=("--fakeroot",))
RECIPE = """\
Bootstrap: {{ BOOTSTRAP }}
From: {{ BASE }}
%files
    "{{ WHEELS }}" /wheels
"""
# What `apptainer build [options] IMAGE RECIPE` does to files, in three moods.
APPTAINER = """
import time
if sys.argv[1] == "--version":
    print("apptainer version 9.9")
    sys.exit()
mood = os.environ.get("MOOD", "good")
made = sys.argv[-2]
if mood == "bad":
    print("\\n".join(f"line {n}" for n in range(40)))
    sys.exit(255)
if mood == "slow":
    open(made, "wb").write(b"half")
    open(os.environ["STARTED"], "w").write(str(os.getpid()))
    while os.path.exists(os.environ["STARTED"]):
        time.sleep(0.05)
time.sleep(float(os.environ.get("TAKES_S", "0")))
open(made, "wb").write(b"#!/usr/bin/env run-singularity\\n\\0SIF_MAGIC\\0" + os.urandom(64))
"""
ASK = """\
import sys
from pathlib import Path
from conf import machine_schema, schema
from launchers.apptainer import image_build
site = schema.Site(name="here", image_build=schema.ImageBuild(bootstrap="localimage", base="/bases/debian 12, slim",
                                                              options=("--fakeroot",)))
box = machine_schema.Container(runtime="apptainer", recipe="small")
say = lambda text: print(text, file=sys.stderr)
built = image_build.ensure_built(box, site, Path(sys.argv[1]), Path(sys.argv[2]), say)
print(built.digest, built.path)
"""


@dataclasses.dataclass(frozen=True)
class Store:
    """A recipe of ours, the folder of its images, and how to ask for one, here or in a process of its own."""

    recipes: Path
    images: Path

    def ask(self, progress: Callable[[str], None] = lambda _: None, **container: Any) -> image.BuiltImage:
        box = machine_schema.Container(runtime="apptainer", **(container or {"recipe": "small"}))
        return image_build.ensure_built(
            box, schema.Site(name="here", image_build=BUILD), self.recipes, self.images, progress
        )

    def start(self, **env: str) -> subprocess.Popen[str]:
        argv = [sys.executable, "-c", ASK, str(self.recipes), str(self.images)]
        streams: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(argv, env={**os.environ, "PYTHONPATH": str(ROOT), **env}, **streams)

    def names(self) -> set[str]:
        """What lies in the store: `*` stands for the image's name."""
        name = next(p.name for p in self.images.glob("*.lock")).removesuffix(".lock")
        return {p.name.replace(name, "*") for p in self.images.iterdir()}


def new_store(tmp_path: Path, fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> Store:
    fakes.put("apptainer", APPTAINER)
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "small.def").write_text(RECIPE)
    (tmp_path / "local").mkdir()
    monkeypatch.setenv("APPTAINER_TMPDIR", str(tmp_path / "local"))
    return Store(tmp_path / "recipes", tmp_path / "images")


COMPLETE = {"*", "*.json", "*.log", "*.lock", ".*.digest.json"}
