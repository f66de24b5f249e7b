"""A spec in Python, and real ranks as processes: what the tests of the trainer stand on."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conf.document import to_document
from conf.job_schema import Job
from conf.machine_schema import Accelerator, Container, Machine
from conf.schema import Component, Launcher, Objective, Pool, Site, Spec, Tracking
from conf.train_schema import Train
from launchers.jobs.goodput import goodput, tried
from launchers.run_folder import record
from tests.trainer.warm import Warm

if TYPE_CHECKING:
    from torch import Tensor

Process = Warm | subprocess.Popen[bytes]
ROOT = Path(__file__).parents[2]
FRESH = ("-m", "trainer")
"""A rank with its own interpreter: needed where its environment counts from the start on, or is read from outside."""
PROJECT = Path(__file__).parent / "project"
"""A user's own folder."""


def own(name: str, **options: Any) -> Component:
    """Something of the user's own, from the folder `project`."""
    return Component(kind="_target_", options={"_target_": name, **options})


def make_spec(**changes: Any) -> Spec:
    """A small run; `train` is a mapping of what differs. An epoch is 10 steps, the last of 6 samples."""
    pool = Pool(
        machine=Machine(mem_gb=2, max_cpus=2, time_limit_min=5),
        accelerator=Accelerator(kind="none"),
        container=Container(runtime="none"),
    )
    train = {"max_steps": 50, "batch_size": 16, **changes.pop("train", {})}
    spec = Spec(
        name="test",
        seed=1,
        job=Job(kind="trainer"),
        pools=(pool,),
        data=own("own.blobs", rows=150),
        engine=Component(kind="ddp"),
        model=own("own.Net"),
        optimizer=Component(kind="adamw", options={"lr": 0.003}),
        train=Train(**train),
        objective=Objective(metric="val/accuracy", goal="maximize"),
        tracking=Tracking(kind="none"),
        launcher=Launcher(kind="local"),
        site=Site(name="test"),
    )
    return dataclasses.replace(spec, **changes)


@dataclass
class Member:
    """A member's folder, and the attempts that tests start in it."""

    path: Path
    spec: Spec
    ranks: int = 1
    env: Mapping[str, str] = field(default_factory=dict)
    program: Sequence[str] = ()
    """Arguments of a fresh interpreter in place of a warm one."""
    attempts: int = 0
    running: Sequence[Process] = ()

    @property
    def attempt(self) -> Path:
        return self.path / f"attempt-{self.attempts}"

    def start(self) -> Sequence[Process]:
        """Start every rank of a new attempt, each with its own log."""
        self.attempts += 1
        self.attempt.mkdir(parents=True)
        spec_file = self.path / "spec.json"
        spec_file.write_text(json.dumps(to_document(self.spec)))
        port = free_port()
        self.running = [self._rank(rank, port, spec_file) for rank in range(self.ranks)]
        return self.running

    def wait(self, timeout_s: float = 280) -> list[int]:
        """Exit codes of all ranks, in order."""
        return [process.wait(timeout=timeout_s) for process in self.running]

    def run(self) -> list[int]:
        self.start()
        return self.wait()

    def lines(self, name: str) -> list[dict[str, Any]]:
        """A JSON-lines file of the newest attempt."""
        return [json.loads(line) for line in (self.attempt / name).read_text().splitlines()]

    def log(self, rank: int = 0) -> str:
        return (self.attempt / f"rank-{rank}.log").read_text()

    def result(self) -> dict[str, Any]:
        return json.loads((self.attempt / "result.json").read_text())

    def end(self) -> None:
        """Kill what still runs."""
        for process in self.running:
            process.kill()
            process.wait()

    def _rank(self, rank: int, port: int, spec_file: Path) -> Process:
        env, log = self._environment(rank, port, spec_file), self.attempt / f"rank-{rank}.log"
        if not self.program:
            return Warm(env, log, self.path)
        with log.open("wb") as out:
            return subprocess.Popen(
                [sys.executable, *self.program],
                env=env,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=self.path,
                start_new_session=True,
            )

    def _environment(self, rank: int, port: int, spec_file: Path) -> dict[str, str]:
        return {
            **os.environ,
            "PYTHONPATH": f"{ROOT}{os.pathsep}{PROJECT}",
            "PYTHONWARNINGS": "default",
            "OMP_NUM_THREADS": "1",
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(self.ranks),
            "LOCAL_WORLD_SIZE": str(self.ranks),
            "NODE_RANK": "0",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "FAIRLEAD_SPEC": str(spec_file),
            "FAIRLEAD_MEMBER_DIR": str(self.path),
            "FAIRLEAD_ATTEMPT_DIR": str(self.attempt),
            **self.env,
        }


def phases(run: Member, started: float, ended: float) -> Mapping[str, float]:
    """Seconds of its only attempt, whose supervisor says when it began and ended."""
    (run.attempt / "started.json").write_text(json.dumps({"started": started}))
    (run.attempt / "outcome.json").write_text(json.dumps({"ended": ended}))
    return goodput(tried(record.Member(run.path), [], None)).seconds


def weights(member: Member) -> dict[str, Tensor]:
    """Of the model that it has left."""
    from safetensors.torch import load_file

    return load_file(member.path / "model" / "model.safetensors")


def assert_same(ours: Member, theirs: Member) -> None:
    """Both have left the same model, but for the last digits that a sum over ranks may change."""
    ours_weights, theirs_weights = weights(ours), weights(theirs)
    assert ours_weights.keys() == theirs_weights.keys()
    assert all(ours_weights[name].allclose(theirs_weights[name], atol=1e-5) for name in ours_weights)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])
