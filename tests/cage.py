"""A cage for programs that fork without end: what ends them is what is tested, and may fail."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

IN_ALL = 4000
"""Processes and threads."""
LIMIT_S = 60
PLACES = (Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup"))
"""Where control groups of the first version that count processes begin, and those of the second."""


@pytest.fixture
def cage() -> Iterator[Path]:
    """A control group with room for so many, and with nobody in it after the test whatever came of that. Whoever writes
    its number into `cgroup.procs` there is inside, with all that it begins from then on."""
    place = next((place for place in PLACES if (place / "cgroup.procs").exists()), None)
    if os.getuid() != 0 or place is None:
        pytest.skip("needs root, and control groups")
    own = place / f"fairlead-test-{os.getpid()}"
    try:
        own.mkdir()
        (own / "pids.max").write_text(str(IN_ALL))
    except OSError as e:
        pytest.skip(f"needs control groups that count processes: {e}")
    try:
        yield own
    finally:
        empty(own)
        own.rmdir()


def inside(cage: Path) -> list[int]:
    """Processes that have not ended, or whose end nobody has seen."""
    return [int(pid) for pid in (cage / "cgroup.procs").read_text().split()]


def empty(cage: Path) -> None:
    """End all of them. From the first step on they can only become fewer."""
    (cage / "pids.max").write_text("0")
    until = time.monotonic() + LIMIT_S
    while found := inside(cage):
        assert time.monotonic() < until, f"still there: {found}"
        for pid in found:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)
