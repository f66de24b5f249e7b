"""After a crash: find out what became of submissions that were meant and never confirmed.

Takes the run's sbatch lock, so nothing is in flight; asks Slurm for a job of the intent's name; if there
is none, removes the script (a straggling sbatch then fails) and marks the intent as abandoned. A job that
was queued without its finish step gets one. Nothing is ever queued twice, and members never without a word.
"""

from __future__ import annotations

import contextlib
import datetime
import shutil

from launchers.errors import CommandError
from launchers.plan import plans_from
from launchers.queue import scheduler
from launchers.run_folder.journal import Journal, Submission, script_folder
from launchers.run_folder.record import LockBusy, Run, locked, read_json

BUSY_S = 2


def repair(run: Run) -> None:
    """Leave no submission of the run open, and no members without a finish step.

    Does nothing while another client is at work on the run. Raises SiteError when Slurm cannot be asked;
    then nothing was changed.
    """
    journal = Journal(run)
    document = read_json(run.plan)
    if document["launcher"] != "slurm" or not _needs_repair(journal):
        return
    from launchers.queue import submit  # submitit comes with it, which `status` seldom needs

    with contextlib.suppress(LockBusy), locked(submit.submit_lock(run), BUSY_S):
        with locked(submit.sbatch_lock(run), BUSY_S):
            for wanted in journal.submissions():
                if wanted.is_open:
                    _settle(run, journal, wanted)
        if lonely := _without_finish(journal):
            submit.submit_finish(run, plans_from(document)[0], [str(s.slurm_id) for s in lonely])


def _needs_repair(journal: Journal) -> bool:
    return any(s.is_open for s in journal.submissions()) or bool(_without_finish(journal))


def _without_finish(journal: Journal) -> list[Submission]:
    """Queued members whose finish step never got as far as an intent, or was abandoned."""
    done = journal.submissions()
    waited_for = {i for s in done if s.kind == "finish" and not s.abandoned for i in s.after.split(":")}
    return [s for s in done if s.kind == "members" and s.slurm_id and s.slurm_id not in waited_for]


def _settle(run: Run, journal: Journal, wanted: Submission) -> None:
    found = _find(run, wanted)
    if found:
        journal.reached(wanted.intent, found)
        return
    shutil.rmtree(script_folder(run, wanted.intent), ignore_errors=True)
    journal.abandon(wanted.intent, "the launch was interrupted before it reached Slurm")


def _find(run: Run, wanted: Submission) -> str | None:
    """The Slurm id of a job with the intent's name: from the queue, accounting, or what the job itself wrote."""
    for job in scheduler.queue([wanted.intent]):
        return job.job
    since = datetime.datetime.fromtimestamp(wanted.t - 60).strftime("%Y-%m-%dT%H:%M:%S")
    with contextlib.suppress(CommandError):  # a site without accounting
        for job_id, _, _ in scheduler.accounted([wanted.intent], since):
            return job_id.partition("_")[0]
    return _written_by_the_job(run, wanted)


def _written_by_the_job(run: Run, wanted: Submission) -> str | None:
    known = {s.slurm_id for s in Journal(run).submissions()}
    for index in wanted.indices:
        for attempt in run.member(index).attempts():
            place = read_json(attempt.path / "started.json") or {}
            job = place.get("slurm_array_job_id") or place.get("slurm_job_id")
            if job and job not in known:
                return str(job)
    return None
