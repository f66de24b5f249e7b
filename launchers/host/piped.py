"""Become a rank's program, with its output through a process beside it: `python -IS piped.py SETTINGS PROGRAM ...`.

The program is this very process (exec), so that signals reach it and its exit status counts. The one beside it takes
part in nothing: it hears no signal, masks secrets, keeps the log readable and bounded, counts processes and what lies
on disks. When the program has ended it ends what that left behind, removes the files of secrets, and goes. Standard
library only.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import signal
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from launchers.host.leftovers import Family
    from launchers.host.output import Cleaned, Mask
    from launchers.run_folder.log_parts import LogFile

CHUNK = 64 * 1024
PIPE = 1 << 20
IDLE_S = 0.2
"""After so long without output what is held back of a progress bar is shown."""
LOOK_S = 0.5
"""Between two glances at how many processes the node has."""
COUNT_S, COUNT_SHARE = 1.0, 0.005
"""Between two counts of the program's own, which take at most so much of a processor."""
GOING_S = 0.5
"""So long what a program left behind may take to go by itself (a container's file system)."""
HELD_S = 2.0
"""So long somebody who cannot be found may hold the output open after that."""
PASSED = "FAIRLEAD_SECRET_"
"""In front of the name of a secret on its way here."""
DEAF = ("HUP", "INT", "QUIT", "TERM", "USR1", "USR2", "PIPE", "ALRM", "TSTP", "TTIN", "TTOU", "CONT", "XFSZ")


class Beside:
    """The process beside the program: `first` is the program's."""

    def __init__(self, settings: Mapping[str, Any], first: int, mark: str, pipe: int) -> None:
        from launchers.host.disk_limit import MEMORY_LOOK_S, DiskLimit
        from launchers.host.leftovers import Family
        from launchers.host.output import Cleaned, Mask
        from launchers.host.settling import listening
        from launchers.run_folder.log_parts import LogFile

        self._settings, self._pipe, self._rank = settings, pipe, os.environ["RANK"]
        self._attempt = settings["attempt"]
        self._family: Family = Family(first, mark, pipe)
        self._program = os.pidfd_open(first)
        self._mask: Mask = Mask(_spellings(settings))
        self._cleaned: Cleaned = Cleaned(settings["progress_s"])
        self._log: LogFile = LogFile(f"{self._attempt}/rank-{self._rank}.log", settings["log_bytes"])
        self._disk = DiskLimit(_folders(settings), settings["max_disk_bytes"])
        shm = _shm(settings)
        self._shm = DiskLimit([shm["folder"]], shm["bytes"], MEMORY_LOOK_S, shm["said"]) if shm else None
        self._here = listening(self._attempt, self._rank)
        self._counted_at, self._looked_at, self._count_s = -COUNT_S, 0.0, COUNT_S
        self._on_node = _on_node()
        """Processes of the node when it was last looked through, or fewest since."""
        self._is_one_of_several = "SLURM_PROCID" in os.environ and os.environ.get("LOCAL_WORLD_SIZE") != "1"
        """Of Slurm's ranks of one node, whose group is the same: what is found in it may be another's."""
        self._why = ""
        """What it was ended for."""
        _try(os.unlink, self._error)  # of a worker that was started again

    @property
    def _error(self) -> str:
        return f"{self._attempt}/rank-{self._rank}.error.json"

    def work(self) -> None:
        """Until the program and all that it began are gone."""
        ended_at, done = None, False
        try:
            while not done:
                ended_at = ended_at or (time.monotonic() if self._has_ended() else None)
                done = self._pass_on(0.05 if ended_at else IDLE_S)
                if ended_at is None or time.monotonic() - ended_at < GOING_S:
                    self._watch()
                elif time.monotonic() - ended_at > GOING_S + HELD_S:
                    done = True
                elif time.monotonic() - ended_at > GOING_S:
                    self._clean_up()
            select.select([self._program], [], [])
            self._clean_up()
            self._show(b"", last=True)
            self._log.close()
        finally:
            _remove_files(self._settings, self._rank)

    def _has_ended(self) -> bool:
        return bool(select.select([self._program], [], [], 0)[0])

    def _pass_on(self, wait_s: float) -> bool:
        """What came; True when nobody can print any more."""
        ready, _, _ = select.select([self._pipe], [], [], wait_s)
        if not ready:
            self._log.write(self._cleaned.rest())
            return False
        data = os.read(self._pipe, CHUNK)
        if data:
            self._show(data)
        return not data

    def _show(self, data: bytes, last: bool = False) -> None:
        self._log.write(self._cleaned.feed(self._mask.feed(data, last), last))

    def _watch(self) -> None:
        """End a program that has too much of something, before nobody else has any."""
        now = time.monotonic()
        if now - self._looked_at < LOOK_S:
            return
        self._looked_at = now
        if self._disk.why:
            self._end("TooMuchOnDisk", self._disk.why)
        elif self._shm and self._shm.why:
            self._end("TooMuchInMemory", self._shm.why)
        else:
            self._count(now)

    def _count(self, now: float) -> None:
        """Where the node has many more than it had, all that can be found of the program count."""
        most, there = self._settings["max_processes"], _on_node()
        many = there - self._on_node >= most / 4
        if not many and now - self._counted_at < self._count_s:
            return
        begun = time.thread_time()
        count, self._on_node, self._counted_at = self._family.count(), min(self._on_node, there), now
        if (many and count <= most) or (self._is_one_of_several and count > most):
            count, self._on_node = len(list(self._family.living())), there
        self._count_s = max(COUNT_S, (time.thread_time() - begun) / COUNT_SHARE)
        if count > most:
            self._end_many(count)

    def _end_many(self, count: int) -> None:
        left, most = self._has_ended(), self._settings["max_processes"]
        self._family.end_group()
        said = f"it had {count} processes at once on one node, and job.max_processes is {most}"
        self._end("TooManyProcesses", said, left_behind=left)

    def _end(self, kind: str, message: str, **more: bool) -> None:
        """And leave why, as a rank that dies of an error of its own does."""
        if not self._why:
            self._why = message
            self._log.say(message)
            document = {"t": time.time(), "rank": int(self._rank), "host": os.uname().nodename, "cause": "user_error"}
            document |= {"type": kind, "message": message, **more}
            with contextlib.suppress(OSError), open(self._error, "w", encoding="utf-8") as f:  # noqa: PTH123
                json.dump(document, f)
        self._family.end()

    def _clean_up(self) -> None:
        """Too many are too many also where the program itself has left them and gone."""
        if (left := len(list(self._family.living()))) > self._settings["max_processes"]:
            self._end_many(left)
        elif left and (count := self._family.end()):
            self._log.say(f"{count} process(es) that the program had left behind were ended")


def main(argv: list[str]) -> NoReturn:
    """Become the program. Without a process beside it only a program with no secrets starts."""
    settings, program = json.loads(argv[1]), argv[2:]
    environment = _initial_environment()
    into, out_of, mark = *reversed(os.pipe()), f"{os.getpid()}.{_start_of(os.getpid())}"
    if _begin_beside(settings, mark, out_of, into):
        os.dup2(into, 1)
        os.dup2(into, 2)
    elif settings["secrets"]:
        sys.exit("fairlead: the process that masks secrets in the output did not start")
    for name in ("PIPE", "XFSZ"):  # which Python ignores, and a program would inherit that
        signal.signal(getattr(signal, f"SIG{name}"), signal.SIG_DFL)
    environment = _environment_of(environment, settings, mark)
    _set_ceiling(settings["max_processes"])
    _become(program, environment)


def _begin_beside(settings: Mapping[str, Any], mark: str, out_of: int, into: int) -> bool:
    """Start the process beside this one, as nobody's child: a program may wait for all of its own."""
    first, (ready, said) = os.getpid(), os.pipe()
    if (child := os.fork()) == 0:
        os.setsid()
        if os.fork() == 0:
            os.close(into)
            os.close(ready)
            _be_beside(settings, first, mark, out_of, said)
        os._exit(0)
    os.waitpid(child, 0)
    os.close(said)
    os.close(out_of)
    there = os.read(ready, 1) == b"1"
    os.close(ready)
    return there


def _be_beside(settings: Mapping[str, Any], first: int, mark: str, out_of: int, said: int) -> NoReturn:
    code = 1
    try:
        for name in DEAF:
            signal.signal(getattr(signal, f"SIG{name}"), signal.SIG_IGN)
        beside = Beside(settings, first, mark, out_of)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):  # whoever waits for the end of the rank's own output does not wait for us
            os.dup2(nowhere, fd)
        os.write(said, b"1")
        os.close(said)
        beside.work()
        code = 0
    finally:
        os._exit(code)


def _environment_of(environment: Mapping[bytes, bytes], settings: Mapping[str, Any], mark: str) -> dict[bytes, bytes]:
    """The program's: as this process was given it, with each secret where its program looks for it."""
    prefix, said = settings["prefix"].encode(), {b"FAIRLEAD_PROCESS": mark.encode()}
    for name, through in settings["secrets"].items():
        value = environment[f"{PASSED}{name}".encode()]
        if through == "file":
            said[f"{name}_FILE".encode()] = _private_file(settings, name, value)
        else:
            said[name.encode()] = value
    if settings["secrets"]:
        said[b"FAIRLEAD_SECRETS"] = ",".join(settings["secrets"]).encode()
    rest = {name: value for name, value in environment.items() if not name.startswith(PASSED.encode())}
    return rest | {prefix + name: value for name, value in said.items()}


def _private_file(settings: Mapping[str, Any], name: str, value: bytes) -> bytes:
    """A file that only its owner reads, in memory of the node or on its own disk."""
    folder = _folder(settings, os.environ["RANK"])
    for path in (settings["folder"], folder):
        _try(lambda where: os.mkdir(where, 0o700), path)  # noqa: PTH102
    above = os.stat(settings["folder"])  # noqa: PTH116
    if above.st_uid != os.getuid() or above.st_mode & 0o077:
        sys.exit(f"fairlead: {settings['folder']} is somebody else's: no secret is written there")
    path = f"{folder}/{name}"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "wb") as f:
        f.write(value)
    return f"{settings['seen_as']}/{os.environ['RANK']}/{name}".encode()


def _on_node() -> int:
    """How many processes there are on this node; a few other things are counted, always the same."""
    return len(os.listdir("/proc"))  # noqa: PTH208


def _folder(settings: Mapping[str, Any], rank: str) -> str:
    return f"{settings['folder']}/{rank}"


def _folders(settings: Mapping[str, Any]) -> list[str]:
    """Those that this rank looks at, of all that write there: the node's own by its first, the run's by the first."""
    own = [settings["scratch"]] if settings["scratch"] and os.environ["LOCAL_RANK"] == "0" else []
    return [*own, *([os.path.dirname(settings["attempt"])] if os.environ["RANK"] == "0" else [])]  # noqa: PTH120


def _shm(settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a node's first rank looks at for all that share it there; a run frozen earlier has nothing to say."""
    found: dict[str, Any] | None = settings.get("shm")
    return found if os.environ["LOCAL_RANK"] == "0" else None


def _remove_files(settings: Mapping[str, Any], rank: str) -> None:
    """This rank's, and the folder with the last of them."""
    for name in settings["secrets"]:
        _try(os.unlink, f"{_folder(settings, rank)}/{name}")
    _try(os.rmdir, _folder(settings, rank))
    _try(os.rmdir, settings["folder"])


def _try(act: Any, path: str) -> None:
    try:
        act(path)
    except OSError:
        return


def _spellings(settings: Mapping[str, Any]) -> list[bytes]:
    if not settings["secrets"]:
        return []
    from conf.masking import spellings

    return spellings(os.environ[f"{PASSED}{name}"] for name in settings["secrets"])


def _initial_environment() -> dict[bytes, bytes]:
    """As the kernel has it: Python itself may have changed LC_CTYPE (PEP 538)."""
    with open("/proc/self/environ", "rb") as f:  # noqa: PTH123
        pairs = (line.partition(b"=") for line in f.read().split(b"\0") if line)
        return {name: value for name, _, value in pairs}


def _set_ceiling(max_processes: int) -> None:
    from launchers.host.fork_ceiling import set_ceiling

    set_ceiling(max_processes)


def _start_of(pid: int) -> str | None:
    from launchers.host.leftovers import start_of

    return start_of(pid)


def _become(program: list[str], environment: Mapping[bytes, bytes]) -> NoReturn:
    """By exec, as a shell does it: with its exit statuses, and with a shell for a script that names none."""
    try:
        os.execvpe(program[0], program, environment)
    except OSError as e:
        if e.errno == errno.ENOEXEC:
            os.execve("/bin/sh", ["sh", *program], environment)
        print(f"fairlead: {program[0]}: {e.strerror}", file=sys.stderr, flush=True)
        os._exit(127 if e.errno == errno.ENOENT else 126)


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))  # noqa: PTH100, PTH120
    main(sys.argv)
