"""Programs that misbehave, run by a real supervisor: the run stays bounded, the log readable, the node clean.

What a program can do to its node it can do from a container as well: those are run there, too, by a real Apptainer, as
root and in a user namespace, whose file systems are processes themselves.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conf.job_schema import Metrics
from conf.machine_schema import Container
from launchers.apptainer import container
from launchers.host.ranks import last_lines
from launchers.jobs.logs import Choice, lines
from launchers.plan import plans_document
from launchers.run_folder.log_parts import files_of
from launchers.run_folder.record import Run, append_line, read_json, read_lines, write_json
from launchers.wrapped import Wrapping
from tests.cluster.harness import Cluster, left_of, until
from tests.launchers.tracked import put_our_code, spec_of
from tests.plans import plan_of_run, pool_plan

Make = Callable[..., Run]
Start = Callable[..., "subprocess.Popen[str]"]
DAEMON = """
import os, subprocess, sys, time
SLEEP = "import time; time.sleep(97)"
def daemon(close, env):
    if os.fork():
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    if close:
        for fd in range(3):
            os.dup2(os.open(os.devnull, os.O_RDWR), fd)
    os.execve(sys.executable, [sys.executable, "-c", SLEEP, MARKER], env)
"""
BOXES = [pytest.param(name, marks=pytest.mark.apptainer) for name in ("container", "user namespace")]
ANYWHERE = pytest.mark.parametrize("place", ["host", *BOXES], indirect=True)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Cluster(tmp_path_factory.mktemp("image")).image("pytorch-cpu")


@pytest.fixture
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Path | None:
    """The image that programs run in; none where they run on the host, as those of most tests."""
    where = getattr(request, "param", "host")
    if where == "host":
        return None
    if shutil.which("apptainer") is None:
        pytest.skip("needs Apptainer")
    if where == "user namespace":
        monkeypatch.setenv("APPTAINER_USERNS", "1")
    found: Path = request.getfixturevalue("image")
    return found


def box_of(run: Run, image: Path, **more: Any) -> container.ContainerPlan:
    spec = spec_of()
    pool = dataclasses.replace(spec.pools[0], container=Container(runtime="apptainer", image=str(image), **more))
    return container.plan_of(pool, spec, run.path, None, None)


@pytest.fixture
def make_run(workdir: Path, place: Path | None) -> Make:
    """A frozen run of a command: `make_run("print(1)", log_bytes=10**6)`."""

    def make(program: str, *, ranks: int = 1, argv: tuple[str, ...] = (), wrapped: bool = True, **more: Any) -> Run:
        run = Run(workdir / "runs" / f"d-{os.getpid()}")  # its name is that of its folders on the node, too
        run.path.mkdir(parents=True)
        put_our_code(run.path)
        python = sys.executable if place is None else "python3"
        words = argv or (python, "-Suc", program.replace("MARKER", repr(f"{run.path}/members")))
        metrics, of_box = more.pop("metrics", Metrics()), more.pop("box", {})
        limits: dict[str, Any] = {"log_bytes": 10**9, "max_processes": 4096, "max_disk_bytes": None, "progress_s": 1.0}
        pool = pool_plan(words, ranks_per_node=ranks, container=box_of(run, place, **of_box) if place else None)
        plan = plan_of_run(run, pool, metrics=metrics, wrapping=Wrapping(**limits | more) if wrapped else None)
        write_json(run.plan, plans_document([plan]))
        write_json(run.spec, {"name": "d", "seed": 1})
        append_line(run.members_file, {"index": 0, "point": {}, "sections": {}})
        return run

    return make


def ended(process: subprocess.Popen[str]) -> int:
    said, _ = process.communicate(timeout=60)
    assert "Traceback" not in said, said
    return process.returncode


def outcome(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = read_json(run.member(0).attempts()[-1].outcome)
    return found


def log(run: Run, rank: int = 0) -> Path:
    return run.member(0).attempts()[-1].rank_log(rank)


@ANYWHERE
@pytest.mark.parametrize(
    ("close", "env"), [(True, "dict(os.environ)"), (False, "{}"), (True, "{}")], ids=["closes", "forgets", "both"]
)
def test_program_that_daemonises_leaves_nothing_behind(make_run: Make, start: Start, close: bool, env: str) -> None:
    """One that both closes its output and forgets its environment is known by its parent, if it had one for a while."""
    code, seen = DAEMON, "pass"
    if close and env == "{}":  # stays a child for long enough to be seen
        code, seen = DAEMON.replace("    if os.fork():\n        os._exit(0)\n", ""), "time.sleep(10)"
    run = make_run(f"{code}\ndaemon({close}, {env})\n{seen}\nprint('done')")

    assert ended(start(run)) == 0

    assert outcome(run)["state"] == "SUCCEEDED"
    assert left_of(run.path) == []
    assert "that the program had left behind were ended" in log(run).read_text()


@ANYWHERE
def test_program_that_fails_and_leaves_something_behind_has_its_own_last_word(make_run: Make, start: Start) -> None:
    run = make_run(f"{DAEMON}\ndaemon(True, dict(os.environ))\nsys.exit('it was this')")

    assert ended(start(run)) == 1

    assert outcome(run)["message"] == "it was this"


@ANYWHERE
def test_program_that_leaves_nothing_behind_is_told_nothing(make_run: Make, start: Start) -> None:
    run = make_run("import subprocess, sys; subprocess.run(['echo', 'a']); print('b')", ranks=2)

    assert ended(start(run)) == 0

    assert [log(run, rank).read_text() for rank in (0, 1)] == ["a\nb\n", "a\nb\n"]


FORKS = """
import os, sys, time
for i in range(300):
    if os.fork() == 0:
        SESSION
        time.sleep(90)
        os._exit(0)
time.sleep(LEFT)
"""


@ANYWHERE
@pytest.mark.parametrize(("session", "left"), [("pass", 90), ("os.setsid()", 0)], ids=["stays", "leaves with 0"])
def test_program_that_forks_without_end_is_ended_and_named(
    make_run: Make, start: Start, session: str, left: int
) -> None:
    code = FORKS.replace("SESSION", session).replace("LEFT", str(left))
    run = make_run(f"{code}\nMARKER", max_processes=100)

    assert ended(start(run)) == 1

    found = outcome(run)
    assert (found["state"], found["cause"], found["first_rank"]) == ("FAILED", "user_error", 0)
    assert "processes at once on one node, and job.max_processes is 100" in found["message"]
    assert left_of(run.path) == []


@pytest.mark.parametrize(
    ("place", "folder"), [("host", "CHECKPOINTS"), *((box, "'/tmp'") for box in BOXES)], indirect=["place"]
)
def test_program_that_hoards_on_a_disk_is_ended_and_named(make_run: Make, start: Start, folder: str) -> None:
    """What its ranks have there together, in its member's folder and on a node's own disk."""
    code = f"""
import os, time
CHECKPOINTS = os.environ["AIP_CHECKPOINT_DIR"]
with open({folder} + "/kept-" + os.environ["RANK"], "wb") as file:
    file.truncate(10**12)  # a hole takes nothing
    file.write(os.urandom(40 * 10**6))
time.sleep(95)
"""
    run = make_run(f"{code}\nMARKER", ranks=2, max_disk_bytes=60 * 10**6)

    assert ended(start(run)) == 1

    found = outcome(run)
    assert (found["state"], found["cause"], found["first_rank"]) == ("FAILED", "user_error", 0)
    said = rf"it had 0\.0[678]\d* GB in /\S+ on {os.uname().nodename}, and job.max_disk_gb is 0\.06$"
    assert re.search(said, found["message"]), found["message"]
    assert left_of(run.path) == []


@pytest.mark.parametrize("place", BOXES, indirect=True)
def test_program_that_hoards_in_shared_memory_is_ended_and_named(make_run: Make, start: Start) -> None:
    code = """
import os, time
with open("/dev/shm/kept-" + os.environ["RANK"], "wb") as file:
    file.write(os.urandom(40 * 10**6))
time.sleep(95)
"""
    run = make_run(f"{code}\nMARKER", ranks=2, box={"shm_gb": 0.06})

    assert ended(start(run)) == 1

    found = outcome(run)
    assert (found["state"], found["cause"], found["first_rank"]) == ("FAILED", "user_error", 0)
    said = rf"it had 0\.0[678]\d* GB in /dev/shm/\S+ on {os.uname().nodename}, and container.shm_gb is 0.06$"
    assert re.search(said, found["message"]), found["message"]
    assert left_of(run.path) == []


@ANYWHERE
def test_program_that_ignores_sigterm_with_children_is_killed_after_the_grace(make_run: Make, start: Start) -> None:
    code = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(95)", MARKER], start_new_session=True)
print("deaf")
time.sleep(95)
"""
    run = make_run(code)
    process = start(run, patch="import launchers.host.ranks as r; r.KILL_AFTER_S = 0.3")
    deadline = time.monotonic() + 90
    while not (run.member(0).attempts() and log(run).exists() and log(run).read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    write_json(run.cancelled, {})

    process.terminate()

    assert ended(process) == 1
    assert outcome(run)["state"] == "CANCELLED"
    assert left_of(run.path) == []


KILLS = """
import os, pathlib, time
def parent(pid): return int(pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
pathlib.Path(os.environ["FAIRLEAD_MEMBER_DIR"], "session").write_text(str(os.getsid(0)))
for folder in ("/dev/shm", "/tmp"):
    pathlib.Path(folder, "kept").touch()
os.kill(WHOM, 9)
time.sleep(93)
"""


def in_its_session(run: Run) -> list[str]:
    """What serves a container its file systems is known by nothing else."""
    argv = ["ps", "-s", (run.member(0).path / "session").read_text(), "-o", "stat=,args="]
    found = subprocess.run(argv, capture_output=True, text=True, check=False).stdout
    return [line for line in found.splitlines() if not line.startswith("Z")]


@pytest.mark.parametrize("place", BOXES, indirect=True)
@pytest.mark.parametrize("wrapped", [True, False], ids=["command", "trainer"])
def test_container_that_is_killed_takes_its_file_systems_with_it(make_run: Make, start: Start, wrapped: bool) -> None:
    run = make_run(KILLS.replace("WHOM", "os.getppid()"), wrapped=wrapped)

    assert ended(start(run)) == 1

    assert outcome(run)["signal"] == 9
    assert in_its_session(run) == []


@pytest.mark.parametrize("place", BOXES, indirect=True)
@pytest.mark.parametrize("wrapped", [True, False], ids=["command", "trainer"])
def test_container_ends_with_its_supervisor(make_run: Make, start: Start, wrapped: bool) -> None:
    run = make_run(KILLS.replace("WHOM", "parent(os.getppid())"), wrapped=wrapped)

    assert ended(start(run)) == -9

    until(lambda: not in_its_session(run))
    until(lambda: not left_of(run.path))


@ANYWHERE
def test_program_that_prints_a_line_without_end_has_a_readable_log(make_run: Make, start: Start) -> None:
    run = make_run("import os\nfor _ in range(100): os.write(1, b'x' * 2**20)\nos.write(1, b'\\nafter\\n')")

    assert ended(start(run)) == 0

    first, second, rest = log(run).read_text().split("\n")
    assert first.endswith("more characters of this line are left out]") and len(first) < 2**16
    assert (second, rest) == ("after", "")


@ANYWHERE
def test_program_that_prints_binary_has_a_readable_log(make_run: Make, start: Start) -> None:
    run = make_run("import os\nos.write(1, bytes(range(256)) + b'\\n')\nos.write(2, b'after\\n')")

    assert ended(start(run)) == 0

    text = log(run).read_text(encoding="utf-8")
    assert text.endswith("\\xff\nafter\n") and "\\x00\\x01" in text


def test_program_that_prints_without_end_keeps_its_beginning_and_its_newest(make_run: Make, start: Start) -> None:
    code = "for i in range(200_000): print(f'step {i} loss={i}.5')"
    metrics = Metrics(kind="pattern", pattern=r"^step (?P<step>\d+) (?P<metric>\w+)=(?P<value>[\d.]+)99$")
    run = make_run(code.replace(".5", "99"), metrics=metrics, log_bytes=400_000)

    assert ended(start(run)) == 0

    attempt = run.member(0).attempts()[-1]
    files = files_of(attempt.rank_log(0))
    shown = [line for _, line in lines(run, Choice())]
    reports = read_lines(attempt.path / "reports.jsonl")
    assert len(files) == 3 and sum(path.stat().st_size for path in files) < 420_000
    assert shown[0] == "step 0 loss=099" and shown[-1] == "step 199999 loss=19999999"
    assert any(line.startswith("fairlead: output from byte") for line in shown)
    assert last_lines(attempt.rank_log(0))[-1] == shown[-1]
    assert (reports[0]["step"], reports[-1]["step"]) == (0, 199999)
    assert len({row["step"] for row in reports}) == len(reports)


@pytest.mark.parametrize(("kills", "cause"), [(4, "out_of_memory"), (3, "crash")])
def test_program_that_is_killed_when_the_kernel_makes_room_is_told_from_one_that_somebody_kills(
    make_run: Make, start: Start, tmp_path: Path, kills: int, cause: str
) -> None:
    counted = tmp_path / "vmstat"
    counted.write_text("nr_free_pages 7\noom_kill 3\n")
    run = make_run(
        f"import os; open({str(counted)!r}, 'w').write('oom_kill {kills}\\n'); os.kill(os.getpid(), 9)",
    )

    patch = f"import pathlib, launchers.host.memory as m; m.VMSTAT = pathlib.Path({str(counted)!r})"
    assert ended(start(run, patch=patch)) == 1

    found = outcome(run)
    assert (found["state"], found["cause"], found["signal"]) == ("FAILED", cause, 9)
    assert ("had no memory left" in found["message"]) == (cause == "out_of_memory")


def test_program_is_what_hears_signals_and_whose_status_counts(make_run: Make, start: Start) -> None:
    run = make_run("import os, signal; print(os.getppid()); os.kill(os.getpid(), signal.SIGSEGV)")

    assert ended(start(run)) == 1

    assert outcome(run)["signal"] == 11


def test_program_inherits_what_a_shell_would_have_given_it(make_run: Make, start: Start) -> None:
    """Python ignores two signals and may set LC_CTYPE; neither is the program's.

    What the tests were started with stays: signal 32 is glibc's own, and whoever ignores it cannot be undone.
    """
    ignored = subprocess.run(["grep", "SigIgn", "/proc/self/status"], capture_output=True, text=True, check=True)
    script = "grep SigIgn /proc/self/status; ls /proc/self/fd; env"
    run = make_run("", argv=("sh", "-c", script))

    assert ended(start(run, LC_ALL="", LANG="", LC_CTYPE="C", PYTHONCOERCECLOCALE="0")) == 0

    said = log(run).read_text().splitlines()
    assert said[0] == ignored.stdout.strip()
    assert not int(said[0].split()[1], 16) & (1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1)
    assert said[1:5] == ["0", "1", "2", "3"] and not said[5].isdigit(), "the last is that of the listing"
    assert "LC_CTYPE=C" in said


def test_program_whose_disk_is_full_goes_on_and_its_output_is_missed(
    tmp_path: Path, make_run: Make, start: Start
) -> None:
    if os.getuid() != 0:
        pytest.skip("needs root, to mount a small disk")
    code = """
import fcntl, os, termios, time
here = os.environ["FAIRLEAD_ATTEMPT_DIR"]
with open(here + "/fill", "wb", buffering=0) as f:
    try:
        while f.write(bytes(4096)): pass
    except OSError: pass
for _ in range(300): print("lost " * 20)
while any(fcntl.ioctl(1, termios.FIONREAD, bytes(4))): time.sleep(0.01)  # until all of it was read
time.sleep(0.5)
os.unlink(here + "/fill")
print("kept")
"""
    run = make_run(code)
    folder = run.path / "members"
    folder.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=5m", "tmpfs", str(folder)], check=True)
    try:
        assert ended(start(run)) == 0
        text = log(run).read_text()
        assert outcome(run)["state"] == "SUCCEEDED"
        assert "bytes of output are lost, as the disk took none" in text and text.endswith("kept\n")
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
