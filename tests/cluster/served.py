"""A real MLflow server on this machine, which a test lets be away for as long as it likes."""

from __future__ import annotations

import http.server
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cluster.harness import until

HERE = "127.0.0.1"


def free_port(host: str = HERE) -> int:
    """One where nobody listens."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


@contextmanager
def served(port: int, folder: Path) -> Iterator[None]:
    """The server answers there while the block runs; what it stores is in the folder."""
    argv = [sys.executable, "-m", "mlflow", "server", "--host", HERE, "--port", str(port), "--workers", "1"]
    argv += ["--backend-store-uri", f"sqlite:///{folder}/store.db"]
    argv += ["--artifacts-destination", str(folder / "artifacts")]
    env = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # else it starts a dozen processes of its own
    quiet = subprocess.DEVNULL
    server = subprocess.Popen(argv, env=env, stdout=quiet, stderr=quiet, start_new_session=True)
    try:
        until(lambda: answers(port), limit_s=300)  # it imports for a minute where all cores are busy
        yield
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:  # a worker that does not hear it
            os.killpg(server.pid, signal.SIGKILL)
            server.wait(30)


def answers(port: int, host: str = HERE) -> bool:
    try:
        with urllib.request.urlopen(f"http://{host}:{port}/health", timeout=2) as answer:
            return bool(answer.status == http.server.HTTPStatus.OK)
    except OSError:
        return False
