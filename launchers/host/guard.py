"""The end of containers on this machine whose supervisor is gone: `python -IS guard.py`.

A rank asks the kernel to die with its supervisor. Apptainer loses that on its way into a container: Go's runtime starts
the next program from a thread of its own, which never asked (seen with 1.4.5, though not in each start). What serves a
container its file systems outlives even its parent (squashfuse_ll, in a user namespace). All stay in the session of
their rank, whose number and start it reads as soon as there is one. What such a supervisor left of folders on the node
is removed, too. Standard library only, as it runs beside ranks.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import IO

GONE_S = 10.0
"""So long it may take to end what is left; it needs a hundredth of that."""
REMOVE_S = 60.0
DONE = "done"
"""The last line of a supervisor that lives."""


class Guard:
    """A process that ends the sessions of ranks when `finish` is called, or this process has died; then these folders
    go with them."""

    def __init__(self, folders: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            (sys.executable, "-IS", __file__, *folders),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def watch(self, rank: subprocess.Popen[bytes]) -> None:
        """This one has just started."""
        from launchers.host.leftovers import start_of

        self._say(f"{rank.pid}.{start_of(rank.pid) or ''}")

    def finish(self) -> None:
        """Return when that is done."""
        self._say(DONE)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.communicate(timeout=GONE_S)

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(f"{line}\n".encode())
            self._process.stdin.flush()


def main(ranks: IO[bytes], folders: Sequence[str]) -> None:
    """A line for each rank, until it ends."""
    from launchers.host.leftovers import end_all, in_session
    from launchers.removal import REMOVE

    lines = ranks.read().decode().splitlines()
    for line in lines:
        pid, _, start = line.partition(".")
        if line != DONE:
            end_all(partial(in_session, int(pid), start))
    if DONE not in lines:
        subprocess.run(["sh", "-c", REMOVE, "sh", *_aside(folders)], timeout=REMOVE_S, check=False)


def _aside(folders: Sequence[str]) -> list[str]:
    """The folders under other names: the next attempt may begin before they are gone."""
    found = list[str]()
    for folder in folders:
        with contextlib.suppress(OSError):
            os.rename(folder, aside := f"{folder}.gone-{os.getpid()}")  # noqa: PTH104 (without pathlib, as elsewhere)
            found.append(aside)
    return found


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    main(sys.stdin.buffer, sys.argv[1:])
