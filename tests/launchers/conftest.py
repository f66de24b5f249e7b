"""What tests of the host side share: the supervisor as a process of its own, ended with the test."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from launchers.run_folder.record import Run
from tests.launchers.registries import Registry

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


@pytest.fixture
def as_a_program(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """MLflow's client in this process may write into the folder of a run, as that of a program may. Where artifacts of
    a run lie it remembers by the run's id, which another test's has as well."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setattr("mlflow.tracking._tracking_service.utils._artifact_repos_cache", OrderedDict())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    """Debian's docker-registry on loopback, without a password."""
    one = Registry(tmp_path / "registry", private=False)
    try:
        yield one.start()
    finally:
        one.stop()
