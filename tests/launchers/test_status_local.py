"""States of a job of this machine, by the process that is its queue."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from launchers.jobs.status import status_of
from launchers.process import start_of
from launchers.queue import local
from launchers.run_folder.record import Run, read_json, write_json
from tests.launchers.standing import Make, attempt, states, submitted


@pytest.fixture
def here(slurm_run: Make) -> Run:
    """A run of the local launcher, submitted, whose queue is not there."""
    run, _ = slurm_run(2)
    document = read_json(run.plan)
    write_json(run.plan, {**document, "launcher": "local"})
    submitted(run, 2, "local")
    return run


def lively(run: Run) -> subprocess.Popen[bytes]:
    """A process that stands for the queue."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    write_json(run.path / "runner.json", {"pid": process.pid, "start": start_of(process.pid)})
    return process


def test_status_local_members_run_and_wait(here: Run) -> None:
    process = lively(here)
    attempt(here, 0)

    now = status_of(here)
    process.kill()
    process.wait()

    assert (states(now), now.state) == (["RUNNING", "QUEUED"], "RUNNING")


def test_status_local_queue_that_died_is_seen(here: Run) -> None:
    process = lively(here)
    attempt(here, 0)
    process.kill()
    process.wait()

    now = status_of(here)

    assert states(now) == ["FAILED", "FAILED"]
    assert "supervisor is gone" in now.members[0].message


def test_status_local_number_of_another_process_is_not_the_queue(here: Run) -> None:
    write_json(here.path / "runner.json", {"pid": 1, "start": "1"})

    assert not local.is_alive(here)


def test_status_local_just_launched_is_not_failed(here: Run, root: Path) -> None:
    """Between `start` and the queue's first breath a second passes; a client must not take that for the end."""
    code = here.code / "fairlead"
    code.mkdir(parents=True)
    for name in ("conf", "launchers", "sweeps"):
        (code / name).symlink_to(root / name)
    client = """
import sys
import time
from pathlib import Path
from launchers.queue import local
from launchers.plan import plans_from
from launchers.run_folder.record import Run, read_json
from launchers.jobs.status import status_of
run = Run(Path(sys.argv[1]))
local.start(run, plans_from(read_json(run.plan))[0], [0, 1])
print(status_of(run).state)
"""

    done = subprocess.run(
        [sys.executable, "-c", client, str(here.path)],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    local.stop(here)

    assert done.stdout in ("QUEUED\n", "RUNNING\n")
