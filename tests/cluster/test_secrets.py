"""A canary in a real job: in a container, on two hosts, with tracking. It is looked for wherever one could look."""

from __future__ import annotations

import json
import subprocess
import threading
from pathlib import Path

import pytest

from launchers.delivery.store import opened
from tests.cluster.harness import Cluster, until

pytestmark = [pytest.mark.slurm, pytest.mark.apptainer]
CANARIES = {"env": "canary-of-the-environment", "file": "canary-of-a-file", "command": "canary-of-a-command"}
PROGRAM = """
import os, subprocess, sys, time
token, key, word = os.environ["TOKEN"], open(os.environ["KEY_FILE"]).read(), os.environ["WORD"]
print(token, key, word, flush=True)
sys.stdout.write(token[:7]); sys.stdout.flush(); time.sleep(0.3); sys.stdout.write(token[7:] + "\\n")
mode = oct(os.stat(os.environ["KEY_FILE"]).st_mode)
print([len(token), len(key), len(word)], mode, "ORIGIN" in os.environ, flush=True)
subprocess.Popen(["sleep", "987"], start_new_session=True, env={})
while not os.path.exists(os.environ["AIP_CHECKPOINT_DIR"] + "/go"):
    time.sleep(0.1)
print(f"hyperparameters: loss/{token}=1.5", flush=True)
if os.environ["FAIRLEAD_ATTEMPT"] == "0":
    raise SystemExit(75)
raise ValueError("it was " + word)
"""
PATTERN = r"(?P<metric>loss\S*)=(?P<value>[\d.]+)"


def has_canary(data: bytes) -> bool:
    return any(canary.encode() in data for canary in CANARIES.values())


def found_in(folder: Path) -> list[str]:
    return [str(p) for p in folder.rglob("*") if p.is_file() and not p.is_symlink() and has_canary(p.read_bytes())]


class CommandLines(threading.Thread):
    """Looks at every process of the machine, on whichever of its hosts, until told to stop."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.over, self.looks, self.found = threading.Event(), 0, set[bytes]()

    def run(self) -> None:
        while not self.over.wait(0.1):
            self.looks += 1
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    words = path.read_bytes()
                except OSError:
                    continue
                if has_canary(words):
                    self.found.add(words)


def said_by_slurm(name: str) -> str:
    """All that it tells a user of a job, of its steps, and of its past."""
    asked = (
        ["scontrol", "show", "job", "--details"],
        ["scontrol", "show", "step"],
        ["squeue", "--format=%all"],
        ["squeue", "--steps", "--Format=ALL"],
        ["sacct", "--name", name, "--format=ALL", "--parsable2"],
        ["sacct", "--name", name, "--env-vars"],
    )
    said = [subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False).stdout for argv in asked]
    return "\n".join(said)


def test_secret_is_found_nowhere_but_in_the_program(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORIGIN", CANARIES["env"])
    (cluster.work / "train.py").write_text(PROGRAM)
    (tmp_path / "key").write_text(CANARIES["file"] + "\n")
    (tmp_path / "pass").write_text(f"#!/bin/sh\necho {CANARIES['command']}\n")
    (tmp_path / "pass").chmod(0o700)
    words = ("job=command", "job.command=[python3,train.py]", "container=pytorch-cpu", "name=own", "machine.nodes=2")
    words += (f"secrets.KEY={{file: {tmp_path}/key, through: file}}", f"secrets.WORD.command=[{tmp_path}/pass]")
    words += ("secrets.TOKEN.env=ORIGIN", "job.metrics.kind=pattern", f"job.metrics.pattern='{PATTERN}'")
    lines = CommandLines()
    lines.start()
    run = cluster.launch(*words)
    monkeypatch.delenv("ORIGIN")

    def printed(attempt: int) -> bool:
        logs = [run / f"members/0/attempt-{attempt}/rank-{rank}.log" for rank in (0, 1)]
        return all(log.exists() and len(log.read_text().splitlines()) >= 3 for log in logs)

    until(lambda: printed(0), 120)
    running = said_by_slurm(run.name)
    kept = tmp_path / "state/fairlead/secrets" / f"{run.name}.json"
    assert run.name in running
    assert found_in(tmp_path / "state") == [str(kept)] and (kept.stat().st_mode & 0o777) == 0o600
    assert found_in(run) == []
    go = run / "members/0/checkpoints/go"
    go.touch()
    end = cluster.wait(run)
    lines.over.set()
    lines.join()

    assert end["state"] == "FAILED", "after it went through the queue once"
    for attempt in (0, 1):
        for rank in (0, 1):
            said = (run / f"members/0/attempt-{attempt}/rank-{rank}.log").read_text().splitlines()
            assert said[:2] == ["*** *** ***", "***"]
            assert said[2] == f"{[len(v) for v in CANARIES.values()]} 0o100600 False"
    assert "ValueError: it was ***" in json.dumps(end)
    assert not has_canary((running + said_by_slurm(run.name) + json.dumps(end)).encode())
    assert lines.looks > 10 and not lines.found
    assert found_in(cluster.work / "runs") == [], "runs, their logs, MLflow's database and artifacts"
    assert found_in(tmp_path / "state") == [str(kept)], "for a retry"
    result = json.loads((run / "result.json").read_text())
    with opened(result["mlflow"]["uri"], run.name) as client:
        (child,) = json.loads((run / "tracking.json").read_text())["runs"].values()
        assert client.get_run(child).data.metrics == {"loss/___": 1.5}, "as MLflow takes its name"
    assert not list(Path("/dev/shm").glob(f"fairlead-secrets-{run.name}*"))
    assert not [p for p in Path("/proc").glob("[0-9]*/cmdline") if _is(p, b"sleep\x00987")], "left on a node"


def _is(path: Path, words: bytes) -> bool:
    try:
        return words in path.read_bytes()
    except OSError:
        return False


def test_log_of_a_rank_on_slurm_is_whole_however_much_it_says_last(cluster: Cluster) -> None:
    """What Slurm kills at the end of a step is not the process that still writes."""
    (cluster.work / "train.py").write_text(
        "import os\nos.write(1, b'x' * 79 + b'\\n')\nfor i in range(20000): print(i)\n"
    )
    run = cluster.launch(
        "job=command", "job.command=[python3,-S,train.py]", "tracking=none", "machine.ranks_per_node=2"
    )

    end = cluster.wait(run)

    assert end["state"] == "SUCCEEDED"
    for rank in (0, 1):
        said = (run / f"members/0/attempt-0/rank-{rank}.log").read_text().splitlines()
        assert said[1:] == [str(i) for i in range(20000)]
