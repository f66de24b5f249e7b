"""A real MLflow server on this machine, that a case ends with SIGKILL and starts again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

from tests.cluster.harness import until
from tests.cluster.served import answers, free_port


class Store:
    """Its data are in the folder, so that it comes back with them. It listens at one address of this machine."""

    def __init__(self, folder: Path, host: str) -> None:
        self.folder, self.host, self.port = folder, host, free_port(host)
        folder.mkdir()
        self.start()

    @property
    def uri(self) -> str:
        return f"http://{self.host}:{self.port}"

    def start(self) -> None:
        argv = [sys.executable, "-m", "mlflow", "server", "--host", self.host, "--port", str(self.port)]
        argv += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder}/store.db"]
        argv += ["--artifacts-destination", str(self.folder / "artifacts")]
        with (self.folder / "server.log").open("ab") as log:
            # With its jobs it would start a dozen processes of its own.
            env = {**os.environ, "TMPDIR": str(self.folder), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
            self.server = subprocess.Popen(argv, env=env, stdout=log, stderr=log, start_new_session=True)
        until(lambda: answers(self.port, self.host), limit_s=300)

    def kill(self) -> None:
        os.killpg(self.server.pid, signal.SIGKILL)
        self.server.wait(30)

    def curve(self, run_id: str) -> list[int]:
        """Steps at which a run's train/loss is in the store, in order; a step that is there twice is twice here."""
        asked = f"{self.uri}/api/2.0/mlflow/metrics/get-history?run_id={run_id}&metric_key=train%2Floss"
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return sorted(int(point["step"]) for point in json.load(answer)["metrics"])
