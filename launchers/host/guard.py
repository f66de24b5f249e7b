"""The end of containers on this machine whose supervisor is gone: `python -IS guard.py PID.START ...`, the ranks.

A rank asks the kernel to die with its supervisor. Apptainer loses that on its way into a container: Go's runtime starts
the next program from a thread of its own, which never asked (seen with 1.4.5, though not in each start). What serves a
container its file systems outlives even its parent (squashfuse_ll, in a user namespace). All stay in the session of
their rank. Standard library only, as it runs beside ranks.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import IO

GONE_S = 10.0
"""So long it may take to end what is left; it needs a hundredth of that."""


class Guard:
    """A process that ends the sessions of ranks when `finish` is called, or this process has died."""

    def __init__(self, ranks: Sequence[subprocess.Popen[bytes]]) -> None:
        from launchers.host.leftovers import start_of

        words = [f"{rank.pid}.{start_of(rank.pid) or ''}" for rank in ranks]
        self._process = subprocess.Popen(
            (sys.executable, "-IS", __file__, *words),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def finish(self) -> None:
        """Return when that is done."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.communicate(timeout=GONE_S)


def main(words: Sequence[str], until_it_ends: IO[bytes]) -> None:
    """`words` are the ranks' numbers and starts; nothing is ever written into the other."""
    from launchers.host.leftovers import end_all, in_session

    until_it_ends.read()
    for word in words:
        pid, _, start = word.partition(".")
        end_all(partial(in_session, int(pid), start))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    main(sys.argv[1:], sys.stdin.buffer)
