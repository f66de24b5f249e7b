"""Somebody without root's rights, as on every cluster: his containers write into layers of their own, and leave nothing
on the node. Real Apptainer, in user namespaces."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster.harness import ROOT, Cluster, attempts, left_of, until
from tests.launchers.programs import project, wheelhouse
from tests.launchers.test_isolation import LAYERS
from tests.launchers.test_programs import entry_image

pytestmark = [pytest.mark.apptainer, pytest.mark.timeout(600)]
NUMBER = 48211
"""Of a user and a group that nobody has."""
TASK = """
import os, pathlib, shutil, tempfile
import greeting
rank = os.environ["RANK"]
pathlib.Path("/etc/debian_version").unlink()
shutil.rmtree("/usr/share/base-files")
for folder in ("/opt/closed-" + rank, "/tmp/closed-" + rank):
    pathlib.Path(folder, "of-" + rank).mkdir(parents=True)
    pathlib.Path(folder).chmod(0)
for folder in ("/etc", "/tmp", "/var/tmp", "/dev/shm", str(pathlib.Path.home()), tempfile.gettempdir()):
    pathlib.Path(folder, "of-" + rank).write_text(greeting.TEXT)
print("wrote all, of", sorted(path.name for path in pathlib.Path("/etc").glob("of-*")))
"""


@dataclass(frozen=True)
class Person:
    """A user with a home of his own."""

    folder: Path

    @property
    def scratch(self) -> Path:
        return self.folder / "scratch"

    @property
    def temporary(self) -> Path:
        return self.folder / "tmp"

    def launch(self, *words: str) -> Path:
        where = (f"site.scratch_dir={self.scratch}", "tracking=none", "job.metrics.kind=none")
        env = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        env |= {"HOME": str(self.folder / "home"), "TMPDIR": str(self.temporary), "PYTHONPATH": str(ROOT)}
        argv = [sys.executable, "-m", "launchers.cli", "launch", "--json", *where, *words]
        done = self.run(argv, env)
        assert done.returncode == 0, done.stdout + done.stderr
        return Path(json.loads(done.stdout)["run_dir"])

    def run(self, argv: list[str], env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        argv = [*(as_somebody(self.folder) if os.getuid() == 0 else ()), *argv]
        cwd = self.folder / "work"
        return subprocess.run(argv, env=env, cwd=cwd, capture_output=True, text=True, timeout=400, check=False)

    def has(self, image: Path) -> Path:
        """The image, where he may read it."""
        copy = Path(shutil.copyfile(image, self.folder / "images" / image.name))
        copy.chmod(0o644)
        return copy


def as_somebody(folder: Path) -> list[str]:
    """What stands in front of a command that a user shall give, who is known in a mount namespace of the command's own.
    What is needed of ours, and others may not go to, as below /root, is mounted there again where it is."""
    lines, again = [f"mkdir -p {folder}/again"], f"{folder}/again"
    for name in ("passwd", "group"):
        entry = f"somebody:x:{NUMBER}:" + (f"{NUMBER}::{folder}/home:/bin/sh" if name == "passwd" else "")
        lines += [f"cp /etc/{name} {again}/{name}", f"echo {entry} >> {again}/{name}"]
        lines += [f"mount --bind {again}/{name} /etc/{name}"]
    needed = dict.fromkeys(str(Path(name).resolve()) for name in (sys.base_prefix, sys.prefix, ROOT))
    closed = {path: top for path in needed if (top := closed_above(Path(path)))}
    for number, path in enumerate(closed):
        lines += [f"mkdir -p {again}/{number}", f"mount --bind {shlex.quote(path)} {again}/{number}"]
    lines += [f"mount -t tmpfs -o mode=755 tmpfs {shlex.quote(top)}" for top in dict.fromkeys(closed.values())]
    for number, path in enumerate(closed):
        lines += [f"mkdir -p {shlex.quote(path)}", f"mount --bind {again}/{number} {shlex.quote(path)}"]
    drop = ["setpriv", f"--reuid={NUMBER}", f"--regid={NUMBER}", "--clear-groups", "--bounding-set=-all"]
    return ["unshare", "--mount", "--propagation=private", "sh", "-euc", "; ".join([*lines, 'exec "$@"']), "sh", *drop]


def closed_above(path: Path) -> str | None:
    """The first folder on the way to a path that others may not pass."""
    way = [*reversed(path.parents), path]
    return next((str(each) for each in way if not each.stat().st_mode & 0o001), None)


@pytest.fixture
def person() -> Iterator[Person]:
    if shutil.which("apptainer") is None:
        pytest.skip("needs Apptainer")
    before = os.umask(0o022)  # who ran in this process before may have closed everything to others
    folder = Path(tempfile.mkdtemp(prefix="fairlead-person-", dir="/tmp"))  # pytest's own are closed to others
    folder.chmod(0o755)
    for name in ("home", "work", "scratch", "tmp", "images"):
        (folder / name).mkdir()
        if os.getuid() == 0:
            os.chown(folder / name, NUMBER, NUMBER)
    yield Person(folder)
    os.umask(before)
    shutil.rmtree(folder)


def left_by(person: Person, run: Path) -> list[str]:
    """What is still there of a run: processes, and files outside the run and his home."""
    own = [str(path) for place in (person.scratch, person.temporary) for path in place.iterdir()]
    places = (path for top in ("/tmp", "/var/tmp", "/dev/shm") for path in Path(top).iterdir() if os.getuid() == 0)
    others = [str(path) for path in places if path.lstat().st_uid == NUMBER]
    return [*left_of(run), *own, *others]


def test_layer_over_an_image_with_a_source_leaves_nothing_of_a_user(person: Person, pytorch: Path) -> None:
    work = person.folder / "work"
    project(work / "mine", {"mine/__init__.py": "", "mine/task.py": TASK}, name="mine")
    wheelhouse(work / "house")
    image = person.has(pytorch)

    run = person.launch(
        "job=module", "job.source=mine", "job.module=mine.task", f"job.wheelhouse={work / 'house'}",
        "container.runtime=apptainer", f"container.image={image}", "container.writable=true",
        "machine.ranks_per_node=2", "job.restarts.crash=0",
    )  # fmt: skip

    logs = [(run / f"members/0/attempt-0/rank-{rank}.log").read_text() for rank in (0, 1)]
    assert [a["state"] for a in attempts(run)] == ["SUCCEEDED"], logs
    assert [log.splitlines()[-1] for log in logs] == [f"wrote all, of ['of-{rank}']" for rank in (0, 1)]
    if os.getuid() == 0:
        assert run.stat().st_uid == NUMBER
    until(lambda: not left_by(person, run), 20)


def test_layer_of_an_entry_point_leaves_nothing_of_a_user(person: Person, tmp_path: Path) -> None:
    image = person.has(entry_image(tmp_path, LAYERS, ("sh", "sleep")))

    run = person.launch(
        "job=command", "container.runtime=apptainer", f"container.image={image}", "machine.ranks_per_node=2"
    )

    logs = [(run / f"members/0/attempt-0/rank-{rank}.log").read_text() for rank in (0, 1)]
    assert [a["state"] for a in attempts(run)] == ["SUCCEEDED"], logs
    assert logs == ["/etc/of-rank-0 ", "/etc/of-rank-1 "]
    until(lambda: not left_by(person, run), 20)


@pytest.fixture
def pytorch(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An image with Python."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return Cluster(workdir, first=()).image("pytorch-cpu")
