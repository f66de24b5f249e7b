"""A build that is killed at any moment leaves no half of an image."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from launchers.apptainer.sif import verify
from tests.conftest import ROOT, Fakes
from tests.launchers.image_store import COMPLETE, Store, new_store


@pytest.fixture
def store(tmp_path: Path, fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> Store:
    return new_store(tmp_path, fakes, monkeypatch)


def test_build_killed_in_the_middle_the_next_ask_starts_clean(store: Store, tmp_path: Path) -> None:
    started = tmp_path / "started"
    first = store.start(MOOD="slow", STARTED=str(started))
    _until(lambda: started.exists() and started.read_text() != "")
    first.kill()
    first.communicate(timeout=60)

    built = store.ask()  # while the first one's Apptainer still runs

    orphan = int(started.read_text())
    started.unlink()
    _until(lambda: _ended(orphan))
    verify(built.path, built.digest, fresh=True)
    assert store.names() == COMPLETE
    assert list((tmp_path / "local").iterdir()) == []


def test_build_killed_at_any_line_the_next_ask_gives_a_whole_image(store: Store, fakes: Fakes, tmp_path: Path) -> None:
    quick = '#!/bin/sh\nfor a; do made=$before; before=$a; done\n[ "$1" = --version ] || cp "$SIF" "$made"\n'
    (fakes.folder / "apptainer").write_text(quick)
    sif = tmp_path / "some.sif"
    sif.write_bytes(b"#!/usr/bin/env run-singularity\n\0SIF_MAGIC\0" + bytes(64))
    env = {**os.environ, "PYTHONPATH": str(ROOT), "SIF": str(sif), "SCRATCH": str(tmp_path / "local")}

    argv = [sys.executable, "-c", KILLED_AT_EACH_LINE, str(store.recipes), str(store.images)]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=200, check=False)

    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 80  # lines at which it was killed


# Forks a child for each line of ours that a build runs through; the child dies there without another word.
KILLED_AT_EACH_LINE = """\
import os, shutil, sys
from pathlib import Path
from conf import machine_schema, schema
from launchers.apptainer import image, image_build, making, sif
recipes, images = Path(sys.argv[1]), Path(sys.argv[2])
os.fsync = lambda fd: None
box = machine_schema.Container(runtime="apptainer", recipe="small")
site = schema.Site(name="here")

def ask():
    return image_build.ensure_built(box, site, recipes, images)

def die_after(lines):
    left = [lines]
    def trace(frame, event, arg):
        if frame.f_code.co_filename not in (image.__file__, image_build.__file__, making.__file__, sif.__file__):
            return None
        if event == "line":
            left[0] -= 1
            if left[0] < 0:
                os._exit(9)
        return trace
    sys.settrace(trace)

lines = 0
while True:
    shutil.rmtree(images, ignore_errors=True)
    child = os.fork()
    if child == 0:
        die_after(lines)
        ask()
        sys.settrace(None)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    for path in images.glob("*.sif"):  # its presence implies the right digest
        known = image.list_images(images)[0]["digest"]
        sif.verify(path, known, fresh=True)
        assert known is not None
    built = ask()
    sif.verify(built.path, built.digest, fresh=True)
    left = {p.name.replace(built.path.name, "*") for p in images.iterdir()}
    assert left - {".*.holder"} == {"*", "*.json", "*.log", "*.lock", ".*.digest.json"}, (lines, left)
    assert os.listdir(os.environ["SCRATCH"]) == [], lines
    if status == 0:
        break
    assert status == 9, status
    lines += 1
print(lines)
"""


def _until(condition: Callable[[], bool], timeout_s: float = 30) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def _ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True
