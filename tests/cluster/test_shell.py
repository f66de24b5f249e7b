"""Beside a running rank on a real cluster, on its node and in its container: a command, and a shell on a terminal."""

from __future__ import annotations

import json
import sys

import pytest

from tests.cluster.harness import Cluster, attempts, until
from tests.terminal import CTRL_C, PROMPTS, Terminal, commands

pytestmark = pytest.mark.slurm
HOLDS = (
    "touch $FAIRLEAD_MEMBER_DIR/begun-$RANK; touch /tmp/mine; until [ -e $FAIRLEAD_MEMBER_DIR/go ]; do sleep 0.1; done"
)
JOB = ("job=command", f"job.command={json.dumps(['sh', '-c', HOLDS])}", "job.metrics.kind=none", "tracking=none")


@pytest.mark.apptainer
def test_command_is_in_the_container_of_its_rank_and_outlives_no_member(cluster: Cluster) -> None:
    run = cluster.launch(*JOB, "container=pytorch-cpu", "machine.nodes=2")
    until(lambda: (run / "members/0/begun-1").exists())

    show = "hostname; ls /tmp/mine; echo $RANK of $WORLD_SIZE in $APPTAINER_CONTAINER; pwd"
    found = json.loads(
        cluster.fairlead("shell", str(run), "--rank", "1", "--json", "--", "sh", "-c", show).stdout,
    )
    lines = found["output"].splitlines()
    assert lines[0] == found["host"] and lines[1] == "/tmp/mine"
    assert lines[2].startswith("1 of 2 in ") and lines[2].endswith(".sif")
    assert lines[3] == str(run / "members/0/project")
    other = json.loads(cluster.fairlead("shell", str(run), "--json", "--", "hostname").stdout)
    assert other["output"].strip() == other["host"] != found["host"]
    (run / "members/0/go").touch()
    assert cluster.wait(run)["state"] == "SUCCEEDED"


@pytest.mark.apptainer
@pytest.mark.parametrize("box", ["none", "pytorch-cpu"])
def test_shell_on_a_terminal_takes_its_keys_and_size_and_leaves_the_job_alone(cluster: Cluster, box: str) -> None:
    run = cluster.launch(*JOB, f"container={box}")
    until(lambda: (run / "members/0/begun-0").exists())
    words = [sys.executable, "-m", "launchers.cli", "shell", str(run)]

    with Terminal(words, cluster.work) as screen:
        screen.until("leave with: exit")
        screen.until(*PROMPTS)
        screen.type("echo rank=$RANK in=${APPTAINER_CONTAINER##*.} $(stty size); PS1=ready'> '\n")
        assert screen.until("ready> ").count(f"rank=0 in={'' if box == 'none' else 'sif'} 33 101\r\n") == 1
        screen.resize((44, 120))
        screen.type("until [ \"$(stty size)\" = '44 120' ]; do sleep 0.1; done; sleep 317; echo slept=$?\n")
        screen.type("\n")
        screen.until("\r\n")
        until(lambda: "sleep\x00317" in commands())
        screen.type(CTRL_C)
        screen.until("ready> ")
        screen.type("echo was=$?\n")
        assert "was=130" in screen.until("was=130")
        screen.type("exit 5\n")
        assert screen.ended() == 0

    assert cluster.status(run)["state"] == "RUNNING" and not attempts(run)
    (run / "members/0/go").touch()
    assert cluster.wait(run)["state"] == "SUCCEEDED"
