"""A run folder on storage that takes nothing any more: what can be read is shown, what must be written is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a folder read-only, which takes root")


def fairlead(work: Path, *words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "launchers.cli", *words]
    nobodys = {"HOME": str(work), "XDG_STATE_HOME": str(work / "state")}
    env = {**os.environ, **nobodys, "PYTHONPATH": str(ROOT)}
    return subprocess.run(argv, capture_output=True, text=True, timeout=200, cwd=work, env=env, check=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A job that has failed, in runs/ of a folder; runs/ is read-only."""
    work = tmp_path_factory.mktemp("work")
    said = fairlead(work, "launch", "--json", "job=command", "job.command=[ls,nowhere]", "tracking=none", "name=gone")
    folder = Path(json.loads(said.stdout)["run_dir"])
    subprocess.run(["mount", "--bind", str(folder.parent), str(folder.parent)], check=True, timeout=60)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(folder.parent)], check=True, timeout=60)
        yield folder
    finally:
        subprocess.run(["umount", str(folder.parent)], check=True, timeout=60)


@pytest.mark.parametrize("words", [("status",), ("logs",), ("wait",), ("list",), ("status", "--json")])
def test_read_only_run_is_shown(run: Path, words: tuple[str, ...]) -> None:
    verb, *rest = words
    said = fairlead(run.parents[1], verb, *([] if verb == "list" else [str(run)]), *rest)

    assert said.returncode == (1 if verb == "wait" else 0), said.stderr
    assert "Traceback" not in said.stderr
    assert verb == "logs" or "FAILED" in said.stdout


@pytest.mark.parametrize("verb", ["retry", "launch"])
def test_read_only_run_is_not_changed_and_why_is_said(run: Path, verb: str) -> None:
    before = sorted(p.relative_to(run).as_posix() for p in run.rglob("*"))
    again = ("job=command", "job.command=[ls]", "tracking=none")
    said = fairlead(run.parents[1], verb, *([str(run)] if verb == "retry" else again))

    assert said.returncode == 3, said.stdout + said.stderr
    assert "Read-only file system" in said.stderr
    assert "  do     " in said.stderr
    assert "Traceback" not in said.stderr
    assert sorted(p.relative_to(run).as_posix() for p in run.rglob("*")) == before


def test_read_only_job_that_has_ended_is_cancelled_by_saying_so(run: Path) -> None:
    said = fairlead(run.parents[1], "cancel", str(run))

    assert (said.returncode, "Traceback" in said.stderr) == (0, False), said.stderr
