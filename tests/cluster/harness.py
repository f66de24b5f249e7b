"""What the tests of a real cluster share: the command, a model of the user's own, and patience with a limit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launchers.run_folder.record import read_lines

ROOT = Path(__file__).parents[2]
TESTBED = ROOT / "tests" / "testbed"
QUICK = ("experiment=digits", "train.epochs=1", "data.set=iris", "model=mlp", "train.batch_size=20")

PROBE = '''
import json, os, pathlib, sys, time
import torch

class Probe(torch.nn.Module):
    """Says what its rank saw, and obeys a file that the test writes.

    A step takes `sleep_s`, in the first attempt `first_s` more; the seventh waits while there is a file `hold_while`.
    """

    def __init__(self, note="", fail_while="", sleep_s=0.0, first_s=0.0, hold_while=""):
        super().__init__()
        seen = {"note": note, "environ": dict(os.environ), "host": os.uname().nodename, "argv": sys.argv}
        pathlib.Path(os.environ["FAIRLEAD_MEMBER_DIR"], f"seen-{os.environ['RANK']}.json").write_text(json.dumps(seen))
        if fail_while and pathlib.Path(fail_while).exists():
            raise ValueError(f"told to fail by {fail_while}")
        self.sleep_s = sleep_s + (first_s if os.environ["FAIRLEAD_ATTEMPT"] == "0" else 0.0)
        self.hold_while, self.passes = hold_while, 0
        self.layer = torch.nn.Linear(4, 3)

    def forward(self, x):
        if self.training:
            self.passes += 1
            time.sleep(self.sleep_s)
            while self.hold_while and self.passes > 6 and pathlib.Path(self.hold_while).exists():
                time.sleep(0.1)
        return self.layer(x)
'''


ON_SLURM = ("launcher=slurm", "site=testbed", "machine=cpu-small")


@dataclass(frozen=True)
class Cluster:
    """The command in a folder of its own, on the cluster or (with nothing in `first`) on this machine."""

    work: Path
    first: tuple[str, ...] = ON_SLURM

    def fairlead(self, *words: str, timeout_s: float = 280, check: bool = True) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "launchers.cli", *words]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout_s, cwd=self.work, check=False)
        assert not check or done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def launch(self, *overrides: str) -> Path:
        """Launch without a container unless the overrides say so; the run folder."""
        where = ("--config-dir", str(TESTBED / "conf"), "--json")
        said = self.fairlead("launch", *where, *self.first, *overrides, timeout_s=600).stdout
        return Path(json.loads(said)["run_dir"])

    def start(self, *overrides: str) -> subprocess.Popen[str]:
        """Launch and do not wait for the command."""
        words = [sys.executable, "-m", "launchers.cli", "launch", *self.first, *overrides]
        return subprocess.Popen(words, cwd=self.work, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def probe(self, **options: Any) -> tuple[str, ...]:
        """Words that choose a model of the user's own, which writes down what it sees."""
        (self.work / "probing.py").write_text(PROBE)
        groups = self.work / "conf"
        (groups / "model").mkdir(parents=True, exist_ok=True)
        (groups / "model" / "probe.yaml").write_text(json.dumps({"_target_": "probing.Probe", **options}))
        return ("--config-dir", str(groups), "model=probe")

    def wait(self, run: Path, timeout_s: float = 240) -> dict[str, Any]:
        done = self.fairlead("wait", str(run), "--json", timeout_s=timeout_s, check=False)
        assert done.returncode in (0, 1), done.stderr
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    def status(self, run: Path) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.fairlead("status", str(run), "--json").stdout)
        return document

    def image(self, name: str) -> Path:
        """What container=NAME is on the test's site, built unless it is there."""
        where = ("--config-dir", str(TESTBED / "conf"), "site=testbed", "--json")
        return Path(json.loads(self.fairlead("image", "build", name, *where, timeout_s=600).stdout)[0]["path"])

    def queue(self, name: str) -> list[str]:
        argv = ["squeue", "--noheader", "--format", "%i", "--name", name]
        return subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True).stdout.split()

    def testbed(self, *words: str) -> None:
        subprocess.run([str(TESTBED / "testbed"), *words], check=True, timeout=120, capture_output=True)


def until(question: Callable[[], Any], limit_s: float = 200, pause_s: float = 0.3) -> Any:
    """The first answer that is true. Fails after `limit_s`."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if answer := question():
            return answer
        time.sleep(pause_s)
    raise AssertionError(f"not within {limit_s:g} s")


def attempts(run: Path, member: int = 0) -> list[dict[str, Any]]:
    """outcome.json of each attempt of a member, oldest first."""
    folders = sorted(run.glob(f"members/{member}/attempt-*"), key=lambda p: int(p.name.rpartition("-")[2]))
    return [json.loads((p / "outcome.json").read_text()) for p in folders if (p / "outcome.json").exists()]


def steps(run: Path, member: int = 0) -> list[int]:
    """Every training step that was logged, over all attempts, in order of time."""
    rows = []
    for path in run.glob(f"members/{member}/attempt-*/metrics.jsonl"):
        rows += read_lines(path)  # of a full disk or a killed rank, the last one may be torn
    return [r["step"] for r in sorted(rows, key=lambda r: r["t"]) if "train/loss" in r.get("metrics", {})]


def left_of(run: Path) -> list[str]:
    """What the hosts still have of a run: processes that were told a folder of its members, and files on their own
    disks and in their memory."""
    found = [str(p) for place in ("/tmp", "/dev/shm") for p in Path(place).glob(f"fairlead-*{run.name}*")]
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            known = b"".join((folder / name).read_bytes() for name in ("cmdline", "environ"))
        except OSError:
            continue
        if int(folder.name) != os.getpid() and f"{run}/members".encode() in known:
            found.append(known.replace(b"\0", b" ")[:200].decode(errors="replace"))
    return found
