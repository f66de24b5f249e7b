"""Several pools on this machine: they meet, a worker that fails comes back alone, and the chief's end is the job's."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from launchers.freeze import Launch, freeze
from launchers.run_folder.record import Run, read_json, read_lines
from launchers.search.expand import expand
from tests.cluster.harness import ROOT, Cluster, attempts
from tests.launchers.attempted import Start

PROGRAM = "programs_of_pools.py"


@pytest.fixture
def here(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    shutil.copy(Path(__file__).with_name(PROGRAM), workdir)
    return Cluster(workdir, ("launcher=local", "tracking=none", "job=command", "job.metrics.kind=none"))


def command(*words: object) -> str:
    quoted = ",".join(f"'{word}'" for word in words)
    return f"[{sys.executable},{PROGRAM},{quoted}]"


def pools(deaths: int = 0, nodes: int = 2) -> str:
    return f"pools=[{{}},{{machine: {{nodes: {nodes}}}, job: {{command: {command('worker', deaths)}}}}}]"


def launched(here: Cluster, *overrides: str) -> Run:
    here.fairlead("launch", *here.first, *overrides, check=False)
    (run,) = (path for path in (here.work / "runs").iterdir() if not path.name.startswith("."))
    return Run(run)


def heard(run: Run, member: int = 0) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((run.member(member).model / "heard.json").read_text())
    return found


def test_pools_here_meet_and_the_chiefs_end_is_the_jobs(here: Cluster) -> None:
    run = launched(here, f"job.command={command('chief', 2)}", pools())

    assert {(w["RANK"], w["FAIRLEAD_POOL"], w["FAIRLEAD_REPLICA"], w["WORLD_SIZE"]) for w in heard(run)} == {
        ("0", "workerpool0", "0", "3"),
        ("1", "workerpool1", "0", "3"),
        ("2", "workerpool1", "1", "3"),
    }
    assert [a["state"] for a in attempts(run.path)] == ["SUCCEEDED"]
    assert {p.name for p in run.member(0).path.glob("told-*")} == {"told-1", "told-2"}


def test_worker_that_fails_is_started_again_alone(here: Cluster) -> None:
    run = launched(here, f"job.command={command('chief', 4)}", pools(deaths=2))

    assert [w["RANK"] for w in heard(run)].count("1") == 3
    assert [len((run.member(0).path / f"begun-{r}").read_text()) for r in (1, 2)] == [3, 1]
    attempt = run.member(0).attempts()[0]
    rows = read_lines(attempt.path / "workers.jsonl")
    assert [(row["replica"], row["exit_code"], row["restart"]) for row in rows] == [
        ("workerpool1-0", -9, 1),
        ("workerpool1-0", -9, 2),
    ]
    pools_of = [(pool["name"], len(pool["hosts"])) for pool in read_json(attempt.path / "pools.json")]
    assert pools_of == [("workerpool0", 1), ("workerpool1", 2)]


ALWAYS_FAILS = "[sh,-c,'echo >> $FAIRLEAD_MEMBER_DIR/starts-$FAIRLEAD_ATTEMPT; exit 3']"
AT_ONCE = "import launchers.host.policy as p, launchers.host.replicas as r; p.PAUSES_S, r.LAST_PAUSE_S = (0.0,), 0.0"
"""Restarts without a pause."""


@pytest.mark.parametrize(
    ("more", "starts"),
    [
        ((), [6, 6, 6, 6]),
        (("job.restart_job_on_worker_restart=true",), [1, 1, 1, 1]),
        (("job.disable_retries=true",), [1]),
    ],
    ids=["unless told otherwise", "the job with the worker", "never"],
)
def test_worker_that_always_fails_is_started_as_often_as_the_documents_say(
    workdir: Path, start: Start, more: tuple[str, ...], starts: list[int]
) -> None:
    """By itself up to five times, and the whole job up to three times."""
    words = ("launcher=local", "tracking=none", "job=command", "job.command=[sleep,'90']", "job.metrics.kind=none")
    members = expand([*words, f"pools=[{{}},{{job: {{command: {ALWAYS_FAILS}}}}}]", *more], [])
    asked = Launch(specs=members.specs, points=members.points, command=(), cwd=workdir, python=sys.executable)
    run, _ = freeze(asked, workdir / "runs", "d-1")

    said, _ = (process := start(run, "--member", "0", patch=AT_ONCE)).communicate(timeout=100)

    assert process.returncode == 1, said
    ends = attempts(run.path)
    assert [end["state"] for end in ends] == [*["RESTARTED"] * (len(starts) - 1), "FAILED"]
    assert [(run.member(0).path / f"starts-{k}").read_text().count("\n") for k in range(len(ends))] == starts
    times = "-0 failed 6 times" if starts[0] > 1 else " failed"
    assert ends[-1]["message"].startswith(f"workerpool1{times}, and last exited with status 3")


@pytest.mark.parametrize(
    ("more", "tries"),
    [
        (("job.worker_restarts=1", "job.restarts.worker=1"), 2),
        (("job.disable_retries=true",), 1),
        (("job.restart_job_on_worker_restart=true", "job.restarts.worker=1"), 2),
    ],
)
def test_worker_that_fails_for_good_ends_the_job(here: Cluster, more: tuple[str, ...], tries: int) -> None:
    run = launched(here, f"job.command={command('chief', 9)}", pools(deaths=9, nodes=1), *more)

    ends = attempts(run.path)
    assert [a["state"] for a in ends] == [*["RESTARTED"] * (tries - 1), "FAILED"]
    assert ends[-1]["cause"] == "worker" and "workerpool1" in ends[-1]["message"] and ends[-1]["first_rank"] == 1


def test_chief_that_fails_decides(here: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHIEF_EXIT", "7")
    run = launched(here, f"job.command={command('chief', 1)}", pools(nodes=1))

    (end,) = attempts(run.path)
    assert (end["state"], end["cause"], end["exit_code"], end["first_rank"]) == ("FAILED", "user_error", 7, 0)


def test_grid_of_members_with_pools_here_is_one_job(here: Cluster) -> None:
    run = launched(here, "-m", f"job.command={command('chief', 1)}", pools(nodes=1), "params.x=1,2")

    assert [len(heard(run, member)) for member in (0, 1)] == [2, 2]
