"""Processes that used torch or pyarrow do not go through the interpreter's shutdown, where a thread may abort them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.cluster.harness import ROOT

AT_SHUTDOWN = """
import atexit, os
class Left:
    def __del__(self, abort=os.abort): abort()
left = Left()  # freed by the shutdown alone
atexit.register(os.write, 1, b"functions at exit ran\\n")
"""


def ended(argv: list[str], folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    (folder / "sitecustomize.py").write_text(AT_SHUTDOWN)
    path = os.pathsep.join((str(folder), str(ROOT)))
    env = {**os.environ, "PYTHONPATH": path, **more}
    return subprocess.run(
        [sys.executable, *argv], env=env, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )


def test_the_shutdown_would_abort_here(tmp_path: Path) -> None:
    assert ended(["-c", "print('done', flush=True)"], tmp_path).returncode == -6


@pytest.mark.parametrize("failed", [False, True], ids=["done", "failed"])
def test_process_has_said_all_and_ends_with_its_own_code(failed: bool, tmp_path: Path) -> None:
    code = f"from trainer import leave; print('said'); leave.now(3, run_exit_functions={not failed})"

    done = ended(["-c", code], tmp_path)

    assert done.returncode == 3
    assert set(done.stdout.splitlines()) == ({"said"} if failed else {"functions at exit ran", "said"})


@pytest.mark.parametrize("failed", [False, True], ids=["done", "failed"])
def test_workers_that_are_killed_at_the_end_leave_no_temporary_files(failed: bool, tmp_path: Path) -> None:
    code = f"""
import numpy as np, os, torch
from trainer import leave
from trainer.data.feed import Feed
from trainer.sources import TensorSamples
feed = Feed(TensorSamples(torch.arange(40.0), torch.arange(40)), torch.device("cpu"), workers=2)
batches = feed.batches((0, np.arange(4 * i, 4 * i + 4)) for i in range(9))
print(next(batches).inputs.sum().item(), len(os.listdir(os.environ["TMPDIR"])))
leave.now(3, run_exit_functions={not failed})
"""
    with tempfile.TemporaryDirectory() as folder:  # whose path is short, as a socket's has to be
        done = ended(["-c", code], tmp_path, TMPDIR=folder)

        assert "6.0 1" in done.stdout.splitlines(), done.stderr
        assert not list(Path(folder).iterdir())


def test_data_that_were_looked_at_are_told_without_the_shutdown(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("x,kind\n1,a\n")
    document = json.dumps({"kind": "table", "options": {"path": str(tmp_path / "rows.csv"), "target": "kind"}})

    done = ended(["-m", "trainer.export_splits", "--look", document, "csv"], tmp_path)

    assert done.returncode == 0, done.stderr
    assert "[]" in done.stdout.splitlines()
