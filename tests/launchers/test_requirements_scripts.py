"""Console scripts of what pip installed for a job: found by their names, and run by the Python of the job."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.harness import ROOT, TESTBED, Cluster, attempts
from tests.launchers.programs import wheel

TOOL = """
import json, sys
def main():
    print(json.dumps({"python": sys.executable, "file": __file__, "argv": sys.argv[1:], "script": sys.argv[0]}))
"""
TRAIN = "import subprocess\nsubprocess.run(['tool', 'from', 'train.py'], check=True)\n"
POINTS = "[console_scripts]\ntool = tool:main\n"
ASKED = ("job.requirements=requirements.txt", "tracking=none", "job.metrics.kind=none")


@pytest.fixture
def here(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """A folder with a script that calls a tool which is nowhere but in a wheel."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    assert shutil.which("tool") is None
    wheel(workdir / "house", "tool", {"tool.py": TOOL, "tool-1.0.dist-info/entry_points.txt": POINTS})
    (workdir / "train.py").write_text(TRAIN)
    (workdir / "requirements.txt").write_text("tool\n")
    return Cluster(workdir, first=(f"job.wheelhouse={workdir / 'house'}", *ASKED))


def said_by(run: Path) -> dict[str, Any]:
    """What the tool says; the job must have ended well."""
    log = run / "members/0/attempt-0/rank-0.log"
    assert [a["state"] for a in attempts(run, 0)] == ["SUCCEEDED"], log.read_text()
    said: dict[str, Any] = json.loads(log.read_text().splitlines()[-1])
    return said


def layer_of(here: Cluster) -> Path:
    (layer,) = (here.work / "runs/.layers").glob("*/modules")
    return layer


def test_tool_is_found_by_a_script_and_as_the_command_itself(here: Cluster) -> None:
    called = said_by(here.launch("job=script", "job.script=train.py"))
    itself = said_by(here.launch("job=command", "job.command=[tool,launch,train.py]", "params.lr=0.1"))

    layer = layer_of(here)
    where = {"file": str(layer / "tool.py"), "script": str(layer / "bin/tool"), "python": sys.executable}
    assert called == {**where, "argv": ["from", "train.py"]}
    assert itself == {**where, "argv": ["launch", "train.py", "--lr=0.1"]}


def test_tool_comes_before_one_of_the_same_name_and_hides_nothing_from_what_starts_it(here: Cluster) -> None:
    """A tool may be called as a command that rank.sh itself needs."""
    names = ("tool", "date", "mkdir", "sh")
    points = "[console_scripts]\n" + "".join(f"{name} = tool:main\n" for name in names)
    wheel(here.work / "house", "tool", {"tool.py": TOOL, "tool-1.0.dist-info/entry_points.txt": points})
    (here.work / "train.py").write_text(TRAIN.replace("'tool'", "'date'"))

    said = said_by(here.launch("job=script", "job.script=train.py", "site.env.PATH=/usr/bin:/bin"))

    assert said["script"] == str(layer_of(here) / "bin/date")


def test_tool_of_a_copy_on_the_nodes_disk_is_that_of_the_copy(here: Cluster) -> None:
    scratch = here.work / "scratch"

    said = said_by(
        here.launch("job=script", "job.script=train.py", "site.image_local=true", f"site.scratch_dir={scratch}")
    )

    for name in ("file", "script"):
        assert Path(said[name]).is_relative_to(scratch), said


def test_tool_is_run_by_the_python_that_a_command_begins_with(here: Cluster) -> None:
    mine = here.work / "venv/bin/python3"
    mine.parent.mkdir(parents=True)
    mine.symlink_to(sys.executable)
    (here.work / "venv/pyvenv.cfg").write_text(
        f"home = {Path(sys.executable).parent}\ninclude-system-site-packages = true\n"
    )

    said = said_by(here.launch("job=command", f"job.command=[{mine},train.py]"))

    assert said["python"] == str(mine)


def test_tool_that_no_requirement_brings_is_told_before_anything_is_queued(here: Cluster) -> None:
    done = here.fairlead("launch", *here.first, "job=command", "job.command=[toool,launch]", check=False)
    looked = here.fairlead("check", *here.first, "job=command", "job.command=[tool,launch]", check=False)

    assert done.returncode == 2 and "there is no program 'toool' on this machine's PATH" in done.stderr
    assert not list((here.work / "runs").glob("run-*"))
    assert "it has to come with job.requirements, which launch installs" in looked.stdout, looked.stdout + looked.stderr


@pytest.mark.apptainer
@pytest.mark.timeout(600)
def test_tool_is_found_in_an_image_and_run_by_its_python(here: Cluster) -> None:
    if shutil.which("apptainer") is None:
        pytest.skip("needs Apptainer")
    boxed = Cluster(here.work, first=(*here.first, "container=pytorch-cpu", "site=testbed"))
    runs = [
        boxed.launch("job=script", "job.script=train.py"),
        boxed.launch("job=command", "job.command=[tool,launch]"),
        boxed.launch("job=script", "job.script=train.py", "container.env.PATH=/usr/bin:/bin"),
        boxed.launch("job=script", "job.script=train.py", "container.host_env=[PATH]"),
    ]

    for run in runs:
        boxed.wait(run)
        said, layer = said_by(run), layer_of(here)
        assert (said["script"], said["file"]) == (str(layer / "bin/tool"), str(layer / "tool.py"))
        assert said["python"].startswith("/usr/") and said["python"] != sys.executable
    words = ("--config-dir", str(TESTBED / "conf"), *boxed.first, "job=command", "job.command=[toool]")
    done = boxed.fairlead("launch", *words, check=False)
    assert done.returncode == 2 and "the image has no program 'toool'" in done.stderr, done.stderr
