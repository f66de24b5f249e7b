"""Ranks that need not import torch each for itself: forked from a process that has done it, and knows nothing of ours.

Most of what a short training costs is that import. Who tests the start itself takes a fresh interpreter
(Member.program).
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import warnings
from collections.abc import Mapping
from multiprocessing import forkserver
from pathlib import Path
from unittest import mock

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "torch._dynamo",
        "torch.distributed.checkpoint",
        "torch.distributed.fsdp",
        "torch.export._trace",
        "sklearn.datasets",
    ]
)


class Warm:
    """A rank, with as much of subprocess.Popen as tests use."""

    def __init__(self, env: Mapping[str, str], log: Path, cwd: Path) -> None:
        with mock.patch.dict(os.environ, OMP_NUM_THREADS="1"):  # of all that it imports
            forkserver.ensure_running()
        self._process = CONTEXT.Process(target=_become, args=(dict(env), str(log), str(cwd)))
        main = sys.modules["__main__"]  # whose file each child would run
        with mock.patch.multiple(main, create=True, __file__=None, __spec__=None):
            self._process.start()
        self.pid = int(self._process.pid or 0)

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if (code := self._process.exitcode) is None:
            raise subprocess.TimeoutExpired("python -m trainer", timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _become(env: Mapping[str, str], log: str, cwd: str) -> None:
    """What an interpreter does that is started so: python -m trainer </dev/null >LOG 2>&1."""
    os.setsid()
    os.chdir(cwd)
    for number, path, flags in ((0, os.devnull, os.O_RDONLY), (1, log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)):
        opened = os.open(path, flags)
        os.dup2(opened, number)
        os.close(opened)
    os.dup2(1, 2)
    sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
    multiprocessing.set_start_method(None, force=True)
    os.environ.clear()
    os.environ.update(env)
    sys.path[:0] = env["PYTHONPATH"].split(os.pathsep)
    warnings.simplefilter(env["PYTHONWARNINGS"])  # type: ignore[arg-type]
    sys.argv = ["trainer"]
    runpy.run_module("trainer", run_name="__main__", alter_sys=True)
