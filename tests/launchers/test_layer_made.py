"""Sources that are installed by several at once, or by one who is killed; source distributions; and layers that go."""

from __future__ import annotations

import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest

from launchers import layers
from launchers.errors import EXIT_DONE
from launchers.launch import Request
from launchers.programs import layer_pruning, start
from launchers.programs.interpreter import Interpreter
from launchers.programs.layer import Layer, Wanted, ensure_installed, lock_of, why_broken
from launchers.programs.layer_pruning import DAY_S, Kept, Limits, judge
from launchers.run_folder.record import locked, write_json
from tests.cluster.harness import until
from tests.conftest import ROOT
from tests.launchers.programs import BACKEND, project, wheel, wheelhouse

TASK = {"trainer/__init__.py": "", "trainer/task.py": "import greeting\nprint(greeting.TEXT)\n"}
ASKS = """
import sys
from pathlib import Path
from launchers.programs.interpreter import Interpreter
from launchers.programs.layer import Wanted, ensure_installed
source, house, runs = map(Path, sys.argv[1:])
asked = Wanted(source=source, wheelhouse=house, interpreter=Interpreter(python=sys.executable), image_digest="")
print(ensure_installed(asked, runs, lambda text: print(text, file=sys.stderr, flush=True)).digest)
"""
HELD = """
import os, pathlib, time
hold = pathlib.Path(os.environ.get("TEST_HOLD", "/nowhere"))
if hold.exists():
    hold.with_name("building").touch()
    while hold.exists():
        time.sleep(0.02)
"""
"""Before a wheel is built."""
STAYS = """
import time
from launchers.programs import layer
layer._describe = lambda *_: time.sleep(600)
"""
"""Where all has been copied, and nothing has its name yet."""


def asker(mine: Path, house: Path, hold: Path, patch: str = "") -> subprocess.Popen[str]:
    """Another launch that asks for the layer; `patch` is Python that runs before it does."""
    argv = [sys.executable, "-c", patch + ASKS, str(mine), str(house), str(mine.parent / "runs")]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TEST_HOLD": str(hold)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(argv, text=True, env=env, **pipes)


def installed(source: Path, house: Path, runs: Path) -> Layer:
    here = Interpreter(python=sys.executable)
    return ensure_installed(Wanted(source=source, wheelhouse=house, interpreter=here, image_digest=""), runs, print)


@pytest.fixture
def house(workdir: Path) -> Path:
    return wheelhouse(workdir / "house")


@pytest.fixture
def mine(workdir: Path) -> Path:
    return project(workdir / "my_project", TASK)


@pytest.mark.timeout(900)
def test_installer_killed_while_it_builds_or_copies_leaves_nothing_that_is_taken_for_a_layer(
    mine: Path, workdir: Path
) -> None:
    house, hold, store = wheelhouse(workdir / "held"), workdir / "hold", workdir / "runs/.layers"
    wheel(house, "tinybuild", {"tinybuild.py": BACKEND.replace("def build_wheel", HELD + "\ndef build_wheel")})
    copied = ".*/whole/modules/trainer/task.py"
    hold.touch()
    for patch, moment in (("", (workdir / "building").exists), (STAYS, lambda: list(store.glob(copied)))):
        killed = asker(mine, house, hold, patch)
        until(moment, 200, pause_s=0.02)
        killed.send_signal(signal.SIGKILL)
        killed.communicate(timeout=100)
        hold.unlink(missing_ok=True)
        assert [path for path in store.glob("*/layer.json") if not path.parent.name.startswith(".")] == []
        assert [path.name for path in store.glob(".*") if path.is_dir()], "it was killed in the middle"

    again = asker(mine, house, hold)
    digest, said = again.communicate(timeout=200)

    assert again.returncode == 0, said
    (layer,) = (path for path in store.iterdir() if path.is_dir())
    assert why_broken(layer / "modules", digest.strip()) == ""
    argv, env = [sys.executable, "-m", "trainer.task"], {"PYTHONPATH": str(layer / "modules")}
    assert subprocess.run(argv, env=env, capture_output=True, text=True, check=True).stdout == "hello\n"


def test_four_launches_at_once_install_once(mine: Path, house: Path, workdir: Path) -> None:
    hold = workdir / "no-hold"
    asked = [asker(mine, house, hold) for _ in range(4)]

    ends = [each.communicate(timeout=120) for each in asked]

    assert len({digest for digest, _ in ends}) == 1 and all(each.returncode == 0 for each in asked), ends
    assert sum("installing my-project" in said for _, said in ends) == 1


def setuptools_wheel(folder: Path) -> None:
    """The installed setuptools, as a wheel again."""
    own = importlib.metadata.distribution("setuptools")
    with zipfile.ZipFile(folder / f"setuptools-{own.version}-py3-none-any.whl", "w") as made:
        for file in own.files or ():
            if ".." not in file.parts and "__pycache__" not in file.parts:
                made.write(file.locate(), str(file))
    wheel(folder, "wheel", {})  # which an older pip asks for beside it; setuptools has its own


PYPROJECT = '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
CFG = (
    "[metadata]\nname = my-sdist\nversion = 0.2\n[options]\npackages = trainer\ninstall_requires = greeting\n"
    "[options.package_data]\ntrainer = *.txt\n"
)


@pytest.mark.parametrize(
    "described",
    [
        {"setup.py": "from setuptools import setup\nsetup()\n", "setup.cfg": CFG},
        {"pyproject.toml": PYPROJECT, "setup.cfg": CFG},
        {
            "pyproject.toml": PYPROJECT
            + '[project]\nname = "my-sdist"\nversion = "0.2"\ndependencies = ["greeting"]\n'
            + '[tool.setuptools]\npackages = ["trainer"]\npackage-data = {trainer = ["*.txt"]}\n'
        },
    ],
    ids=["setup.cfg", "setup.cfg-and-pyproject", "pyproject"],
)
def test_source_distribution_is_built_offline_with_its_data_files_and_starts(
    described: dict[str, str], house: Path, workdir: Path
) -> None:
    setuptools_wheel(house)
    folder, sdist = workdir / "my-sdist-0.2", workdir / "my-sdist-0.2.tar.gz"
    for name, text in {**TASK, **described, "trainer/words.txt": "words"}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    with tarfile.open(sdist, "w:gz") as made:
        made.add(folder, folder.name)

    layer = installed(sdist, house, workdir / "runs")

    assert layer.packages == ("greeting==1.0", "my_sdist==0.2") and layer.modules.parent.name.startswith("my-")
    assert (layer.modules / "trainer/words.txt").read_text() == "words"
    run = [sys.executable, *start.start_of(layer.modules, layer.own, "here")]
    done = subprocess.run(run, env={"PYTHONPATH": str(layer.modules)}, capture_output=True, text=True, check=True)
    assert done.stdout == "hello\n"


def aged(runs: Path, name: str, days: float) -> Path:
    """What is taken for a layer that a launch used so many days ago."""
    folder, t = runs / ".layers" / name, time.time() - days * DAY_S
    (folder / "modules").mkdir(parents=True)
    (folder / "modules/a.py").write_text("pass\n")
    write_json(folder / "layer.json", {"digest": "", "source": "", "own": [], "packages": [], "sizes": {"a.py": 5}})
    lock_of(folder).touch()
    os.utime(folder, (t, t))
    return folder


def test_prune_removes_layers_that_no_unfinished_job_uses_and_says_why_others_stay(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, ages = workdir / "runs", {"used": 40.0, "old": 40.0, "recent": 5.0, "new": 0.0}
    used, old, recent, new = (aged(runs, name, days) for name, days in ages.items())
    (runs / "job-1").mkdir()
    plan = {"launcher": "slurm", "plans": [{"pools": [{"installed": {"folder": str(used / "modules")}}]}]}
    (runs / "job-1/plan.json").write_text(json.dumps(plan))
    (runs / "job-1/members.jsonl").write_text('{"index": 0, "point": {}, "sections": {}}\n')
    (runs / "job-1/submit.jsonl").write_text("")
    left = runs / f".layers/.{old.name}.killed"
    left.mkdir()
    monkeypatch.setattr(layers, "status_of", lambda *_, **__: type("Now", (), {"state": "RUNNING"}))
    request, limits = Request(overrides=()), Limits(days=30)

    dry = layers.prune(request, limits, really=False)

    why = {entry.path: entry.kept for entry in dry.entries}
    expected = {used: "job-1, which is RUNNING", old: "", left: "", recent: "used 5 day(s) ago"}
    assert why == {**expected, new: "used within the hour"}
    assert old.exists() and left.exists() and dry.freed > 0
    with locked(lock_of(old)):
        layers.prune(request, limits, really=True)
        assert old.exists() and left.exists(), "somebody installs it just now"
    layers.prune(request, limits, really=True)
    assert sorted(path for path in (runs / ".layers").iterdir() if path.is_dir()) == sorted([used, recent, new])
    monkeypatch.setattr(layers, "status_of", lambda *_, **__: type("Now", (), {"state": "SUCCEEDED"}))
    assert [e.path for e in layers.prune(request, limits, really=True).entries if not e.kept] == [used]


def test_prune_to_a_size_removes_what_was_not_used_longest() -> None:
    now, gb = 1e9, int(1e9)
    days = {"new": 1, "old": 20, "needed": 25, "older": 21}
    seen = [Kept(Path(n), gb, now - d * DAY_S, "job" if n == "needed" else "") for n, d in days.items()]

    assert [k.path.name for k in judge(seen, Limits(gb=2.5), now) if not k.why] == ["old", "older"]
    assert [k.path.name for k in judge(seen, Limits(gb=0.1), now) if not k.why] == ["new", "old", "older"]
    assert [k.why for k in judge(seen, Limits(), now)] == [
        "used 1 day(s) ago",
        "used 20 day(s) ago",
        "job",
        "used 21 day(s) ago",
    ]


def test_image_prune_lists_layers_beside_images(workdir: Path) -> None:
    folder = aged(workdir / "runs", "mine-0123", 40)
    argv = [sys.executable, "-m", "launchers.cli", "image", "prune", f"site.images_dir={workdir}/none", "--days", "30"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}

    dry = subprocess.run(argv, capture_output=True, text=True, env=env, check=False, timeout=60)
    done = subprocess.run([*argv, "--yes", "--json"], capture_output=True, text=True, env=env, check=False, timeout=60)

    assert dry.returncode == done.returncode == EXIT_DONE, dry.stderr + done.stderr
    assert f"{folder}" in dry.stdout and "1 layer(s) would be removed" in dry.stdout and "add --yes" in dry.stdout
    (row,) = json.loads(done.stdout)["layers"]
    assert row == {"path": str(folder), "size": row["size"], "kept": None} and not folder.exists()
    assert layer_pruning.prune(workdir / "nothing", {}, Limits(), really=True) == []
