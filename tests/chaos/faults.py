"""The faults themselves: what each does to a run that is under way, and what undoes it afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.cases import Case
from tests.chaos.stored import Store
from tests.chaos.training import ROOT, Place

TESTBED = ROOT / "tests" / "testbed" / "testbed"
CONTROLLER = "10.77.0.254"
"""What the cluster's hosts reach of this machine."""


@dataclass
class Live:
    """A case under way."""

    case: Case
    place: Place
    run: Path
    hosts: tuple[int, ...]
    """Of the test cluster, on which this case runs alone."""
    client: subprocess.Popen[bytes]
    """The command that launched."""
    store: Store | None = None
    pids: list[int] = field(default_factory=list)
    """Of its ranks, when the fault came."""
    loaders: list[int] = field(default_factory=list)
    """Of their data loader processes, likewise."""
    undo: list[Callable[[], None]] = field(default_factory=list)
    """What mends the site: called once the job has ended badly, and at the end of the case in any way."""

    @property
    def member(self) -> Path:
        return self.run / "members" / "0"

    @property
    def attempt(self) -> Path:
        """The newest: what was started again before the fault, as its ranks did not meet, is struck as well."""
        begun = self.member.glob("attempt-*/started.json")
        return max((path.parent for path in begun), key=lambda p: int(p.name.rpartition("-")[2]))

    def mend(self) -> None:
        while self.undo:
            self.undo.pop()()


def strike(live: Live) -> float:
    """Do it, and let the program go on that waits for it; when it was, as seconds since the epoch."""
    live.pids = ranks_of(live.member)
    live.loaders = [pid for pid in _running_trainer(live.member) if _parent(pid) in live.pids]
    assert len(live.pids) == live.case.layout.world, f"ranks {live.pids} instead of {live.case.layout}"
    began = time.time()
    at = ACTS[live.case.fault](live)
    (live.place.folder / "struck").touch()
    return at or began


def ranks_of(folder: Path) -> list[int]:
    """Process ids of the ranks of a member or an attempt, in order of rank: the cluster's hosts are on this machine."""
    found, running = {}, _running_trainer(folder)
    for pid in running:
        with contextlib.suppress(OSError):
            if _parent(pid) not in running:
                environ = Path(f"/proc/{pid}/environ").read_text(errors="replace").split("\0")
                ranks = [e.partition("=")[2] for e in environ if e.startswith("RANK=")]
                ranks += [e.partition("=")[2] for e in environ if e.startswith("SLURM_PROCID=")]
                found[int(ranks[0])] = pid
    return [found[rank] for rank in sorted(found)]


def _running_trainer(folder: Path) -> list[int]:
    """Ranks and their data loader processes, which are copies of them."""
    found = []
    for pid in pids_with(str(folder)):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[1:3] == [b"-m", b"trainer"]:
                found.append(pid)
    return found


def _parent(pid: int) -> int:
    """0 of a process that is gone."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def pids_with(text: str) -> list[int]:
    """Processes that have it in their command or their environment; not this one."""
    found, wanted = [], text.encode()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            with contextlib.suppress(OSError):
                if wanted in (folder / "cmdline").read_bytes() or wanted in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
    return found


def _kill(pids: list[int], number: signal.Signals = signal.SIGKILL) -> None:
    for pid in pids:
        os.kill(pid, number)


def _kill_one(live: Live, pids: list[int]) -> None:
    assert pids, f"there is no process for: {live.case.fault}"
    _kill([pids[live.case.victim % len(pids)]])


def _kill_all(live: Live) -> None:
    _kill(live.pids)


def _stop_one(live: Live) -> float:
    """Once all wait in their step: there job.hang.step_s finds it, and in a save before that only checkpoint_s."""
    until(lambda: len(list(live.place.folder.glob("waits-*"))) == live.case.layout.world, limit_s=100)
    _kill([live.pids[live.case.victim % len(live.pids)]], signal.SIGSTOP)
    return time.time()


def _supervisor(live: Live) -> int:
    return int(json.loads((live.attempt / "started.json").read_text())["pid"])


def _kill_supervisor(live: Live) -> None:
    _kill([_supervisor(live)])


def _tell(live: Live, number: signal.Signals) -> None:
    """As Slurm tells a step to leave: each process of it. On this machine the supervisor tells the ranks."""
    if live.case.launcher == "local":
        for pid in live.loaders:
            with contextlib.suppress(ProcessLookupError):  # those of an evaluation may have ended
                os.kill(pid, number)
        _kill([_supervisor(live)], number)
    else:
        job = json.loads((live.attempt / "started.json").read_text())["slurm_job_id"]
        slurm("scancel", f"--signal={number.name.removeprefix('SIG')}", f"{job}.0")


def _fill(live: Live) -> None:
    """Not a byte more fits where the run is (a small file system of its own, see `small_disk`)."""
    balloon = live.run.parent / "balloon"
    live.undo.append(lambda: balloon.unlink(missing_ok=True))
    with contextlib.suppress(OSError), balloon.open("wb", buffering=0) as f:
        while True:
            f.write(b"\xff" * 4096)


def _make_read_only(live: Live) -> None:
    folder = live.member / "checkpoints"
    _mount("--bind", str(folder), str(folder))
    live.undo.append(lambda: _unmount(folder))
    until(lambda: _remounted(folder))


def _remounted(folder: Path) -> bool:
    """Refused while a file there is open for writing: a checkpoint is being saved."""
    try:
        _mount("-o", "remount,bind,ro", str(folder))
    except subprocess.CalledProcessError:
        return False
    return True


def _damage(live: Live, how: Callable[[Path, int], None]) -> None:
    _kill_all(live)
    until(lambda: not any(pid in live.pids for pid in pids_with(str(live.member))))
    checkpoints = [p for p in live.member.glob("checkpoints/step-*") if p.name.removeprefix("step-").isdigit()]
    newest = max(checkpoints, key=lambda p: int(p.name.removeprefix("step-")))
    files = sorted(p for p in newest.rglob("*") if p.is_file())
    how(files[live.case.victim % len(files)], live.case.victim)


def _truncate(path: Path, chance: int) -> None:
    os.truncate(path, chance % path.stat().st_size)


def _flip(path: Path, chance: int) -> None:
    content = bytearray(path.read_bytes())
    content[chance % len(content)] ^= 1 << chance % 8
    path.write_bytes(content)


def _switch_off(live: Live) -> None:
    """A host loses its power, and gets it back when the cluster has seen that, or after three minutes."""
    host = live.hosts[: live.case.layout.nodes][live.case.victim % live.case.layout.nodes]
    testbed("kill-host", str(host))
    (live.place.folder / "struck").touch()
    try:
        with contextlib.suppress(AssertionError):
            until(lambda: "down" in slurm("sinfo", "--noheader", f"--nodes=n{host}", "--format=%T"), 180, pause_s=0.5)
    finally:
        testbed("start-host", str(host))


def _preempt(live: Live) -> None:
    """Work of a higher priority takes the hosts of this case, for a moment."""
    hosts = live.hosts[: live.case.layout.nodes]
    names = ",".join(f"n{host}" for host in hosts)
    how = ["--partition=urgent", "--exclusive", f"--nodes={len(hosts)}", f"--nodelist={names}", "--job-name=urgent"]
    slurm("sbatch", *how, "--output=/dev/null", "--chdir=/", "--wrap=sleep 2")


def _end_time(live: Live) -> float:
    """Less is left of the time limit than the notice is long: Slurm gives it when it looks, each half minute.

    What was taken is given back once the attempt has ended: an owner's limit stays with the job when it is requeued.
    """
    attempt, told = live.attempt, live.place.folder / "told-0"
    began = attempt / "started.json"
    job = json.loads(began.read_text())["slurm_job_id"]
    limit = slurm("squeue", "--noheader", f"--jobs={job}", "--format=%l").strip()
    minutes = (time.time() - began.stat().st_mtime) // 60 + 2
    slurm("scontrol", "update", f"JobId={job}", f"TimeLimit={minutes:.0f}")
    try:
        until(told.exists, limit_s=100)
        (live.place.folder / "struck").touch()
        until((attempt / "outcome.json").exists, limit_s=100)
    finally:
        slurm("scontrol", "update", f"JobId={job}", f"TimeLimit={limit}")
    return told.stat().st_mtime


def _end_store(live: Live) -> None:
    assert live.store is not None
    live.store.kill()


ACTS: dict[str, Callable[[Live], float | None]] = {
    "kill one rank": lambda live: _kill_one(live, live.pids),
    "kill a loader process": lambda live: _kill_one(live, live.loaders),
    "STOP a rank": _stop_one,
    "kill all ranks": _kill_all,
    "kill all ranks in a save": _kill_all,
    "kill the supervisor": _kill_supervisor,
    "TERM": lambda live: _tell(live, signal.SIGTERM),
    "USR2": lambda live: _tell(live, signal.SIGUSR2),
    "TERM in an evaluation": lambda live: _tell(live, signal.SIGTERM),
    "TERM in a save": lambda live: _tell(live, signal.SIGTERM),
    "disk full": _fill,
    "checkpoints read-only": _make_read_only,
    "newest checkpoint truncated": lambda live: _damage(live, _truncate),
    "newest checkpoint bit-flipped": lambda live: _damage(live, _flip),
    "fewer ranks": _kill_all,
    "more ranks": _kill_all,
    "store down": _end_store,
    "host off": _switch_off,
    "host off in a save": _switch_off,
    "preempted": _preempt,
    "time limit": _end_time,
}


def small_disk(folder: Path) -> Callable[[], None]:
    """A file system that is soon full; what takes it away again."""
    folder.mkdir(parents=True)
    _mount("-t", "tmpfs", "-o", "size=12m,mode=700", "tmpfs", str(folder))
    return lambda: _unmount(folder)


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True, timeout=30)


def _unmount(folder: Path) -> None:
    until(lambda: subprocess.run(["umount", str(folder)], capture_output=True, timeout=30, check=False).returncode == 0)


def testbed(*words: str) -> None:
    subprocess.run([str(TESTBED), *words], check=True, timeout=120, capture_output=True)


def slurm(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout


def until(question: Callable[[], object], limit_s: float = 60, pause_s: float = 0.02) -> None:
    """Return when the answer is true. Raises AssertionError after `limit_s`."""
    deadline = time.monotonic() + limit_s
    while not question():
        assert time.monotonic() < deadline, f"not within {limit_s:g} s: {question}"
        time.sleep(pause_s)
