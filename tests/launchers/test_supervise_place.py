"""What ranks are told of their place, and where they meet."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.launchers.attempted import Make, Start, ended
from tests.launchers.supervised import REPORT, maker, outcome


@pytest.fixture
def make_run(workdir: Path) -> Make:
    return maker(workdir)


def test_supervise_ranks_are_told_their_place(make_run: Make, start: Start) -> None:
    run = make_run(REPORT, ranks=3, name="it's a $(x) job")

    assert ended(start(run, SLURM_PROCID="7", SLURM_JOB_ID="1", RANK="8")) == 0

    (attempt,) = run.member(0).attempts()
    envs = [json.loads((attempt.path / f"env-{r}").read_text()) for r in range(3)]
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK")
    assert [[e[n] for n in names] for e in envs] == [[str(r), str(r), "3", "3", "0"] for r in range(3)]
    assert len({(e["MASTER_ADDR"], e["MASTER_PORT"]) for e in envs}) == 1
    assert envs[0]["FAIRLEAD_SPEC"] == str(run.member(0).spec)
    assert envs[0]["AIP_CHECKPOINT_DIR"] == f"{run.member(0).checkpoints}/"
    assert all(Path(envs[0][n]).is_dir() for n in ("AIP_MODEL_DIR", "AIP_CHECKPOINT_DIR", "AIP_TENSORBOARD_LOG_DIR"))


def test_supervise_rendezvous_port_is_free(make_run: Make, start: Start) -> None:
    code = "import os, socket; s = socket.socket(); s.bind((os.environ['MASTER_ADDR'], int(os.environ['MASTER_PORT'])))"

    assert ended(start(make_run(code))) == 0


def test_supervise_two_members_at_once_have_ports_of_their_own(make_run: Make, start: Start) -> None:
    run = make_run(REPORT + "; import time; time.sleep(0.5)", members=2)
    both = [start(run, "--member", str(m)) for m in (0, 1)]

    assert [ended(p) for p in both] == [0, 0]

    envs = [json.loads((run.member(m).attempts()[0].path / "env-0").read_text()) for m in (0, 1)]
    assert envs[0]["MASTER_PORT"] != envs[1]["MASTER_PORT"]


def test_supervise_failed_rendezvous_is_tried_again_here(make_run: Make, start: Start) -> None:
    code = "import os, sys\nif os.environ['FAIRLEAD_ATTEMPT'] == '0':\n    sys.exit('DistNetworkError: EADDRINUSE')"
    run = make_run(code)

    assert ended(start(run)) == 0

    assert [outcome(run, attempt=n)["state"] for n in (0, 1)] == ["RESTARTED", "SUCCEEDED"]


def test_supervise_rendezvous_that_never_works_is_a_failure(make_run: Make, start: Start) -> None:
    run = make_run("import sys; sys.exit('DistNetworkError: EADDRINUSE')")

    assert ended(start(run, patch="import launchers.host.policy as p; p.PAUSES_S = (0.0,)")) == 1

    assert [outcome(run, attempt=n)["state"] for n in range(3)] == ["RESTARTED", "RESTARTED", "FAILED"]
    assert len(run.member(0).attempts()) == 3
