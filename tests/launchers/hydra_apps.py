"""A Hydra application that knows nothing of Fairlead, in a folder of its own, and its command line."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import ROOT

APP = """
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig

@hydra.main(version_base=None, config_path="conf", config_name="config")
def main(cfg):
    seen = HydraConfig.get()
    out = Path(seen.runtime.output_dir)
    job = seen.job
    (out / "seen.txt").write_text(f"{job.num}|{seen.mode.name}|{job.id}|{job.override_dirname}|{cfg.name}")
    if cfg.x == 13:
        raise ValueError("thirteen")
    if cfg.x == 14:
        return None
    if cfg.x == 15:
        return cfg.lr, cfg.optimizer.rate
    return (cfg.lr - 0.25) ** 2

if __name__ == "__main__":
    main()
"""
FILES = {
    "config.yaml": {"defaults": ["_self_", {"optimizer": "sgd"}], "lr": 0.5, "x": 1, "name": "plain"},
    "optimizer/sgd.yaml": {"rate": 0.1},
    "optimizer/adam.yaml": {"rate": 0.2},
}
HERE = ("hydra/launcher=fairlead", "hydra.launcher.launcher=local", 'hydra.launcher.overrides=["tracking=none"]')
BOTH = (*HERE, "hydra/sweeper=fairlead", "hydra.launcher.max_parallel=2")


@dataclass(frozen=True)
class Application:
    """`app("-m", *BOTH, "lr=0.1,0.2")` starts it, as `python app.py` in its folder unless `how` says otherwise."""

    folder: Path
    path: str = f"{ROOT}:{ROOT}/launchers/plugin"
    how: tuple[str, ...] = ("app.py",)
    options: tuple[str, ...] = ()
    python: str = sys.executable

    def __call__(self, *words: str, code: int = 0, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [self.python, *self.how, *self.options, "-m", "hydra.sweep.dir=out", *words],
            env={**os.environ, "PYTHONPATH": self.path},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def seen(self, number: int | str) -> list[str]:
        """What a job saw of itself: number, mode, id, overrides, name."""
        return (self.folder / "out" / str(number) / "seen.txt").read_text().split("|")

    def yaml(self, name: str) -> Any:
        return yaml.safe_load((self.folder / "out" / name).read_text())

    def runs(self) -> list[Path]:
        return sorted((self.folder / "runs").glob("*"))


def make(folder: Path) -> Application:
    """The application in a new folder."""
    for name, document in FILES.items():
        path = folder / "conf" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(document))
    (folder / "app.py").write_text(APP)
    return Application(folder)
