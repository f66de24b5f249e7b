"""Hand members of a frozen run to whatever runs them: Slurm's queue, one on this machine, or a held allocation.

Whoever calls holds the run's change lock. Which members that are is launch.py's, retry.py's, extend.py's and
resume.py's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from launchers.errors import CommandError
from launchers.parts import Part
from launchers.plan import Plan
from launchers.queue import local, pool, scheduler
from launchers.run_folder import kept
from launchers.run_folder.journal import Journal
from launchers.run_folder.record import Run, locked, read_json


def submit_members(run: Run, plans: Sequence[Plan], indices: Sequence[int]) -> None:
    """Hand members to whatever runs them. Raises CommandError when Slurm is not known to have taken them."""
    wanted = {name: s.env for plan in plans for name, s in plan.secrets.items() if s.env}
    for path in {plan.kept for plan in plans if plan.kept}:
        kept.keep(run, Path(path), wanted)
    if plans[0].launcher == "slurm":
        from launchers.queue.repair import repair
        from launchers.queue.submit import submit

        scheduler.must_be_here()
        before = len(Journal(run).submissions())
        try:
            submit(run, plans, indices)
        except CommandError:
            repair(run)  # asks Slurm, and queues the finish step if the members are there after all
            ours = [s for s in Journal(run).submissions()[before:] if s.kind == "members"]
            if not ours or any(s.slurm_id is None for s in ours):
                raise
        return
    if plans[0].launcher == "pool":
        pool.hand_in(run, plans[0], indices)
        return
    with locked(run.path / "submit.lock"):
        journal = Journal(run)
        intent = journal.intend(Part.whole(*indices)).intent
        if not local.takes_more(run):
            local.start(run, plans[0], indices)
        journal.reached(intent, "local")


def queue_is_alive(run: Run) -> bool:
    """Whether a queue of ours, on this machine or in a held allocation, has the run. Raises CommandError when Slurm has
    to be asked and does not answer."""
    return pool.is_alive(run) if read_json(run.plan)["launcher"] == "pool" else local.is_alive(run)
