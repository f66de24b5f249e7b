"""A Slurm whose steps run here: fake srun, scancel, scontrol and squeue."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.launchers.attempted import until

FAKE_SRUN = """
import re, signal, subprocess, time
options = dict(a[2:].partition("=")[::2] for a in sys.argv[1:] if a.startswith("--"))
script, tasks, each = sys.argv[-1], int(options["ntasks"]), int(options["ntasks-per-node"])
children = []
for t in range(tasks):
    path = re.sub("%(.)", lambda m: {"%": "%", "t": str(t)}[m[1]], options["output"])
    env = {**os.environ, "SLURM_PROCID": str(t), "SLURM_LOCALID": str(t % each), "SLURM_NODEID": str(t // each),
           "SLURM_STEP_NUM_TASKS": str(tasks)}
    with open(path, "ab") as out:
        children.append(subprocess.Popen([script], env=env, stdout=out, stderr=out, start_new_session=True))
with open(os.environ["FAKE_PIDS"] + ".tmp", "w") as f:
    f.write(" ".join(str(c.pid) for c in children))
os.replace(f.name, os.environ["FAKE_PIDS"])
with open(os.environ["FAKE_PIDS"] + ".name", "w") as f:
    f.write(options["job-name"])
def force(*_):
    print("srun: forcing job termination", flush=True)
    [c.kill() for c in children if c.poll() is None]
signal.signal(signal.SIGTERM, force)
seen = {}
while len(seen) < tasks:
    for t, c in enumerate(children):
        if t not in seen and c.poll() is not None:
            seen[t] = code = c.returncode if c.returncode >= 0 else 128 - c.returncode
            if code:
                print(f"srun: error: n{t // each + 1}: task {t}: Exited with exit code {code}", flush=True)
    time.sleep(0.02)
sys.exit(max(seen.values()))
"""
FAKE_SCANCEL = """
import contextlib, signal, time
while not os.path.exists(os.environ["FAKE_PIDS"]):  # ranks may be ready before srun has written down who they are
    time.sleep(0.02)
number = next(a.partition("=")[2] for a in sys.argv if a.startswith("--signal="))
for pid in open(os.environ["FAKE_PIDS"]).read().split():
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(pid), getattr(signal, "SIG" + number))
"""
STEPS = """
if "--steps" in sys.argv:
    name = os.environ["FAKE_PIDS"] + ".name"
    named = {"batch": "batch", "extern": "extern", "2": "fairlead-shell", "4": "its-own"}
    named |= {"3": open(name).read()} if os.path.exists(name) else {}
    print(*(f"40_1.{step}|{said}" for step, said in named.items()), sep="\\n")
    sys.exit()
"""
SCONTROL = """
print("n1\\nn2" if "hostnames" in sys.argv else "JobState=RUNNING")
"""


def slurm_here(fakes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A Slurm whose step runs here."""
    monkeypatch.setenv("FAKE_PIDS", str(tmp_path / "pids"))
    fakes.put("srun", FAKE_SRUN)
    fakes.put("scancel", FAKE_SCANCEL)
    fakes.put("scontrol", SCONTROL)
    fakes.put("squeue", STEPS)
    return fakes


def tell_ranks(tmp_path: Path) -> None:
    """By SIGTERM, as Slurm does."""
    until((tmp_path / "pids").exists)
    for pid in (tmp_path / "pids").read_text().split():
        os.kill(int(pid), signal.SIGTERM)
