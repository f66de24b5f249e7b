"""What tests of the host side share: the supervisor as a process of its own, ended with the test."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from launchers.run_folder.record import Run

SUPERVISE = "import sys\n{patch}\nfrom launchers.host import supervise\nsys.exit(supervise.main(sys.argv[1:]))"


@pytest.fixture
def start(root: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Begin to supervise a run. `patch` is Python that runs before it, `flags` are the interpreter's."""
    begun = []

    def run(run: Run, *words: str, patch: str = "", flags: Sequence[str] = (), **env: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, *flags, "-c", SUPERVISE.format(patch=patch), str(run.path), *words],
            env={**os.environ, "PYTHONPATH": str(root), **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        begun.append(process)
        return process

    yield run
    for process in begun:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()
