"""Programs that double without end, run by a real supervisor: as root, for whom the kernel has no ceiling, and as a
user for whom it has one; on the host and in a container. In a cage: the machine outlives whatever is wrong here.
"""

from __future__ import annotations

import dataclasses
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from launchers.host.fork_ceiling import room
from launchers.plan import plans_document
from launchers.run_folder.record import Run, append_line, write_json
from launchers.wrapped import Wrapping
from tests.cage import cage, inside
from tests.cluster.harness import ROOT
from tests.launchers.test_misbehaving import BOXES, box_of, image, log, outcome, place
from tests.plans import plan_of_run, pool_plan

__all__ = ["cage", "image", "place"]
MOST = 100
IN_GROUP = ("bash", "-c", ":(){ :|:& };:; sleep 90")
IN_SESSIONS = (
    "python3",
    "-Sc",
    """
import os, time
while True:
    try:
        if os.fork() == 0:
            os.setsid()
        os.fork()
    except OSError:
        time.sleep(0.1)
""",
)


@dataclass(frozen=True)
class Prisoner:
    """Whoever runs a Python in a cage."""

    cage: Path
    user: pwd.struct_passwd
    python: str

    def argv(self, *words: object) -> list[str]:
        ids = (f"--reuid={self.user.pw_uid}", f"--regid={self.user.pw_gid}", "--clear-groups")
        enter = ("sh", "-c", 'echo $$ > "$0" && exec "$@"', self.cage / "cgroup.procs")
        return list(map(str, (*enter, "setpriv", *ids, "env", self.python, *words)))  # env by then has no capability


@pytest.fixture
def prisoner(cage: Path, name: str) -> Prisoner:
    """With the first Python that this user may read."""
    user = pwd.getpwnam(name)
    for python in (sys.executable, "/usr/local/bin/python3", "/usr/bin/python3"):
        found = Prisoner(cage, user, python)
        if subprocess.run(found.argv("-c", "import tomllib"), capture_output=True, timeout=60).returncode == 0:
            return found
    pytest.skip(f"needs a Python 3.11 that {name} may read")


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that another user may enter, with code that it may read."""
    path = Path(tempfile.mkdtemp(prefix="fairlead-bomb-"))
    path.chmod(0o755)
    for package in ("launchers", "conf"):
        shutil.copytree(ROOT / package, path / "code" / package, ignore=shutil.ignore_patterns("__pycache__"))
    yield path
    shutil.rmtree(path)


def run_of(folder: Path, argv: tuple[str, ...], place: Path | None, prisoner: Prisoner) -> Run:
    """A frozen run that belongs to this user, and so does its image."""
    run = Run(folder / "runs" / f"d-{os.getpid()}")
    run.path.mkdir(parents=True)
    (run.path / "code").mkdir()
    (run.path / "code" / "fairlead").symlink_to(folder / "code")
    box = box_of(run, Path(shutil.copy(place, folder))) if place else None
    wrapping = Wrapping(log_bytes=10**9, max_processes=MOST, progress_s=1.0)
    plan = plan_of_run(run, pool_plan(argv, container=box), wrapping=wrapping)
    write_json(run.plan, plans_document([dataclasses.replace(plan, python=prisoner.python)]))
    write_json(run.spec, {"name": "d", "seed": 1})
    append_line(run.members_file, {"index": 0, "point": {}, "sections": {}})
    subprocess.run(["chown", "-R", f"{prisoner.user.pw_uid}:{prisoner.user.pw_gid}", folder], check=True)
    return run


@pytest.mark.parametrize("place", ["host", *BOXES[:1]], indirect=True)
@pytest.mark.parametrize(
    ("name", "argv"),
    [("root", IN_GROUP), ("nobody", IN_GROUP), ("nobody", IN_SESSIONS)],
    ids=["root", "user", "user, out of its group"],
)
def test_program_that_doubles_without_end_is_ended_and_named(
    folder: Path, prisoner: Prisoner, place: Path | None, argv: tuple[str, ...]
) -> None:
    run = run_of(folder, argv, place, prisoner)
    env = {**os.environ, "PYTHONPATH": str(folder / "code"), "HOME": str(folder)}

    supervised = prisoner.argv("-m", "launchers.host.supervise", run.path)
    done = subprocess.run(supervised, env=env, capture_output=True, text=True, timeout=90)

    assert done.returncode == 1, done.stderr
    found = outcome(run)
    assert (found["state"], found["cause"]) == ("FAILED", "user_error"), found
    assert f"processes at once on one node, and job.max_processes is {MOST}" in found["message"]
    assert f"and job.max_processes is {MOST}\n" in log(run).read_text()
    assert inside(prisoner.cage) == []


CEILING = """
import os, resource, sys, threading, time
sys.path.insert(0, sys.argv[1])
from launchers.host import fork_ceiling
fork_ceiling.OF_A_PROCESS, fork_ceiling.OF_A_CPU = 3, 0
threads = [threading.Thread(target=time.sleep, args=(60,), daemon=True) for _ in range(20)]
for thread in threads: thread.start()
_, allowed = resource.getrlimit(resource.RLIMIT_NPROC)
fork_ceiling.set_ceiling(40)
begun = []
try:
    while len(begun) < 1000:
        begun.append(os.fork())
        if not begun[-1]: time.sleep(60)
except BlockingIOError: pass
for pid in begun: os.kill(pid, 9)
soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
print(len(begun), hard == allowed, flush=True)
os._exit(0)
"""


@pytest.mark.parametrize(("name", "forks"), [("daemon", 120), ("root", 1000)])
def test_ceiling_has_room_above_what_its_user_has_and_holds_for_anybody_but_root(
    folder: Path, prisoner: Prisoner, forks: int
) -> None:
    argv = prisoner.argv("-Sc", CEILING, folder / "code")

    said = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout

    assert said == f"{forks} True\n"


LOWER = """
import resource
from launchers.host.fork_ceiling import set_ceiling
set_ceiling(1)
print(*resource.getrlimit(resource.RLIMIT_NPROC))
"""


def test_ceiling_that_is_lower_stays() -> None:
    argv = ["prlimit", "--nproc=7:9", sys.executable, "-c", LOWER]

    said = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True, cwd=ROOT).stdout

    assert said == "7 9\n"


@pytest.mark.parametrize(("most", "cpus", "threads"), [(4096, 2, 16_896), (100, 64, 16_784)])
def test_ceiling_grows_with_what_a_node_is_made_for(most: int, cpus: int, threads: int) -> None:
    assert room(most, cpus) == threads
