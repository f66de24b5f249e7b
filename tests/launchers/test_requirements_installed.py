"""Requirements that are installed for a job by the real pip: once, beside any kind of program, here and in an image."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from launchers.errors import SiteError
from launchers.programs.interpreter import Interpreter
from launchers.programs.layer import Layer, Wanted, ensure_installed
from launchers.programs.requirements import read
from tests.cluster.harness import ROOT, Cluster, attempts
from tests.launchers.programs import project, wheel, wheelhouse

TRAIN = """
import json, os, sys
import greeting, near
print(json.dumps({"files": [greeting.__file__, near.__file__], "argv": sys.argv[1:], "cwd": os.getcwd()}))
"""
WHERE = ("tracking=none", "job.metrics.kind=none")
ASKED = "job.requirements=requirements.txt"


@pytest.fixture
def here(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """A folder with a script, a module of its own and a requirement."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name, text in (("train.py", TRAIN), ("near.py", ""), ("requirements.txt", "greeting\n")):
        (workdir / name).write_text(text)
    return Cluster(workdir, first=())


@pytest.fixture
def house(workdir: Path) -> Path:
    return wheelhouse(workdir / "house")


def installed(text: str, house: Path | None, runs: Path, source: Path | None = None) -> Layer:
    file = runs.parent / "requirements.txt"
    file.write_text(text)
    asked = read(file, offline=house is not None)
    interpreter = Interpreter(python=sys.executable)
    wanted = Wanted(source=source, requirements=asked, wheelhouse=house, interpreter=interpreter, image_digest="")
    return ensure_installed(wanted, runs, print)


def sha256(wheel: Path) -> str:
    return f"--hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}"


def said_by(run: Path) -> dict[str, Any]:
    """The program's last line; the job must have ended well."""
    log = run / "members/0/attempt-0/rank-0.log"
    assert [a["state"] for a in attempts(run, 0)] == ["SUCCEEDED"], log.read_text()
    document: dict[str, Any] = json.loads(log.read_text().splitlines()[-1])
    return document


def layers(work: Path) -> list[Path]:
    return sorted((work / "runs/.layers").glob("*/modules"))


def test_script_in_a_folder_with_requirements_runs_by_one_command_and_installs_once(here: Cluster, house: Path) -> None:
    words = ("job=script", "job.script=train.py", ASKED, f"job.wheelhouse={house}", "params.lr=0.1", *WHERE)

    first = here.fairlead("launch", *words, "--json")

    run = Path(json.loads(first.stdout)["run_dir"])
    (layer,) = layers(here.work)
    said = said_by(run)
    assert said["files"] == [str(layer / "greeting.py"), str(run / "members/0/project/near.py")]
    assert said["argv"] == ["--lr=0.1"] and said["cwd"] == str(run / "members/0/project")
    assert "installing requirements.txt for Python" in first.stderr and "is there" not in first.stderr
    (told,) = json.loads((run / "provenance.json").read_text())["installed"]
    assert (told["packages"], told["folder"], told["start"]) == (["greeting==1.0"], str(layer), [])

    again = here.fairlead("launch", *words)
    assert "installing" not in again.stderr and layers(here.work) == [layer]
    wheel(house, "salute", {"salute.py": ""})
    (here.work / "requirements.txt").write_text("greeting\nsalute\n")
    assert "installing" in here.fairlead("launch", *words).stderr and len(layers(here.work)) == 2


def test_requirements_are_for_the_python_that_a_command_begins_with(here: Cluster, house: Path) -> None:
    python = here.work / "bin/python3"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexport MINE=1\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    words = ("job=command", f"job.command=[{python},train.py]", ASKED, f"job.wheelhouse={house}", *WHERE)

    said_by(here.launch(*words))
    (here.work / "requirements.txt").write_text("nowhere-to-be-had\n")
    done = here.fairlead("launch", *words, check=False)

    assert done.returncode == 3
    for text in (f"cannot be installed for {python}: pip install said", "nowhere-to-be-had", "job.requirements;"):
        assert text in done.stderr


def test_module_of_the_project_or_of_what_is_required_is_found(here: Cluster, house: Path) -> None:
    words = ("job=module", ASKED, f"job.wheelhouse={house}", *WHERE)

    mine = here.launch("job.module=train", *words)
    theirs = here.launch("job.module=greeting", *words)
    done = here.fairlead("launch", "job.module=greting", *words, check=False)

    assert said_by(mine)["files"][1] == str(mine / "members/0/project/near.py")
    assert [a["state"] for a in attempts(theirs, 0)] == ["SUCCEEDED"]
    assert done.returncode == 2 and "did you mean greeting?" in done.stderr


def test_requirements_are_added_to_what_a_source_installs(house: Path, workdir: Path) -> None:
    mine = project(workdir / "mine", {"mine/__init__.py": "", "mine/task.py": ""})
    salute = wheel(house, "salute", {"salute.py": ""})
    runs = workdir / "runs"

    alone = installed("greeting", house, runs)
    both = installed("salute", house, runs, mine)
    hashed = f"greeting==1.0 {sha256(house / 'greeting-1.0-py3-none-any.whl')}\nsalute==1.0 {sha256(salute)}"

    assert (alone.packages, alone.own) == (("greeting==1.0",), ())
    assert both.packages == ("greeting==1.0", "my_project==0.1", "salute==1.0") and "mine/task.py" in both.own
    assert installed(hashed, house, runs, mine).packages == both.packages
    assert installed("pip", house, runs).packages == (), "Python has it"


def test_requirements_with_hashes_install_these_files_and_no_others(house: Path, workdir: Path) -> None:
    right, wrong = sha256(house / "greeting-1.0-py3-none-any.whl"), f"--hash=sha256:{'0' * 64}"

    assert installed(f"greeting==1.0 {wrong} {right}", house, workdir / "runs").packages == ("greeting==1.0",)
    with pytest.raises(SiteError, match="DO NOT MATCH THE HASHES"):
        installed(f"greeting==1.0 {wrong}", house, workdir / "runs")


def test_constraint_is_kept_to_and_installs_nothing(house: Path, workdir: Path) -> None:
    wheel(house, "greeting", {"greeting.py": ""}, version="1.1")
    wheel(house, "salute", {"salute.py": ""})
    (workdir / "bounds.txt").write_text("greeting<1.1\nsalute<2\n")

    assert installed("greeting", house, workdir / "runs").packages == ("greeting==1.1",)
    assert installed("greeting\n-c bounds.txt", house, workdir / "runs").packages == ("greeting==1.0",)


def test_package_in_a_git_repository_is_installed(house: Path, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(house))  # what it is built with
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    project(workdir / "theirs/below", {"theirs.py": ""}, name="theirs")
    for words in ("init -q", "add .", "-c user.name=x -c user.email=x@y commit -qm x"):
        subprocess.run(["git", *words.split()], cwd=workdir / "theirs", check=True, timeout=30)
    address = f"git+{(workdir / 'theirs').as_uri()}#subdirectory=below"

    assert installed(address, None, workdir / "runs").packages == ("greeting==1.0", "theirs==0.1")


class Index(BaseHTTPRequestHandler):
    """A package index that one has to be known to."""

    password, house = "canary-of-an-index", Path()

    def do_GET(self) -> None:
        who = base64.b64encode(f"me:{self.password}".encode()).decode()
        known = self.headers.get("Authorization") == f"Basic {who}"
        name = self.path.strip("/").split("/")[-1]
        file = self.house / name
        links = "".join(f'<a href="/{p.name}">{p.name}</a>' for p in self.house.glob(f"{name}-*.whl"))
        body = file.read_bytes() if file.is_file() else f"<!DOCTYPE html><html><body>{links}</body></html>".encode()
        self.send_response(200 if known else 401)
        self.send_header("Content-Type", "text/html")
        self.send_header("WWW-Authenticate", 'Basic realm="x"')
        self.send_header("Content-Length", str(len(body) * known))
        self.end_headers()
        self.wfile.write(body * known)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def index(house: Path) -> Iterator[str]:
    """Its address, without who asks."""
    Index.house = house
    with ThreadingHTTPServer(("127.0.0.1", 0), Index) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def test_password_of_an_index_is_used_and_stands_in_nothing_that_is_kept(
    here: Cluster, index: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INDEX_PASSWORD", Index.password)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    (here.work / "requirements.txt").write_text(
        f"--index-url http://me:${{INDEX_PASSWORD}}@{index}/simple --trusted-host 127.0.0.1\n"
        f"greeting\nsalute @ http://me:${{INDEX_PASSWORD}}@{index}/salute-1.0-py3-none-any.whl\n"
    )
    wheel(Index.house, "salute", {"salute.py": ""})
    words = ("job=script", "job.script=train.py", ASKED, *WHERE)

    done = here.fairlead("launch", *words, "--json")
    planned = here.fairlead("plan", *words, "--json")

    run = Path(json.loads(done.stdout)["run_dir"])
    (told,) = json.loads((run / "provenance.json").read_text())["installed"]
    assert told["packages"] == ["greeting==1.0", "salute==1.0"]
    shown = "".join((done.stdout, done.stderr, planned.stdout, planned.stderr))
    files = (path for path in here.work.rglob("*") if path.is_file())
    assert Index.password not in shown and not [p for p in files if Index.password.encode() in p.read_bytes()]
    (here.work / "requirements.txt").write_text(f"nowhere @ http://x:${{INDEX_PASSWORD}}@{index}/no-1.whl\n")
    refused = here.fairlead("launch", *words, check=False)
    assert refused.returncode == 3 and Index.password not in refused.stderr


def test_requirements_that_nobody_asked_for_are_named_and_not_installed(here: Cluster, house: Path) -> None:
    hint = "requirements.txt is there and not installed; job.requirements=requirements.txt installs it"
    words = ("job=script", "job.script=train.py", *WHERE)

    assert hint in here.fairlead("plan", *words).stderr
    assert hint in here.fairlead("launch", *words, check=False).stderr and not layers(here.work)
    asked = (*words, ASKED, f"job.wheelhouse={house}")
    planned = here.fairlead("plan", *asked)
    assert hint not in planned.stderr and "<installed at launch>" in planned.stdout
    assert "BAD" not in here.fairlead("check", *asked, check=False).stdout and not layers(here.work)


def test_folder_that_is_no_package_is_told_how_it_runs_as_a_script(here: Cluster) -> None:
    done = here.fairlead("launch", "job=module", "job.source=.", check=False)

    assert done.returncode == 2 and "a folder with neither pyproject.toml nor setup.py" in done.stderr
    assert "job=script job.script=near.py" not in done.stderr
    assert "job=script job.script=train.py job.requirements=requirements.txt" in done.stderr


@pytest.mark.apptainer
def test_requirements_of_a_script_in_an_image_are_installed_by_its_python(here: Cluster, house: Path) -> None:
    if shutil.which("apptainer") is None:
        pytest.skip("needs Apptainer")
    (here.work / "requirements.txt").write_text("greeting\nnumpy\n")
    boxed = Cluster(here.work, first=("container=pytorch-cpu", "site=testbed"))

    run = boxed.launch("job=script", "job.script=train.py", ASKED, f"job.wheelhouse={house}", *WHERE)

    boxed.wait(run)
    (layer,) = layers(here.work)
    assert said_by(run)["files"] == [str(layer / "greeting.py"), str(run / "members/0/project/near.py")]
    (told,) = json.loads((run / "provenance.json").read_text())["installed"]
    assert told["packages"] == ["greeting==1.0"], "the image has numpy"
