"""Where does a rank stand that cannot say so itself? Its processes, seen from outside on the node they run on.

    python -m launchers.host.outside ATTEMPT_FOLDER --ranks 0,3

writes stacks-<rank>.txt for each of these ranks that runs here: what the kernel says of its processes, and the stacks
that py-spy reads out of their memory, where it is installed and allowed. Stops nobody.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from launchers.command import output_of
from launchers.errors import CommandError
from launchers.host.every_node import is_on_one_host, on_every_node, where
from launchers.parts import numbers, ranges
from launchers.plan import Plan
from launchers.queue.in_pool import Place
from launchers.queue.slurm import client_environment

SHARED = ("--overlap", "--cpus-per-task=1", "--mem=0", "--cpu-bind=none")
"""srun's options for a step that takes nothing from the one that it looks at."""
PY_SPY_S = 5.0
EVERYWHERE_S = 30.0
MOST = 6
"""Processes of a rank that are looked at: itself, and the first it started."""
KERNEL = ("wchan", "syscall", "stack")
"""What the kernel says of a process's place, as far as it may be read (proc(5); `stack` is root's)."""


@dataclass(frozen=True)
class Process:
    """One of a rank's."""

    pid: int
    rank: int
    started: int
    """In ticks since the machine was booted."""


def look_everywhere(plan: Plan, attempt: Path, ranks: Sequence[int]) -> None:
    """As `look`, on every node of the attempt. Raises CommandError where srun does not come through."""
    if is_on_one_host(plan):
        return look(attempt, ranks)
    held = plan.launcher == "pool"
    place, env = (where(Place.given()), client_environment()) if held else ((), None)
    program = [plan.python, "-m", "launchers.host.outside", str(attempt), "--ranks", ranges(ranks)]
    failed: CommandError | None = None
    for _, everywhere in on_every_node(plan):
        try:
            output_of(["srun", *place, *SHARED, *everywhere, *program], timeout_s=EVERYWHERE_S, env=env)
        except CommandError as e:  # the other components are there all the same
            failed = failed or e
    if failed is not None:
        raise failed


def look(attempt: Path, ranks: Sequence[int]) -> None:
    """Write down where these ranks stand, those of them that run on this host."""
    found = list(_processes(attempt))
    for rank in ranks:
        mine = sorted((p for p in found if p.rank == rank), key=lambda p: (p.started, p.pid))[:MOST]
        if mine:
            seen = "\n\n".join(_seen(process.pid) for process in reversed(mine))  # the rank itself last
            text = f"as seen from outside on {os.uname().nodename}\n\n{seen}\n"
            with contextlib.suppress(OSError):
                (attempt / f"stacks-{rank}.txt").write_text(text, encoding="utf-8")


def _processes(attempt: Path) -> Iterator[Process]:
    """Those that were told that this attempt is theirs. Of one that is another user's nothing is known."""
    ours = f"FAIRLEAD_ATTEMPT_DIR={attempt}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            environ = (folder / "environ").read_bytes().split(b"\0")
            if any(entry.endswith(ours) for entry in environ):  # Apptainer's own process has it behind a prefix
                rank = next(entry for entry in environ if entry.startswith(b"RANK="))
                yield Process(int(folder.name), int(rank.removeprefix(b"RANK=")), _started(folder))


def _started(process: Path) -> int:
    """The 22nd field; the 2nd may hold blanks and parentheses."""
    return int((process / "stat").read_text().rpartition(")")[2].split()[19])


def _seen(pid: int) -> str:
    """One process: the kernel's words on a line each, then its threads' stacks as Python itself prints them."""
    folder = Path("/proc", str(pid))
    lines = [f"process {pid} ({_said(folder / 'comm')}): {_state(folder)}"]
    for name in KERNEL:
        if said := _said(folder / name):
            lines.append(f"  {name}: {'; '.join(said.splitlines())}")
    return "\n\n".join(["\n".join(lines), *_stacks(pid)])


def _state(process: Path) -> str:
    """Such as `T (stopped)`."""
    lines = _said(process / "status").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("State:")), "gone")


def _said(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _stacks(pid: int) -> list[str]:
    """Of each of its Python threads; none where it is no Python, or py-spy is not there or not let."""
    beside = Path(sys.executable).with_name("py-spy")
    command = str(beside) if beside.exists() else shutil.which("py-spy")
    if command is None:
        return []
    with contextlib.suppress(CommandError, ValueError, KeyError, TypeError):
        argv = [command, "dump", "--json", "--nonblocking", "--pid", str(pid)]
        threads = json.loads(output_of(argv, timeout_s=PY_SPY_S))
        return ["\n".join(_thread(thread)) for thread in threads]
    return []


def _thread(thread: dict[str, object]) -> Iterator[str]:
    """As faulthandler has it, so that both are read alike (beats.py)."""
    name = f" [{thread['thread_name']}]" if thread.get("thread_name") else ""
    yield f"Thread {int(str(thread['thread_id'])):#018x}{name} (most recent call first):"
    frames = thread["frames"]
    for frame in frames if isinstance(frames, list) else ():
        yield f'  File "{frame["filename"]}", line {frame["line"]} in {str(frame["name"]).rpartition(".")[2]}'


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Write down where ranks of an attempt stand on this host.")
    parser.add_argument("attempt", type=Path)
    parser.add_argument("--ranks", required=True)
    arguments = parser.parse_args(argv)
    os.umask(0o077)
    look(arguments.attempt, list(numbers(arguments.ranks)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
