"""The training that all cases disturb: its words on the command line, its folder, and its weights at the end."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.numpy

from tests.chaos import data
from tests.chaos.cases import CHECKPOINT_EVERY, EVALUATE_EVERY, TOTAL_STEPS, Every, Form, Launcher, Layout

ROOT = Path(__file__).parents[2]
PROJECT = Path(__file__).parent / "project"
DROPOUT = 0.2
BREAKS_EVERY_H = 0.0002
"""So often a node breaks, as told to a training that chooses how often it saves: several times in two seconds."""


@dataclass(frozen=True)
class Training:
    """What is the same for a case and for the run it is compared with; the form of the data is not."""

    engine: str
    layout: Layout
    dropout: float
    """0 where the layout will change: ranks draw their own random numbers."""
    launcher: Launcher = "local"
    every: Every = CHECKPOINT_EVERY

    @property
    def name(self) -> str:
        return f"{self.engine}-{self.layout.world}-{self.dropout:g}"

    def words(self) -> tuple[str, ...]:
        on = ("launcher=slurm", "site=testbed", "machine=cpu-small") if self.launcher == "slurm" else ()
        breaks = (f"site.node_mtbf_h={BREAKS_EVERY_H}",) if self.every == "auto" else ()
        return (
            *on,
            *breaks,
            "name=chaos",
            "data=chaotic",
            "model=chaotic",
            f"engine={self.engine}",
            f"machine.nodes={self.layout.nodes}",
            f"machine.ranks_per_node={self.layout.ranks_per_node}",
            "machine.cpus_per_rank=1",
            "optimizer.lr=0.003",
            "train.epochs=null",
            f"train.max_steps={TOTAL_STEPS}",
            f"train.batch_size={data.BATCH}",
            f"train.checkpoint_every_steps={self.every}",
            f"train.eval_every_steps={EVALUATE_EVERY}",
            "train.deterministic=true",
            "train.schedule=cosine",
            "train.log_every_steps=1",
            "train.log_samples=true",
            "objective={metric: val/loss, goal: minimize}",
        )


@dataclass(frozen=True)
class Place:
    """A folder of a case's own, and the command in it: with a home, a state folder and a TMPDIR that are nobody's."""

    folder: Path

    @property
    def work(self) -> Path:
        return self.folder / "work"

    @property
    def tmp(self) -> Path:
        return self.folder / "tmp"

    def made(self, model: Mapping[str, Any], form: Form) -> Place:
        """The folders, with a user's project in it whose model has these options, and data in a form."""
        for name in ("work", "tmp", "home", "state"):
            (self.folder / name).mkdir(parents=True)
        shutil.copy(PROJECT / "chaotic.py", self.work)
        said = data.written(form, self.folder / "data")
        for group, document in (("data", said), ("model", {"_target_": "chaotic.Net", **model})):
            path = self.work / "conf" / group / "chaotic.yaml"
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps(document))
        return self

    def start(self, *overrides: str) -> subprocess.Popen[bytes]:
        """Launch; on this machine the command stays until the job has ended."""
        where = ("--config-dir", str(self.work / "conf"), "--config-dir", str(ROOT / "tests" / "testbed" / "conf"))
        argv = [sys.executable, "-m", "launchers.cli", "launch", "--json", *where, *overrides]
        with (self.folder / "launch.log").open("wb") as out:
            return subprocess.Popen(argv, cwd=self.work, env=self._environ(), stdout=out, stderr=subprocess.STDOUT)

    def fairlead(self, *words: str, timeout_s: float = 200) -> subprocess.CompletedProcess[str]:
        """What another verb of the command says."""
        argv = [sys.executable, "-m", "launchers.cli", *words]
        return subprocess.run(
            argv, cwd=self.work, env=self._environ(), capture_output=True, text=True, timeout=timeout_s, check=False
        )

    def runs(self) -> list[Path]:
        return [path.parent for path in self.work.glob("runs/chaos-*/plan.json")]

    def _environ(self) -> dict[str, str]:
        others = ("SLURM_JOB", "SBATCH", "FAIRLEAD", "MLFLOW", "GIT_", "OMP_")
        mine = {"HOME": self.folder / "home", "XDG_STATE_HOME": self.folder / "state", "TMPDIR": self.tmp}
        kept = {k: v for k, v in os.environ.items() if not k.startswith(others)}
        return {**kept, **{k: str(v) for k, v in mine.items()}, "PYTHONPATH": str(ROOT)}


@dataclass(frozen=True)
class Undisturbed:
    """The weights of trainings that nobody disturbed, each made once; several processes may share the folder."""

    folder: Path

    def weights(self, training: Training) -> Path:
        """model.safetensors of such a run, on this machine. Raises AssertionError when it failed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        kept = self.folder / f"{training.name}.safetensors"
        with (self.folder / f"{training.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not kept.exists():
                shutil.copy(self._made(training), kept)
        return kept

    def _made(self, training: Training) -> Path:
        layout = Layout(1, training.layout.world)
        shutil.rmtree(self.folder / training.name, ignore_errors=True)  # of one that failed, or was cut off
        place = Place(self.folder / training.name).made({"dropout": training.dropout}, "rows")
        words = (*Training(training.engine, layout, training.dropout).words(), *data.words("rows"))
        assert place.start(*words, "tracking=none").wait(200) == 0, (place.folder / "launch.log").read_text()
        (run,) = place.runs()
        return weights_of(run)


def weights_of(run: Path) -> Path:
    return run / "members" / "0" / "model" / "model.safetensors"


def digest(path: Path) -> str:
    """SHA-256 over the tensors of a file, by name."""
    found = hashlib.sha256()
    for name, tensor in sorted(safetensors.numpy.load_file(path).items()):
        found.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
        found.update(tensor.tobytes())
    return found.hexdigest()
