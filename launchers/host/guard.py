"""The end of containers on this machine whose supervisor is gone: `python -IS guard.py`.

A rank asks the kernel to die with its supervisor. Apptainer loses that on its way into a container: Go's runtime starts
the next program from a thread of its own, which never asked (seen with 1.4.5, though not in each start). What serves a
container its file systems outlives even its parent (squashfuse_ll, in a user namespace). All stay in the session of
their rank, whose number and start it reads as soon as there is one. Standard library only, as it runs beside ranks.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import IO

GONE_S = 10.0
"""So long it may take to end what is left; it needs a hundredth of that."""


class Guard:
    """A process that ends the sessions of ranks when `finish` is called, or this process has died."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            (sys.executable, "-IS", __file__),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def watch(self, rank: subprocess.Popen[bytes]) -> None:
        """This one has just started."""
        from launchers.host.leftovers import start_of

        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(f"{rank.pid}.{start_of(rank.pid) or ''}\n".encode())
            self._process.stdin.flush()

    def finish(self) -> None:
        """Return when that is done."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.communicate(timeout=GONE_S)


def main(ranks: IO[bytes]) -> None:
    """A line for each rank, until it ends."""
    from launchers.host.leftovers import end_all, in_session

    for line in ranks.read().decode().splitlines():
        pid, _, start = line.partition(".")
        end_all(partial(in_session, int(pid), start))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    main(sys.stdin.buffer)
