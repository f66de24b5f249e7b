"""A command beside a running rank on this machine, and what is said where there is none."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from tests.cluster.harness import ROOT, Cluster, until
from tests.launchers.test_programs import CONF, entry_image
from tests.terminal import CTRL_C, PROMPTS, Terminal, commands

HOLDS = "touch $FAIRLEAD_MEMBER_DIR/begun; until [ -e $FAIRLEAD_MEMBER_DIR/go ]; do sleep 0.1; done"
JOB = ("job=command", f"job.command={json.dumps(['sh', '-c', HOLDS])}", "job.metrics.kind=none", "tracking=none")


@pytest.fixture
def laptop(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return Cluster(workdir, first=())


def test_command_beside_a_rank_has_its_names_and_folder_and_an_ended_one_is_refused(laptop: Cluster) -> None:
    client = laptop.start(*JOB, "machine.ranks_per_node=2", "job.parameters=environment", "params.note='it is; $(x)'")
    run = until(lambda: next((laptop.work / "runs").glob("run-*"), None))
    until(lambda: (run / "members/0/begun").exists())

    show = 'echo "$RANK $LOCAL_RANK/$WORLD_SIZE $NOTE $AIP_MODEL_DIR $MASTER_PORT"; pwd; exit 3'
    done = laptop.fairlead("shell", run.name, "--rank", "1", "--json", "--", "sh", "-c", show, check=False)
    found = json.loads(done.stdout)
    port = json.loads((run / "members/0/attempt-0/located.json").read_text())["port"]
    assert done.returncode == 1 and found["exit_code"] == 3 and found["rank"] == 1
    assert found["output"].splitlines() == [
        f"1 1/2 it is; $(x) {run}/members/0/model/ {port}",
        str(run / "members/0/project"),
    ]
    begun = (run / "members/0/attempt-0/ledger.jsonl").read_text()
    assert begun.count("program_begin") == 1 and not list((run / "shell").iterdir())

    for words, said in ((("--rank", "2"), "there is no rank 2"), (("--member", "1"), "there is no member 1")):
        refused = laptop.fairlead("shell", run.name, *words, "--", "true", check=False)
        assert refused.returncode == 2 and said in refused.stderr
    no_terminal = laptop.fairlead("shell", run.name, check=False)
    assert no_terminal.returncode == 2 and "needs a terminal" in no_terminal.stderr
    (run / "members/0/go").touch()
    client.communicate(timeout=60)
    ended = laptop.fairlead("shell", run.name, "--", "true", check=False)
    assert ended.returncode == 2 and "member 0 has ended: it is SUCCEEDED" in ended.stderr


def test_shell_on_this_machine_is_left_by_its_keys_and_the_job_goes_on(laptop: Cluster) -> None:
    client = laptop.start(*JOB)
    run = until(lambda: next((laptop.work / "runs").glob("run-*"), None))
    until(lambda: (run / "members/0/begun").exists())
    words = [sys.executable, "-m", "launchers.cli", "shell", run.name]

    with Terminal(words, laptop.work) as screen:
        screen.until("leave with: exit")
        screen.until(*PROMPTS)
        screen.type("PS1=ready'> '\n")
        screen.until("ready> ")
        screen.type("sleep 319\n")
        until(lambda: "sleep\x00319" in commands())
        screen.type(CTRL_C)
        screen.until("ready> ")
        screen.type("\x04")  # Ctrl-D
        assert screen.ended() == 0
    with Terminal([*words, "--", "sh", "-c", "sleep 323"], laptop.work) as screen:
        until(lambda: "sleep\x00323" in commands())
        screen.type(CTRL_C)
        assert screen.ended() != 0 and "Traceback" not in screen.shown

    assert laptop.status(run)["state"] == "RUNNING"
    (run / "members/0/go").touch()
    client.communicate(timeout=60)
    assert client.returncode == 0 and laptop.status(run)["state"] == "SUCCEEDED"


@pytest.mark.apptainer
def test_command_beside_an_images_own_entry_point_does_not_begin_that_again(laptop: Cluster) -> None:
    if shutil.which("apptainer") is None:
        pytest.skip("needs Apptainer")
    image = entry_image(laptop.work, f"\n  {HOLDS}\n", ("sh", "touch", "sleep"))
    box = ("container=pytorch-cpu", f"container.image={image}", "job.metrics.kind=none", "tracking=none")
    client = laptop.start("--config-dir", CONF, "job=command", *box)
    run = until(lambda: next((laptop.work / "runs").glob("run-*"), None))
    until(lambda: (run / "members/0/begun").exists())

    said = laptop.fairlead("shell", run.name, "--", "sh", "-c", 'echo "beside $RANK"', timeout_s=60).stdout

    assert said == "beside 0\n"
    (run / "members/0/go").touch()
    client.communicate(timeout=60)
    assert client.returncode == 0
