"""States of jobs and members, from files first, the queue second, accounting third."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conf import schema
from conf.sweep_schema import Goal, Limits
from launchers.errors import SiteError
from launchers.jobs.goodput import Goodput
from launchers.jobs.spending import Spending
from launchers.jobs.status import JobStatus, status_of
from launchers.parts import Part
from launchers.process import start_of
from launchers.queue import local, scheduler
from launchers.run_folder.journal import Journal
from launchers.run_folder.record import Run, mark_ended, read_json, unmark_ended, write_json
from launchers.search.standing import standing_of
from launchers.show import list_text, status_text, summary_text
from launchers.verbs.printed import status_document
from tests.launchers.tracked import spec_of
from tests.launchers.tried import T0, accuracies, make_search, search_of, start, tried

S = scheduler.SEPARATOR
Make = Callable[..., Any]


def attempt(run: Run, member: int, state: str | None = None, number: int = 0, *metrics: dict[str, Any]) -> None:
    folder = run.member(member).path / f"attempt-{number}"
    folder.mkdir(parents=True)
    if state:
        write_json(folder / "outcome.json", {"state": state, "cause": state.lower(), "message": f"m{number}"})
    if metrics:
        (folder / "metrics.jsonl").write_text("".join(json.dumps(m) + "\n" for m in metrics))


def submitted(run: Run, members: int, slurm_id: str = "7") -> None:
    journal = Journal(run)
    journal.reached(journal.intend(Part.whole(*range(members))).intent, slurm_id)


def queue(fakes: Any, *rows: tuple[str, str, str, str]) -> None:
    """(elements, name, state, reason) of job 7."""
    fakes.put("squeue", "\n".join(f"print({S.join(('7', *row))!r})" for row in rows))


def states(now: JobStatus) -> list[str]:
    return [m.state for m in now.members]


@pytest.fixture
def quiet(fakes: Any) -> Any:
    """An empty queue, and a site without accounting."""
    fakes.put("squeue", "pass")
    fakes.put("sacct", "sys.exit('accounting storage is disabled')")
    return fakes


@pytest.mark.parametrize(
    ("members", "whole"),
    [
        (("SUCCEEDED", "SUCCEEDED"), "SUCCEEDED"),
        (("SUCCEEDED", "FAILED"), "PARTIALLY_SUCCEEDED"),
        (("SUCCEEDED", "CANCELLED"), "PARTIALLY_SUCCEEDED"),
        (("FAILED", "FAILED"), "FAILED"),
        (("FAILED", "CANCELLED"), "FAILED"),
        (("CANCELLED", "CANCELLED"), "CANCELLED"),
        (("SUCCEEDED",), "SUCCEEDED"),
    ],
)
def test_status_ended_members_make_one_word(slurm_run: Make, quiet: Any, members: tuple[str, ...], whole: str) -> None:
    run, _ = slurm_run(len(members))
    submitted(run, len(members))
    for index, state in enumerate(members):
        attempt(run, index, state)

    now = status_of(run)

    assert (now.state, states(now)) == (whole, list(members))
    assert quiet.calls("squeue") == []


def test_status_array_in_the_queue_is_read_element_by_element(slurm_run: Make, quiet: Any) -> None:
    run, _ = slurm_run(6)
    submitted(run, 6)
    attempt(run, 0, "SUCCEEDED")
    queue(
        quiet,
        ("1", "d-1", "RUNNING", "None"),
        ("2", "d-1", "CONFIGURING", "None"),
        ("3-5%2", "d-1", "PENDING", "JobArrayTaskLimit"),
    )

    now = status_of(run)

    assert states(now) == ["SUCCEEDED", "RUNNING", "PENDING", "QUEUED", "QUEUED", "QUEUED"]
    assert (now.state, now.slurm_ids, now.members[3].message) == ("RUNNING", ("7",), "JobArrayTaskLimit")


def test_status_plain_job_in_the_queue_stands_for_its_member(slurm_run: Make, quiet: Any) -> None:
    run, _ = slurm_run()
    submitted(run, 1)
    queue(quiet, ("N/A", "d-1", "PENDING", "Resources"))

    now = status_of(run)

    assert (now.state, now.reason) == ("QUEUED", "Resources")


def test_status_some_ended_and_some_queued_is_running(slurm_run: Make, quiet: Any) -> None:
    run, _ = slurm_run(2)
    submitted(run, 2)
    attempt(run, 0, "FAILED")
    queue(quiet, ("1", "d-1", "PENDING", "x"))

    assert status_of(run).state == "RUNNING"


def test_status_requeued_attempt_is_not_the_end(slurm_run: Make, quiet: Any) -> None:
    run, _ = slurm_run()
    submitted(run, 1)
    attempt(run, 0, "REQUEUED")
    queue(quiet, ("N/A", "d-1", "PENDING", "BeginTime"))

    now = status_of(run)

    assert (now.state, now.members[0].attempts) == ("QUEUED", 1)


def test_status_cancelled_but_still_there_is_cancelling(slurm_run: Make, quiet: Any) -> None:
    run, _ = slurm_run()
    submitted(run, 1)
    write_json(run.cancelled, {"by": "me", "t": time.time()})
    queue(quiet, ("N/A", "d-1", "COMPLETING", "None"))

    assert status_of(run).state == "CANCELLING"


def test_status_cancelled_while_it_waited_is_cancelled(slurm_run: Make, quiet: Any) -> None:
    run, _ = slurm_run()
    submitted(run, 1)
    write_json(run.cancelled, {"by": "me", "t": time.time()})

    assert status_of(run).state == "CANCELLED"


@pytest.mark.parametrize(
    ("slurm", "state"),
    [
        ("CANCELLED by 1000", "CANCELLED"),
        ("NODE_FAIL", "FAILED"),
        ("DEADLINE", "EXPIRED"),
        ("OUT_OF_MEMORY", "FAILED"),
        ("COMPLETING", "RUNNING"),
        ("REQUEUED", "RUNNING"),
        ("BOOT_FAIL", "FAILED"),
        ("TIMEOUT", "FAILED"),
    ],
)
def test_status_gone_without_a_word_is_what_accounting_says(
    slurm_run: Make, quiet: Any, slurm: str, state: str
) -> None:
    run, _ = slurm_run()
    submitted(run, 1)
    quiet.put("sacct", f"print({S.join(('7', 'd-1', slurm))!r})")

    assert status_of(run).members[0].state == state


def test_status_member_that_ends_while_the_queue_is_asked_has_its_outcome(
    slurm_run: Make, quiet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = slurm_run(1)
    submitted(run, 1)
    attempt(run, 0)

    def asked(_: object) -> list[scheduler.Queued]:
        write_json(run.member(0).attempts()[-1].outcome, {"state": "FAILED", "cause": "user_error", "message": "mine"})
        return []

    monkeypatch.setattr(scheduler, "queue", asked)

    (member,) = status_of(run).members
    assert (member.state, member.cause, member.message) == ("FAILED", "user_error", "mine")


def test_status_gone_and_unknown_is_failed_with_a_reason(slurm_run: Make, quiet: Any) -> None:
    run, _ = slurm_run()
    submitted(run, 1)

    (member,) = status_of(run).members

    assert member.state == "FAILED"
    assert "left no outcome" in member.message


def test_status_submission_that_was_given_up_says_how_to_go_on(slurm_run: Make, quiet: Any) -> None:
    run, _ = slurm_run()
    Journal(run).abandon(Journal(run).intend(Part.whole(0)).intent, "sbatch: error: no\nmore")

    (member,) = status_of(run).members

    assert (member.state, "sbatch: error: no" in member.message, "retry d-1" in member.message) == (
        "FAILED",
        True,
        True,
    )


def test_status_submitted_again_has_not_ended_until_it_ends_again(slurm_run: Make, quiet: Any) -> None:
    run, _ = slurm_run(2)
    submitted(run, 2)
    attempt(run, 0, "SUCCEEDED")
    attempt(run, 1, "FAILED")
    journal = Journal(run)
    journal.reached(journal.intend(Part.whole(1)).intent, "8")
    quiet.put("squeue", f"print({S.join(('8', 'N/A', 'd-1.r1', 'RUNNING', 'None'))!r})")

    during = status_of(run)
    attempt(run, 1, "SUCCEEDED", 1)
    after = status_of(run)

    assert (states(during), during.state) == (["SUCCEEDED", "RUNNING"], "RUNNING")
    assert (states(after), after.state, after.slurm_ids) == (["SUCCEEDED", "SUCCEEDED"], "SUCCEEDED", ("7", "8"))


def test_status_queue_is_asked_once_for_all_members(slurm_run: Make, quiet: Any) -> None:
    run, _ = slurm_run(500)
    submitted(run, 500)
    queue(quiet, ("0-499%10", "d-1", "PENDING", "x"))

    status_of(run)

    assert len(quiet.calls("squeue")) == 1


def test_status_queue_that_does_not_answer_is_an_error(slurm_run: Make, quiet: Any) -> None:
    run, _ = slurm_run()
    submitted(run, 1)
    quiet.put("squeue", "sys.exit(1)")

    with pytest.raises(SiteError):
        status_of(run)


def test_status_progress_is_the_newest_attempts(slurm_run: Make, quiet: Any) -> None:
    run, _ = slurm_run()
    submitted(run, 1)
    old = {"t": 1, "step": 90, "total_steps": 100, "metrics": {"train/loss": 9.0}}
    attempt(run, 0, "REQUEUED", 0, old)
    rows = [
        {"t": 1, "step": 5, "total_steps": 100, "metrics": {"train/loss": 0.5}},
        {"t": 2, "dataset": {}},
        {"t": 3, "step": 6, "total_steps": 100, "metrics": {"val/loss": "nan"}},
    ]
    attempt(run, 0, "SUCCEEDED", 1, *rows)

    (member,) = status_of(run).members

    assert (member.step, member.total_steps, member.metrics) == (6, 100, {"train/loss": 0.5, "val/loss": "nan"})


@pytest.mark.parametrize(
    ("events", "shown"),
    [
        ([{"event": "checkpoint_failed", "step": 10, "kept": 5, "why": "No space left"}], True),
        ([{"event": "checkpoint_failed", "step": 10, "kept": None, "why": "No space left"}], True),
        ([{"event": "checkpoint_failed", "step": 5, "kept": None, "why": "x"}, {"event": "checkpoint_durable"}], False),
    ],
)
def test_status_of_a_run_says_when_its_checkpoints_do_not_get_onto_the_disk(
    slurm_run: Make, quiet: Any, events: list[dict[str, Any]], shown: bool
) -> None:
    run, _ = slurm_run()
    submitted(run, 1)
    attempt(run, 0)
    ledger = run.member(0).path / "attempt-0" / "ledger.jsonl"
    ledger.write_text("".join(json.dumps({"t": 1.0, **event}) + "\n" for event in events))
    queue(quiet, ("N/A", "d-1", "RUNNING", "None"))

    text = "\n".join(status_text(status_of(run)))

    assert "RUNNING" in text
    assert ("checkpoints cannot be saved (No space left); " in text) == shown


SLOW = {"train/slowest_rank": 2.0, "train/rank_spread": 1.62}
TOLD = {"event": "straggler", "step": 30, "rank": 2, "host": "n3", "times": 1.5}


@pytest.mark.parametrize(
    ("events", "metrics", "shown"),
    [
        ([TOLD], SLOW, True),
        ([], SLOW, False),
        ([TOLD], {**SLOW, "train/slowest_rank": 1.0}, False),
        ([TOLD], {**SLOW, "train/rank_spread": 1.1}, False),
        ([TOLD], {**SLOW, "train/rank_spread": "nan"}, False),
    ],
    ids=["still slow", "never told of", "another", "well again", "no number"],
)
def test_status_of_a_run_names_the_rank_that_keeps_the_others_waiting(
    slurm_run: Make, quiet: Any, events: list[dict[str, Any]], metrics: dict[str, Any], shown: bool
) -> None:
    run, _ = slurm_run()
    submitted(run, 1)
    attempt(run, 0, None, 0, {"t": 1, "step": 60, "total_steps": 100, "metrics": metrics})
    ledger = run.member(0).path / "attempt-0" / "ledger.jsonl"
    ledger.write_text("".join(json.dumps({"t": 1.0, **event}) + "\n" for event in events))
    queue(quiet, ("N/A", "d-1", "RUNNING", "None"))

    (member,) = (now := status_of(run)).members

    said = "rank 2 on n3 takes 1.6 times as long as the others and keeps them waiting (since step 30)"
    assert (said in "\n".join(status_text(now))) == shown
    assert (member.straggler is not None) == shown
    assert json.loads(json.dumps(status_document(now)))["members"][0]["straggler"] == (
        {"rank": 2, "host": "n3", "times": 1.62, "since_step": 30} if shown else None
    )


def test_status_broken_file_is_an_error_that_names_it(slurm_run: Make, quiet: Any) -> None:
    run, _ = slurm_run()
    run.plan.write_text('{"job": ')

    with pytest.raises(SiteError, match=r"plan\.json"):
        status_of(run)


# --- on this machine ----------------------------------------------------------------------------------


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


# --- as text ------------------------------------------------------------------------------------------


def test_status_text_shows_job_counts_and_folder(slurm_run: Make, quiet: Any) -> None:
    run, _ = slurm_run(2)
    submitted(run, 2)
    attempt(run, 0, "SUCCEEDED")
    attempt(run, 1, "FAILED")

    lines = list(status_text(status_of(run)))

    assert lines[0] == "d-1   PARTIALLY_SUCCEEDED   slurm 7"
    assert lines[1] == "  1 FAILED, 1 SUCCEEDED"
    assert "failed: m0" in lines[3]
    assert lines[-1].endswith(str(run.path))


def test_status_text_of_many_members_is_short(slurm_run: Make, quiet: Any) -> None:
    run, _ = slurm_run(100)
    submitted(run, 100)
    queue(quiet, ("0-99", "d-1", "PENDING", "Priority"))

    lines = list(status_text(status_of(run)))

    assert len(lines) < 30
    assert any("80 more" in line for line in lines)


def searched(folder: Path, trials: int = 6, launcher: str = "local", **more: Any) -> Run:
    spec = dataclasses.replace(spec_of(), launcher=schema.Launcher(kind=launcher, max_parallel=2))  # type: ignore[arg-type]
    return make_search(folder, search_of(trials, **more), spec=spec, fresh=True, kind="none")


def lines_of(run: Run) -> list[str]:
    now = status_of(run, progress_of=20)
    return list(status_text(now, standing_of(run, now)))


def test_status_text_of_a_search_says_how_it_stands(workdir: Path) -> None:
    run = searched(workdir, limits=Limits(wall_min=10**6, gpu_hours=3))
    accuracies(run, [0.5, 0.75, None])
    tried(run, 3, {"optimizer.lr": 0.1, "model.width": 4}, {"val/accuracy": 0.2}, state="PRUNED")
    write_json(run.path / "study" / "over.json", {"why": "enough", "t": 0})

    assert lines_of(run)[2:7] == [
        "  best         trial 1  val/accuracy 0.75  optimizer.lr=0.002 model.width=5",
        "  trials       4 of 6: 2 succeeded, 1 failed, 1 pruned",
        "  used         40 s of 694 d 10 h, 0 of 3 GPU-hours",
        "  slots        2, idle 54% of the time (55% before the last trial began)",
        "  over         enough",
    ]


def test_status_text_of_a_search_before_it_begins_has_no_best(workdir: Path, quiet: Any) -> None:
    run = searched(workdir, launcher="slurm")
    submitted(run, 6)
    queue(quiet, ("0-5", "d-1", "PENDING", "Priority"))

    assert lines_of(run)[2:5] == ["  best so far  none", "  trials       0 of 6", "  used         0.0 s"]


def test_status_text_of_a_search_counts_what_runs_and_reserves(workdir: Path, quiet: Any) -> None:
    run = searched(workdir, launcher="slurm", limits=Limits(gpu_hours=3))
    submitted(run, 6)
    queue(quiet, ("0-5", "digits-1", "RUNNING", "None"))
    accuracies(run, [0.5])
    start(run, 1, {"optimizer.lr": 0.1, "model.width": 4}, {"val/accuracy": 0.9})

    text = "\n".join(lines_of(run))

    assert "best so far  trial 0  val/accuracy 0.5" in text
    assert "2 of 6: 1 succeeded, 1 running" in text
    assert "0 of 3 GPU-hours (0.5 more reserved)" in text


def test_status_text_of_a_search_with_several_goals_has_the_pareto_set(workdir: Path) -> None:
    goals = (Goal(metric="val/accuracy", goal="maximize"), Goal(metric="seconds", goal="minimize"))
    run = searched(workdir, objectives=goals)
    for i, (accuracy, seconds) in enumerate([(0.9, 30), (0.8, 10), (0.7, 20)]):
        tried(run, i, {"optimizer.lr": 0.1, "model.width": 4}, {"val/accuracy": accuracy, "seconds": seconds})

    assert "  Pareto set   2 trials: 0, 1" in lines_of(run)


def test_status_of_a_search_takes_a_trial_that_nothing_runs_for_lost(workdir: Path, quiet: Any) -> None:
    run = searched(workdir, launcher="slurm")
    submitted(run, 6)
    start(run, 0, {"optimizer.lr": 0.1, "model.width": 4})

    now = status_of(run)

    search = standing_of(run, now)
    assert search is not None
    assert search["trials"] == {"LOST": 1}


def test_status_of_a_job_that_is_no_search_has_no_standing(slurm_run: Make, quiet: Any) -> None:
    run, _ = slurm_run(2)
    submitted(run, 2)

    assert standing_of(run, status_of(run)) is None


def test_summary_text_without_a_result_has_the_folder(slurm_run: Make, quiet: Any) -> None:
    run, _ = slurm_run()
    submitted(run, 1)
    attempt(run, 0, "FAILED")

    text = "\n".join(summary_text(status_of(run), None, {}))

    assert "FAILED" in text
    assert str(run.path) in text


def test_summary_text_says_once_what_to_do(slurm_run: Make, quiet: Any) -> None:
    run, _ = slurm_run(members=2)
    submitted(run, 2)
    for index in (0, 1):
        attempt(run, index, "FAILED")
        write_json(run.member(index).attempts()[0].outcome, {"state": "FAILED", "cause": "site", "message": "full"})

    text = "\n".join(summary_text(status_of(run), None, {}))

    assert text.count("do         free space where the runs are") == 1
    assert f"fairlead retry {run.id}" in text


def test_list_text_is_a_line_for_each_job(slurm_run: Make, quiet: Any) -> None:
    run, _ = slurm_run()
    submitted(run, 1)
    attempt(run, 0, "SUCCEEDED")
    ended = dataclasses.replace(status_of(run), launched=T0, ended=T0 + 65)
    running = dataclasses.replace(ended, job="a-much-longer-name-1", state="RUNNING", ended=None)
    unknown = dataclasses.replace(ended, launched=None, ended=None)
    launched = time.strftime("%Y-%m-%d %H:%M", time.localtime(T0))

    assert list(list_text([ended, running, unknown], T0 + 7200)) == [
        "JOB                   LAUNCHED          LASTED      STATE      MEMBERS",
        f"d-1                   {launched}  1 min 05 s  SUCCEEDED  1 succeeded",
        f"a-much-longer-name-1  {launched}  2 h 00 min  RUNNING    1 succeeded",
        "d-1                                                 SUCCEEDED  1 succeeded",
    ]
    assert list(list_text([], T0)) == []


def test_status_times_are_of_the_launch_and_of_the_last_outcome(slurm_run: Make, quiet: Any) -> None:
    run, _ = slurm_run()
    write_json(run.provenance, {"created": "2026-01-02T03:04:05+00:00"})
    submitted(run, 1)
    mark_ended(run, 0, 0, "FAILED")
    unmark_ended(run, {0})
    queue(quiet, ("0", run.id, "RUNNING", "None"))
    before = status_of(run)
    attempt(run, 0, "SUCCEEDED")
    mark_ended(run, 0, 0, "SUCCEEDED")
    os.utime(run.ended, (0, 1_767_323_050))

    after = status_of(run)

    assert (before.launched, before.ended) == (1_767_323_045, None)
    assert (after.launched, after.ended) == (1_767_323_045, 1_767_323_050)


def test_status_of_ended_trials_that_are_not_shown_opens_none_of_their_files(workdir: Path) -> None:
    run = searched(workdir, trials=40)
    accuracies(run, [0.5] * 40)
    run.member(39).point.write_text("{")
    run.member(39).attempts()[0].outcome.write_text("{")

    now = status_of(run, progress_of=20)

    assert now.counts == {"SUCCEEDED": 40}
    assert [m.point["model.width"] for m in now.members[:20]] == list(range(4, 24))
    assert now.members[39].attempts == 1
    with pytest.raises(SiteError):
        status_of(run)


def test_status_text_of_one_member_says_where_its_time_went(slurm_run: Make, quiet: Any) -> None:
    run, _ = slurm_run()
    time_s = {"queue": 30.0, "start": 2.0, "data": 0.1, "steps": 90.0, "data_wait": 7.9}
    rank_s = {phase: 2 * s for phase, s in time_s.items() if phase != "queue"}
    used = Spending(time=Goodput(time_s), rank_s=rank_s, gpu_h={"steps": 0.5}, money={}, currency="EUR")

    goodput, spent = [
        line for line in status_text(status_of(run), None, used) if line[:9] in ("  goodput", "  used   ")
    ]

    said = "  goodput 90% of 1 min 40 s (start 2%, data wait 8%; queued 30 s)"
    assert goodput.replace("\N{NO-BREAK SPACE}", " ") == said
    assert spent == "  used    200 rank-seconds, 0.5 GPU-hours"
