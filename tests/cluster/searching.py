"""What the tests of searches on a real cluster share: a program that obeys the environment, and words that search it.

The program reports to $FAIRLEAD_REPORTS, saves at each step, and leaves when it is told to, unless it hangs.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from launchers.run_folder.record import Run
from launchers.search.study import Study
from sweeps.trials import Trial
from tests.cluster.harness import Cluster

PROGRAM = """
import json, os, signal, sys, time
from pathlib import Path

x, folder = float(sys.argv[1].partition("=")[2]), Path(os.environ["AIP_CHECKPOINT_DIR"])
told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(1))
signal.signal(signal.SIGUSR2, lambda *_: told.append(1))
steps, pause_s = int(os.environ.get("STEPS", "3")), float(os.environ.get("PAUSE_S", "0.1"))
gate, gate_step = os.environ.get("GATE"), int(os.environ.get("GATE_STEP", "2"))
if int(os.environ["FAIRLEAD_MEMBER"]) < int(os.environ.get("GATE_FROM", "0")):
    gate = None
if os.environ.get("FAIL"):
    raise KeyError(os.environ["FAIL"])
state = folder / "state.json"
done = json.loads(state.read_text())["step"] if state.exists() else 0
for step in range(done + 1, steps + 1):
    time.sleep(pause_s)
    while gate and step == gate_step and not told and not os.path.exists(gate):
        time.sleep(0.1)
    with open(os.environ["FAIRLEAD_REPORTS"], "a") as f:
        f.write(json.dumps({"step": step, "loss": (x - 0.3) ** 2 + 1 / step}) + "\\n")
    if os.environ["RANK"] == "0":  # the others may be a step ahead
        aside = folder / "aside"
        aside.write_text(json.dumps({"step": step}))
        aside.replace(state)
    if os.environ["FAIRLEAD_MEMBER"] in os.environ.get("HANG", "").split(","):
        while True:
            time.sleep(60)
    if told:
        sys.exit(75)
if done == 0 and os.environ["FAIRLEAD_MEMBER"] in os.environ.get("HOLD_TELL", "").split(","):
    os.mkfifo(os.environ["FAIRLEAD_ATTEMPT_DIR"] + "/rank-9.error.json")
"""
"""STEPS, PAUSE_S, GATE (a file that the second step waits for, or step GATE_STEP, unless told to leave; of members from
GATE_FROM on), FAIL (a message), HANG (members that stop after their first report) and HOLD_TELL (those whose supervisor
cannot read a file when they have ended, and waits) say what it does."""
SEARCH = {
    "kind": "search",
    "algorithm": "random",
    "trials": 8,
    "parameters": {"params.x": {"type": "double", "min": 0.0, "max": 1.0}},
}
COMMAND = ("job=command", "job.command=[python3,program.py]", "job.metrics.kind=jsonl", "tracking=none")


def searching(cluster: Cluster, more: dict[str, Any] | None = None, **environ: str) -> tuple[str, ...]:
    """Words that launch a search over the program."""
    group = cluster.work / "conf" / "sweep"
    group.mkdir(parents=True, exist_ok=True)
    (group / "mine.yaml").write_text(json.dumps({**SEARCH, **(more or {})}))
    words = program(cluster, **environ)
    return ("--config-dir", str(group.parent), "sweep=mine", *words, "launcher.max_parallel=4", "name=study")


def program(cluster: Cluster, **environ: str) -> tuple[str, ...]:
    """Words that run the program and look at its loss."""
    (cluster.work / "program.py").write_text(PROGRAM)
    values = [f"+container.env.{name}='{value}'" for name, value in environ.items()]
    return (*COMMAND, "objective.metric=loss", "objective.goal=minimize", *values)


def supervisors(run: Path) -> dict[int, int]:
    """Process id of what runs each member at this moment."""
    found = [(pid, e) for pid, words, e in _processes(run) if "launchers.host.supervise" in words]
    name = "SLURM_ARRAY_TASK_ID"  # a process that is about to vanish has no environment any more
    return {int(e[name]): pid for pid, e in found if name in e}


def programs(run: Path) -> list[int]:
    """Process ids of the ranks, and of what they started."""
    return [pid for pid, _, e in _processes(run) if e.get("FAIRLEAD_MEMBER_DIR", "").startswith(f"{run}/")]


def _processes(run: Path) -> Iterator[tuple[int, list[str], dict[str, str]]]:
    """What has to do with a run: hosts of the test cluster share this machine's processes."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
            environ = (folder / "environ").read_bytes().decode(errors="replace")
            if str(run) in words or f"={run}/" in environ:
                yield int(folder.name), words, dict(e.partition("=")[::2] for e in environ.split("\0"))


def trials_of(run: Path) -> dict[int, Trial]:
    """Every trial that has a point, by its number."""
    return {t.number: t for t in Study(Run(run)).trials()}
