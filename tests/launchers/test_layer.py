"""Sources that are installed for a job, by the real pip on this host's Python: once, whole, and offline."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from launchers.errors import SiteError, SpecError
from launchers.programs import start
from launchers.programs.interpreter import Interpreter
from launchers.programs.layer import Layer, Wanted, ensure_installed, why_broken
from launchers.run_folder.record import locked
from tests.cluster.harness import until
from tests.launchers.programs import project, wheel, wheelhouse

TASK = {"trainer/__init__.py": "", "trainer/task.py": "import greeting\nprint(greeting.TEXT)\n"}


def wanted(source: Path, house: Path | None, python: str = sys.executable) -> Wanted:
    return Wanted(source=source, wheelhouse=house, interpreter=Interpreter(python=python), image_digest="")


def installed(source: Path, house: Path | None, runs: Path) -> tuple[Layer, list[str]]:
    """The layer, and what was said meanwhile."""
    said: list[str] = []
    return ensure_installed(wanted(source, house), runs, said.append), said


@pytest.fixture
def house(workdir: Path) -> Path:
    return wheelhouse(workdir / "house")


@pytest.fixture
def mine(workdir: Path) -> Path:
    return project(workdir / "my_project", TASK)


def test_layer_of_a_folder_is_installed_once_and_anew_when_the_folder_changes(
    mine: Path, house: Path, workdir: Path
) -> None:
    before = sorted(mine.rglob("*"))
    first, said = installed(mine, house, workdir / "runs")
    again, silent = installed(mine, house, workdir / "runs")

    assert first == again and len(said) == 1 and silent == []
    assert {"trainer/task.py", "my_project-0.1.dist-info/METADATA"} <= set(first.own)
    assert set(first.packages) == {"my_project==0.1", "greeting==1.0"}
    assert sorted(mine.rglob("*")) == before, "the user's folder is as it was"
    assert first.modules.parent.parent.stat().st_mode & 0o777 == 0o700
    run = [sys.executable, *start.start_of(first.modules, first.own, "here")]
    done = subprocess.run(run, env={"PYTHONPATH": str(first.modules)}, capture_output=True, text=True, check=True)
    assert done.stdout == "hello\n"

    (mine / "src/trainer/task.py").write_text("print('changed')\n")
    changed, said = installed(mine, house, workdir / "runs")
    assert changed.modules != first.modules and len(said) == 1
    wheel(house, "greeting", {"greeting.py": "TEXT = 'good day'\n"}, version="1.1")
    assert "greeting==1.1" in installed(mine, house, workdir / "runs")[0].packages


def test_layer_of_a_wheel_leaves_out_what_its_python_has(house: Path, workdir: Path) -> None:
    path = wheel(workdir, "small", {"small/__init__.py": "", "small/__main__.py": "print('small')\n"})
    layer, _ = installed(path, house, workdir / "runs")

    assert layer.packages == ("small==1.0",)
    assert start.start_of(layer.modules, layer.own, "") == ("-m", "small")
    has_pip = project(workdir / "p", TASK)
    (has_pip / "pyproject.toml").write_text((has_pip / "pyproject.toml").read_text().replace('"greeting"', '"pip"'))
    assert installed(has_pip, house, workdir / "runs")[0].packages == ("my_project==0.1",)


def test_layer_that_lost_a_file_is_told_on_the_node_and_installed_anew_at_launch(
    mine: Path, house: Path, workdir: Path
) -> None:
    layer, _ = installed(mine, house, workdir / "runs")
    assert why_broken(layer.modules, layer.digest) == ""
    assert "expected sha256:0" in why_broken(layer.modules, "sha256:0")

    (layer.modules / "greeting.py").write_text("x")
    assert "gone" in why_broken(layer.modules, layer.digest)
    again, said = installed(mine, house, workdir / "runs")
    assert again == layer and len(said) == 1 and why_broken(layer.modules, layer.digest) == ""


def test_layer_is_waited_for_while_another_installs_and_what_it_left_is_removed(
    mine: Path, house: Path, workdir: Path
) -> None:
    layer, _ = installed(mine, house, workdir / "runs")
    folder = layer.modules.parent
    shutil.rmtree(folder)
    left = folder.with_name(f".{folder.name}.killed")
    left.mkdir()
    found, said = list[Layer](), list[str]()
    runs = workdir / "runs"
    other = threading.Thread(target=lambda: found.append(ensure_installed(wanted(mine, house), runs, said.append)))
    with locked(folder.with_name(f"{folder.name}.lock")):
        other.start()
        until(lambda: said)
        assert said == [f"{folder.name} is being installed by another launch; waiting"]
        assert not folder.exists()
    other.join(60)

    assert found == [layer] and not left.exists()


@pytest.mark.parametrize(
    ("spoilt", "words"),
    [
        ('requires = ["no-such-backend"]', ["no-such-backend", "pip wheel said", "has to be in"]),
        ('dependencies = ["nowhere-to-be-had"]', ["nowhere-to-be-had", "pip install said", "has to be in"]),
    ],
)
def test_source_that_does_not_install_is_told_with_pips_last_lines(
    mine: Path, house: Path, workdir: Path, spoilt: str, words: list[str]
) -> None:
    key = spoilt.partition(" ")[0]
    lines = (mine / "pyproject.toml").read_text().splitlines()
    text = "\n".join(spoilt if line.startswith(key) else line for line in lines)
    (mine / "pyproject.toml").write_text(text)

    with pytest.raises(SiteError) as caught:
        installed(mine, house, workdir / "runs")

    assert all(word in str(caught.value) for word in words)
    store = list((workdir / "runs/.layers").iterdir())
    assert not [path for path in store if path.is_dir()]
    assert "ERROR" in next(path for path in store if path.suffix == ".log").read_text()


def test_python_that_is_not_there_is_told(mine: Path, workdir: Path) -> None:
    with pytest.raises(SiteError, match="there is no Python /nowhere/python"):
        ensure_installed(wanted(mine, None, "/nowhere/python"), workdir / "runs", print)


@pytest.mark.parametrize(
    ("files", "scripts", "begins"),
    [
        (("a/__init__.py", "a/__main__.py"), {}, "-m a"),
        (("trainer/__init__.py", "trainer/task.py", "trainer/model.py"), {}, "-m trainer.task"),
        (("a/cli.py",), {"train-it": "a.cli:main"}, "bin/train-it"),
        (("a/cli.py",), {"other": "a.cli:x", "my-project": "a.cli:main"}, "bin/my-project"),
        (("a/cli.py",), {"other": "a.cli:x", "third": "a.cli:main"}, None),
        (("a/__main__.py", "b/__main__.py"), {}, None),
        (("a/one.py", "a/two.py"), {}, None),
    ],
)
def test_start_is_found_where_it_is_clear_and_asked_for_where_not(
    tmp_path: Path, files: tuple[str, ...], scripts: dict[str, str], begins: str | None
) -> None:
    info = "my_project-0.1.dist-info"
    (tmp_path / info).mkdir()
    text = "".join(f"{name} = {target}\n" for name, target in scripts.items())
    (tmp_path / info / "entry_points.txt").write_text(f"[console_scripts]\n{text}")
    own = (*files, f"{info}/METADATA", f"{info}/entry_points.txt")

    if begins is None:
        with pytest.raises(SpecError, match=r"is not clear.*\n.*where.*\n.*do +name one: job\.module=a\."):
            start.start_of(tmp_path, own, "job.source=x")
    else:
        assert " ".join(start.start_of(tmp_path, own, "")).removeprefix(f"{tmp_path}/") == begins


def looked_for(module: str, folder: Path) -> str | None:
    argv = [sys.executable, "-c", start.LOOK, module, str(folder)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True)
    missing: str | None = json.loads(done.stdout)["missing"]
    return missing


def test_module_is_looked_for_without_importing_anything(tmp_path: Path) -> None:
    for file in ("a/__init__.py", "a/task.py", "a/b/__init__.py", "a/b/__main__.py", "one.py"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("raise SystemExit('imported')\n")

    known = ("a.task", "a.b", "one", "json.tool", "sys")
    assert [looked_for(module, tmp_path) for module in known] == [None] * 5
    assert looked_for("a.tsk", tmp_path) == "a.tsk"
    assert looked_for("a", tmp_path) == "a.__main__"
    assert looked_for("nope.x", tmp_path) == "nope"
