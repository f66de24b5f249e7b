"""Programs of the user's own, run for real: here, and in an image by a real Apptainer."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.harness import ROOT, Cluster, attempts
from tests.launchers.programs import project, wheelhouse

APART = ("r_iris", "tensorflow_digits")
"""Examples that need more than is here: test_frameworks.py runs them."""
PROGRAMS = (p for p in (ROOT / "conf/experiment").glob("*.yaml") if "override /job:" in p.read_text())
EXAMPLES = sorted(p.stem for p in PROGRAMS if p.stem not in APART)
COMMANDS = "$(touch canary) `touch canary` ${HOME}; touch canary"
AWKWARD = ['it\'s "here"', COMMANDS, "one\ntwo", "", "*?[x] ~ # é 漢 \\n 100%"]
SAYS = """
import json, os, sys
import {packages}
with open(os.environ["FAIRLEAD_REPORTS"], "a") as f:
    f.write(json.dumps({{"step": 1, "loss": 0.5}}) + "\\n")
seen = {{"argv": sys.argv[1:], "cwd": os.getcwd(), "files": [m.__file__ for m in ({packages},)]}}
print(json.dumps(seen | {{"env": os.environ.get("AWKWARD")}}))
"""
OF_OURS = ("conf", "launchers", "trainer")
WHERE = ("tracking=none", "job.metrics.kind=jsonl", "objective.metric=loss")
CONF = str(ROOT / "tests/testbed/conf")
IN_IMAGE = ("container=pytorch-cpu", "site=testbed")


@pytest.fixture
def here(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return Cluster(workdir, first=())


@pytest.fixture
def boxed(here: Cluster) -> Cluster:
    if shutil.which("apptainer") is None:
        pytest.skip("needs Apptainer")
    return Cluster(here.work, first=IN_IMAGE)


def seen_by(run: Path, member: int = 0) -> dict[str, Any]:
    """What the program said; the job must have ended well."""
    log = run / f"members/{member}/attempt-0/rank-0.log"
    assert [a["state"] for a in attempts(run, member)] == ["SUCCEEDED"], log.read_text()
    document: dict[str, Any] = json.loads(log.read_text().splitlines()[-1])
    return document


def awkward(folder: Path, **job: object) -> tuple[str, ...]:
    """Words that choose an experiment with these arguments and variables, as YAML has them."""
    (folder / "conf/experiment").mkdir(parents=True)
    document = {"job": {"arguments": AWKWARD, **job}, "container": {"env": {"AWKWARD": COMMANDS}}}
    text = json.dumps(document).replace("${", "\\\\${")
    (folder / "conf/experiment/awkward.yaml").write_text(f"# @package _global_\n{text}\n")
    return ("--config-dir", str(folder / "conf"), "experiment=awkward")


def with_packages_of_ours(work: Path) -> None:
    """A script in a folder of a repository, beside packages that are called as Fairlead's."""
    for name in OF_OURS:
        (work / "sub" / name).mkdir(parents=True)
        (work / "sub" / name / "__init__.py").write_text("")
    (work / "sub/train.py").write_text(SAYS.format(packages=", ".join(OF_OURS)))
    subprocess.run(["git", "init", "-q"], cwd=work, check=True, timeout=30)


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_runs_and_reports_because_it_exists(here: Cluster, name: str) -> None:
    run = here.launch(f"experiment={name}", "tracking=none")

    end = here.wait(run)
    assert end["state"] == "SUCCEEDED", here.fairlead("logs", str(run)).stdout
    metric = json.loads((run / "spec.json").read_text())["objective"]["metric"]
    assert end["result"]["metrics"][metric] > 0.9


def test_script_here_gets_every_argument_unchanged_beside_packages_called_as_ours(here: Cluster) -> None:
    with_packages_of_ours(here.work)
    words = awkward(here.work, script="sub/train.py")

    run = here.launch(*words, "job=script", "params.lr=0.1", *WHERE)

    here.wait(run)
    said = seen_by(run)
    assert said["argv"] == [*AWKWARD, "--lr=0.1"] and said["env"] == COMMANDS
    assert said["files"] == [str(run / "members/0/project/sub" / name / "__init__.py") for name in OF_OURS]
    assert not list(here.work.rglob("canary"))


def test_grid_over_a_module_here_installs_its_source_once_and_each_member_has_its_parameters(here: Cluster) -> None:
    project(
        here.work / "mine", {"trainer/__init__.py": "", "trainer/task.py": SAYS.format(packages="greeting, trainer")}
    )
    house = wheelhouse(here.work / "house")
    words = ("job=module", "job.source=./mine", f"job.wheelhouse={house}", "job.arguments=[first]", *WHERE)

    run = here.launch("-m", *words, "params.lr=0.1,0.01")

    end = here.wait(run)
    assert end["result"]["best_member"] == 0
    for member, lr in enumerate(("0.1", "0.01")):
        said = seen_by(run, member)
        assert said["argv"] == ["first", f"--lr={lr}"] and said["cwd"] == str(run / f"members/{member}")
    (layer,) = (here.work / "runs/.layers").glob("*/modules")
    assert said["files"] == [str(layer / "greeting.py"), str(layer / "trainer/__init__.py")]
    assert json.loads((run / "provenance.json").read_text())["installed"][0]["packages"] == [
        "greeting==1.0",
        "my_project==0.1",
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("job=module", "job.module=mine.tsk"),
            ("job.module is 'mine.tsk', but mine has no tsk", "where  job.module", "did you mean task?"),
        ),
        (
            ("job=command", "job.command=[no-such-program]"),
            ("there is no program 'no-such-program' on this", "where  job.command", "install it"),
        ),
        (
            ("job=command", "job.command=[pwd]", "pools=[{},{job: {command: [no-such-worker]}}]"),
            ("there is no program 'no-such-worker' on this", "where  pools.1.job.command", "install it"),
        ),
        (
            ("job=module", "job.module=mine.task", "pools=[{},{job: {module: mine.wroker}}]"),
            ("mine has no wroker", "where  pools.1.job.module", "did you mean worker?"),
        ),
    ],
)
def test_program_that_is_not_there_is_told_before_anything_is_queued(
    here: Cluster, words: tuple[str, ...], said: tuple[str, ...]
) -> None:
    (here.work / "mine").mkdir()
    for name in ("__init__.py", "task.py", "worker.py"):
        (here.work / "mine" / name).write_text("")

    done = here.fairlead("launch", *words, *WHERE, check=False)

    assert done.returncode == 2
    for text in said:
        assert text in done.stderr
    assert not list((here.work / "runs").glob("run-*"))


def test_script_that_a_command_names_and_that_is_not_there_is_told_before_anything_is_queued(here: Cluster) -> None:
    (here.work / "train.py").write_text("")

    done = here.fairlead("launch", "job=command", "job.command=[python3,trian.py,--x]", *WHERE, check=False)

    assert done.returncode == 2 and "'trian.py'" in done.stderr and "did you mean train.py?" in done.stderr
    assert not list((here.work / "runs").glob("run-*"))


@pytest.mark.parametrize(
    ("in_git", "files", "said"),
    [
        (False, ("words.csv", "b.json", "c.txt", "d.bin"), "not b.json, c.txt, d.bin and 1 more; name it by its whole"),
        (True, ("words.csv", "large.bin"), "not copied with the job, larger than 10 MB: large.bin; name it by its"),
    ],
)
def test_file_that_does_not_come_with_the_job_is_told_at_launch(
    here: Cluster, in_git: bool, files: tuple[str, ...], said: str
) -> None:
    for name in files:
        (here.work / name).write_bytes(bytes(11_000_000 if name == "large.bin" else 1))
    if in_git:
        subprocess.run(["git", "init", "-q"], cwd=here.work, check=True, timeout=30)

    done = here.fairlead("launch", "job=command", "job.command=[pwd]", *WHERE, check=False)

    assert said in done.stderr and (not in_git or "words.csv" not in done.stderr)


@pytest.mark.apptainer
def test_module_in_an_image_is_installed_by_its_python_and_finds_what_the_image_has(boxed: Cluster) -> None:
    files = {"trainer/__init__.py": "", "trainer/task.py": SAYS.format(packages="greeting, trainer, torch")}
    project(boxed.work / "mine", files)
    house = wheelhouse(boxed.work / "house")
    words = awkward(boxed.work, source="mine", wheelhouse=str(house))

    run = boxed.launch(*words, "job=module", *WHERE)

    boxed.wait(run)
    said = seen_by(run)
    (layer,) = (boxed.work / "runs/.layers").glob("*/modules")
    assert said["argv"] == AWKWARD and said["env"] == COMMANDS and said["cwd"] == str(run / "members/0")
    assert said["files"][:2] == [f"{layer}/greeting.py", f"{layer}/trainer/__init__.py"]
    assert said["files"][2].startswith("/usr/")


@pytest.mark.apptainer
def test_script_in_an_image_imports_packages_called_as_ours(boxed: Cluster) -> None:
    with_packages_of_ours(boxed.work)

    run = boxed.launch("job=script", "job.script=sub/train.py", "job.arguments=[a]", *WHERE)

    boxed.wait(run)
    assert seen_by(run)["files"] == [str(run / "members/0/project/sub" / name / "__init__.py") for name in OF_OURS]


@pytest.mark.apptainer
def test_entry_point_or_program_that_an_image_lacks_is_told_before_anything_is_queued(boxed: Cluster) -> None:
    (boxed.work / "train.py").write_text("")
    asked = {
        ("job=command",): "the image has no entry point, and job.command is empty",
        ("job=command", "job.command=[trian]"): "the image has no program 'trian'",
        ("job=script", "job.script=train.py", "container.python=python9"): "there is no Python python9 of pytorch-cpu-",
    }
    for words, said in asked.items():
        done = boxed.fairlead("launch", "--config-dir", CONF, *IN_IMAGE, *words, check=False)
        assert done.returncode in (2, 3) and said in done.stderr and "  do     " in done.stderr, done.stderr
    assert not list((boxed.work / "runs").glob("run-*"))


@pytest.mark.apptainer
def test_entry_point_of_an_image_gets_the_arguments_and_parameters_unchanged(here: Cluster) -> None:
    if shutil.which("apptainer") is None:
        pytest.skip("needs Apptainer")
    image = entry_image(here.work)
    words = awkward(here.work)
    box = ("container=pytorch-cpu", f"container.image={image}")

    run = here.launch(*words, "job=command", *box, "params.lr=0.1", "tracking=none")

    here.wait(run)
    said = (run / "members/0/attempt-0/rank-0.log").read_bytes().decode().removesuffix("\n").split(r"\x00")
    assert said == ["entry", *AWKWARD, "--lr=0.1", ""]
    assert not list(here.work.rglob("canary"))


PRINTS = """
  printf '%s\\0' entry "$@"
"""


def entry_image(folder: Path, entry: str = PRINTS, programs: tuple[str, ...] = ("sh", "grep")) -> Path:
    """An image whose entry point prints its arguments, each with a null byte behind it, or does what `entry` says; of a
    busybox-sized tree."""
    tree = folder / "tree"
    (tree / "bin").mkdir(parents=True)
    for name in programs:
        _with_libraries(Path(str(shutil.which(name))).resolve(), tree / "bin" / name, tree)
    for name in ("dev", "proc", "sys", "tmp", "etc", "home", "var/tmp", "root"):
        (tree / name).mkdir(parents=True)
    (folder / "entry.def").write_text(f"Bootstrap: localimage\nFrom: {tree}\n%runscript{entry}")
    argv = ["apptainer", "build", "--fakeroot", "entry.sif", "entry.def"]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "entry.sif"


def _with_libraries(program: Path, target: Path, tree: Path) -> None:
    shutil.copy2(program, target)
    listed = subprocess.run(["ldd", str(program)], capture_output=True, text=True, timeout=30, check=True).stdout
    for library in (word for word in listed.split() if word.startswith("/")):
        (tree / library[1:]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(library, tree / library[1:])
