"""A step of Slurm: its ranks and logs, and how often its job is queued again."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from launchers.run_folder.record import append_line, locked, read_json, write_json
from tests.launchers.attempted import Make, Start, ended
from tests.launchers.stepping import slurm_here
from tests.launchers.supervised import REPORT, maker, outcome

IN_A_JOB = {"SLURM_JOB_ID": "42", "SLURM_ARRAY_JOB_ID": "40", "SLURM_ARRAY_TASK_ID": "1", "SLURM_RESTART_COUNT": "2"}


@pytest.fixture
def make_run(workdir: Path) -> Make:
    return maker(workdir)


@pytest.fixture
def on_slurm(fakes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    return slurm_here(fakes, tmp_path, monkeypatch)


def test_supervise_slurm_step_has_its_ranks_and_logs(on_slurm: Any, make_run: Make, start: Start) -> None:
    run = make_run(REPORT + "; print(os.environ['RANK'])", ranks=2, nodes=2, launcher="slurm", name="100% d")

    assert ended(start(run, SLURM_JOB_ID="42")) == 0

    (attempt,) = run.member(0).attempts()
    assert [attempt.rank_log(r).read_text() for r in range(4)] == ["0\n", "1\n", "2\n", "3\n"]
    envs = [json.loads((attempt.path / f"env-{r}").read_text()) for r in range(4)]
    assert [(e["RANK"], e["LOCAL_RANK"], e["NODE_RANK"], e["WORLD_SIZE"]) for e in envs] == [
        ("0", "0", "0", "4"),
        ("1", "1", "0", "4"),
        ("2", "0", "1", "4"),
        ("3", "1", "1", "4"),
    ]
    assert envs[0]["MASTER_ADDR"] == socket.gethostname()


def test_supervise_slurm_array_element_takes_its_own_member(on_slurm: Any, make_run: Make, start: Start) -> None:
    run = make_run("pass", members=2, launcher="slurm")

    assert ended(start(run, **IN_A_JOB)) == 0

    place = read_json(run.member(1).attempts()[0].path / "started.json")
    assert not run.member(0).path.exists()
    assert (place["slurm_job_id"], place["slurm_array_job_id"], place["slurm_restart_count"]) == ("42", "40", "2")


def test_supervise_slurm_failing_task_is_named(on_slurm: Any, make_run: Make, start: Start) -> None:
    run = make_run(
        "import os, sys, time\nif os.environ['RANK'] == '1':\n    sys.exit(6)\ntime.sleep(600)",
        ranks=2,
        launcher="slurm",
    )

    assert ended(start(run, SLURM_JOB_ID="42")) == 1

    assert (outcome(run)["first_rank"], outcome(run)["host"], outcome(run)["exit_code"]) == (1, "n1", 6)


def test_supervise_slurm_requeues_are_limited(on_slurm: Any, make_run: Make, start: Start) -> None:
    run = make_run("raise SystemExit(75)", launcher="slurm", max_requeues=2)
    patch = "import launchers.host.element as s; s.REQUEUE_WAIT_S = 0"

    for _ in range(3):
        ended(start(run, patch=patch, SLURM_JOB_ID="42"))

    assert [outcome(run, attempt=n)["state"] for n in range(3)] == ["REQUEUED", "REQUEUED", "FAILED"]
    assert "requeued 2 time(s) in a row without a new checkpoint, and job.max_requeues is 2" in outcome(run)["message"]

    ended(start(run, patch=patch, SLURM_JOB_ID="43"))
    assert outcome(run)["state"] == "REQUEUED", "a retry begins the count anew"


SAVES_UNTIL = """
import os
attempt, kept = int(os.environ["FAIRLEAD_ATTEMPT"]), os.environ["AIP_CHECKPOINT_DIR"]
if attempt < 4:
    for name in os.listdir(kept): os.remove(os.path.join(kept, name))
    open(os.path.join(kept, f"step-{attempt}"), "w").close()
raise SystemExit(75)
"""


def test_supervise_slurm_requeues_are_counted_anew_after_each_new_checkpoint(
    on_slurm: Any, make_run: Make, start: Start
) -> None:
    """Four attempts save, two more do not: of these the second may not go back, the third time since the last save."""
    run = make_run(SAVES_UNTIL, launcher="slurm", max_requeues=2)
    patch = "import launchers.host.element as s; s.REQUEUE_WAIT_S = 0"

    for _ in range(6):
        ended(start(run, patch=patch, SLURM_JOB_ID="42"))

    assert [outcome(run, attempt=n)["state"] for n in range(6)] == [*["REQUEUED"] * 5, "FAILED"]


@pytest.mark.parametrize(
    "scontrol", ["sys.exit('slurm_requeue error: Requested operation is presently disabled')", None]
)
def test_supervise_slurm_requeue_refused_is_a_failure_with_slurms_words(
    on_slurm: Any, make_run: Make, start: Start, monkeypatch: pytest.MonkeyPatch, scontrol: str | None
) -> None:
    on_slurm.put("scontrol", scontrol or "")
    if scontrol is None:
        (on_slurm.folder / "scontrol").unlink()
        on_slurm.alone(monkeypatch, "sh", "env", "mkdir")
    run = make_run("raise SystemExit(75)", launcher="slurm")
    patch = "import launchers.host.element as s; s.REQUEUE_WAIT_S = 0; s.time.sleep = lambda _: None"

    assert ended(start(run, patch=patch, SLURM_JOB_ID="42")) == 1

    assert outcome(run)["state"] == "FAILED"
    assert ("disabled" if scontrol else "scontrol") in outcome(run)["message"]


def test_supervise_slurm_without_srun_is_a_site_failure(
    on_slurm: Any, make_run: Make, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    (on_slurm.folder / "srun").unlink()
    on_slurm.alone(monkeypatch, "sh")
    run = make_run("pass", launcher="slurm")

    assert ended(start(run, SLURM_JOB_ID="42")) == 1

    assert outcome(run)["cause"] == "site"
    assert "srun" in outcome(run)["message"]


@pytest.mark.parametrize(
    ("launcher", "before", "state", "requeued"),
    [("slurm", 0, "REQUEUED", ["42"]), ("slurm", 3, "FAILED", []), ("local", 0, "FAILED", [])],
)
def test_supervise_member_that_cannot_ask_is_put_back_as_often_as_it_may(
    on_slurm: Any, make_run: Make, start: Start, launcher: str, before: int, state: str, requeued: list[str]
) -> None:
    run = make_run("print(1)", launcher=launcher)
    run.members_file.unlink()
    append_line(run.members_file, {"index": 0, "point": {}, "sections": {}, "late": True})
    for number in range(before):
        attempt = run.member(0).path / f"attempt-{number}"
        attempt.mkdir(parents=True)
        write_json(attempt / "outcome.json", {"state": "REQUEUED", "cause": "site"})
    (run.path / "study").mkdir()
    impatient = (
        "import launchers.search.ask as a, launchers.host.element as e; a.LOCK_LIMIT_S = 0.2; e.REQUEUE_WAIT_S = 0"
    )
    with locked(run.path / "study" / "ask.lock"):
        assert ended(start(run, patch=impatient, SLURM_JOB_ID="42")) == 1

    assert (outcome(run)["state"], outcome(run)["cause"]) == (state, "site")
    assert "no point for member 0: ask.lock was held by others for 0.2 s" in outcome(run)["message"]
    assert [c["argv"][1] for c in on_slurm.calls("scontrol") if c["argv"][0] == "requeue"] == requeued
    assert (run.ended / f"0.{before}.FAILED").exists() == (state == "FAILED")


def test_supervise_slurm_host_lost_after_the_outcome_runs_nothing_again(
    on_slurm: Any, make_run: Make, start: Start
) -> None:
    run = make_run("print(1)", launcher="slurm")
    assert ended(start(run, SLURM_JOB_ID="42")) == 0
    (entry,) = run.ended.iterdir()
    entry.unlink()  # it was killed before it had made it

    assert ended(start(run, SLURM_JOB_ID="42", SLURM_RESTART_COUNT="1")) == 0
    assert (len(run.member(0).attempts()), entry.exists()) == (1, True)

    assert ended(start(run, SLURM_JOB_ID="43")) == 0
    assert len(run.member(0).attempts()) == 2, "asked for in a job of its own it runs again"
