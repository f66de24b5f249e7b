"""Hand a frozen run to Slurm: the only file that submits, through submitit's executor.

Order on disk: intent, sbatch, id. sbatch runs under a lock of its own that outlives a killed client, so
that repair.py never looks while a submission is in flight. One sbatch per array whatever its length, and
one more for the finish step that waits for them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import re
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from subprocess import CalledProcessError

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError

from launchers.command import output_of
from launchers.errors import CommandError
from launchers.parts import Part, parts
from launchers.plan import Plan, apart, plans_from
from launchers.queue import scheduler, slurm
from launchers.run_folder.journal import Journal, Submission, script_folder
from launchers.run_folder.record import Run, locked, make_private, read_json, read_lines

UNANSWERED = re.compile(r"timed out|unable to contact|zero bytes|connection|communication", re.IGNORECASE)
"""sbatch's words when the answer did not come back; the job may be there."""
SILENCE_S = 5.0
SBATCH_LIMIT_S = 120
"""sbatch itself gives up after MessageTimeout times a few retries; a controller that is down costs that."""


def submit(run: Run, plans: Sequence[Plan], members: Sequence[int]) -> list[Submission]:
    """Queue these members in as few arrays as they need, and the finish step behind all of them.

    With a limit on what runs at once, an array that would exceed it waits for the one before (throttle.py lets
    it begin earlier, as places become free), so that the limit holds over all of them, also over those of an earlier
    call that are still there. One finish step waits for them all.

    Raises CommandError when sbatch fails. Unless it was surely refused the intent stays open: sbatch can fail
    after Slurm has taken the job (a time-out on the way back), and only repair.py, which asks Slurm, may say.
    """
    with locked(submit_lock(run)):
        journal, queued = Journal(run), list[Submission]()
        arrays, finishes = _still_there(journal)
        limit = plans[0].max_parallel
        free = 0 if arrays else limit or 0  # places that no array of ours has yet
        for part in _parts_of(run, plans, members):
            if run.cancelled.exists():
                break
            after = arrays[-1] if arrays and limit and free <= 0 else ""
            wanted = journal.intend(part, after)
            throttle = limit if after else free or None
            text = slurm.member_script(plans[part.shape], part, wanted.intent, after, throttle)
            free -= len(part.elements)
            queued.append(_submit_one(run, wanted, text))
            arrays.append(str(queued[-1].slurm_id))
        if queued:
            queued.append(submit_finish(run, plans[0], arrays))
            _withdraw(finishes)
    return queued


def _still_there(journal: Journal) -> tuple[list[str], list[str]]:
    """Slurm ids of arrays and of finish steps that earlier calls left in the queue, oldest first."""
    before = [s for s in journal.submissions() if s.slurm_id]
    names = {job.name for job in scheduler.queue([s.intent for s in before])} if before else set()
    there = [(s.kind, str(s.slurm_id)) for s in before if s.intent in names]
    return [i for kind, i in there if kind == "members"], [i for kind, i in there if kind == "finish"]


def _withdraw(finishes: Sequence[str]) -> None:
    """Finish steps that wait for less than the newest one does. One that has begun may end: the newest comes after."""
    if finishes:
        with contextlib.suppress(CommandError):
            output_of(["scancel", "--quiet", "--state=PENDING", *finishes], env=slurm.client_environment())


def _parts_of(run: Run, plans: Sequence[Plan], members: Sequence[int]) -> list[Part]:
    shapes = {row["index"]: row["shape"] for row in read_lines(run.members_file) if row.get("shape")}
    return parts(members, shapes, plans[0].per_allocation, plans[0].max_array, apart(plans))


def submit_finish(run: Run, plan: Plan, after: Sequence[str]) -> Submission:
    """Queue the finish step alone. The caller holds `submit_lock`."""
    wanted = Journal(run).intend_finish(after)
    return _submit_one(run, wanted, slurm.finish_script(plan, wanted.intent, wanted.after))


def submit_lock(run: Run) -> Path:
    """Held by whoever writes the journal."""
    return run.path / "submit.lock"


def sbatch_lock(run: Run) -> Path:
    """Held by every sbatch of this run while it is in flight."""
    return run.path / "sbatch.lock"


def _submit_one(run: Run, wanted: Submission, text: str) -> Submission:
    try:
        slurm_id = _FrozenScript(run, wanted.intent, text).queue()
    except CommandError as e:
        if surely_refused(e):
            Journal(run).abandon(wanted.intent, str(e))
        raise
    Journal(run).reached(wanted.intent, slurm_id)
    return dataclasses.replace(wanted, slurm_id=slurm_id)


def queue_script(run: Run, intent: str, text: str) -> str:
    """Queue a script that belongs to no run's journal (a pool's); the id that Slurm gave it. Raises CommandError."""
    return _FrozenScript(run, intent, text).queue()


def surely_refused(error: CommandError) -> bool:
    """Whether Slurm cannot have taken the job: sbatch was not there, or it was told no by the controller."""
    never_ran = error.status in ("was not found", "exited with status 126", "exited with status 127")
    told_no = error.status == "exited with status 1" and not UNANSWERED.search(error.output)
    return never_ran or told_no


class _FrozenScript(submitit.SlurmExecutor):
    """submitit's executor for a script whose text is already decided, and without pickles."""

    def __init__(self, run: Run, intent: str, text: str) -> None:
        super().__init__(folder=make_private(script_folder(run, intent)))
        self._run, self._lock, self._text = run, sbatch_lock(run), text

    @classmethod
    def affinity(cls) -> int:
        return 2  # whether there is a Slurm is sbatch's to say, with an error of its own

    def queue(self) -> str:
        """The id that Slurm gave the script. Raises CommandError."""
        try:
            # submitit prints what sbatch says on an error and raises it too: once is enough
            with _scrubbed_environment(self._run), _patience(), contextlib.redirect_stderr(io.StringIO()):
                return str(self._submit_command("").job_id)
        except (FailedJobError, FailedSubmissionError) as e:
            cause = e.__cause__
            status = f"exited with status {cause.returncode}" if isinstance(cause, CalledProcessError) else "failed"
            do = "`fairlead check` asks the cluster about partition, limits and account before anything is queued"
            raise CommandError(["sbatch", str(self.folder)], status, str(e), do) from None
        except FileNotFoundError as e:
            raise CommandError(["sbatch"], "was not found", str(e), "launch where Slurm's commands are") from None

    def _make_submission_file_text(self, command: str, uid: str) -> str:
        return self._text

    def _make_submission_command(self, submission_file_path: Path) -> list[str]:
        locked = ["flock", "--exclusive", "--wait", "60", str(self._lock)]
        return [*locked, "timeout", str(SBATCH_LIMIT_S), "sbatch", str(submission_file_path)]


@contextlib.contextmanager
def _patience() -> Iterator[None]:
    """Say so when sbatch does not answer at once: it goes on trying for a minute and more."""
    text = "sbatch does not answer yet; it is given two minutes"
    note = threading.Timer(SILENCE_S, print, [text], {"file": sys.stderr, "flush": True})
    note.start()
    try:
        yield
    finally:
        note.cancel()


@contextlib.contextmanager
def _scrubbed_environment(run: Run) -> Iterator[None]:
    """Without secrets, and what an enclosing job left behind: submitit's own helper drops SLURM_CONF as well."""
    plans = read_json(run.plan)  # a held allocation has none
    before, private = dict(os.environ), slurm.private_variables(plans_from(plans) if plans else ())
    os.environ.clear()
    os.environ.update(slurm.client_environment(before, private))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
