"""Is a held allocation up, and who runs in it? And how a job is handed to it: by a file, which its holder takes.

Only Slurm knows whether an allocation lives; it is asked for the job of the pool's name. What lies in a pool's folder
is pool_folder.py's, bringing one up and down pools.py's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from launchers.errors import Problem, SiteError, SpecError
from launchers.parts import Part, ranges
from launchers.plan import Plan
from launchers.queue import scheduler
from launchers.run_folder.journal import Journal
from launchers.run_folder.pool_folder import PoolFolder, find_pool
from launchers.run_folder.record import Run, locked, read_json, write_json

PoolState = Literal["QUEUED", "STARTING", "UP", "ENDED"]
STATES: dict[str, PoolState] = {"PENDING": "QUEUED", "CONFIGURING": "STARTING", "RUNNING": "UP"}


def state_of(pool: PoolFolder, queued: Sequence[scheduler.Queued] | None = None) -> tuple[PoolState, str]:
    """The state of a pool, and while it waits, why; `queued` is what the queue said of its name, if it was asked.

    Raises CommandError when Slurm does not answer.
    """
    rows = [r for r in (scheduler.queue([pool.id]) if queued is None else queued) if r.name == pool.id]
    if not rows:
        return "ENDED", ""
    state = STATES.get(rows[0].state, "ENDED")
    if state == "UP" and pool.held is None:
        state = "STARTING"
    return state, rows[0].reason if state == "QUEUED" else ""


def must_be_there(name: str) -> PoolFolder:
    """The pool of a name, which is up or on its way. Raises SpecError for none, SiteError for one that has ended."""
    pool = find_pool(name)
    if pool is None:
        do = f"fairlead pool up {name} machine=...   (fairlead pool list shows those there are)"
        raise SpecError([Problem(f"there is no pool {name!r}", "launcher.pool", do)])
    if pool.down.exists():
        raise SiteError(f"pool {name} is going down", where=str(pool.path), do=_again(name))
    if state_of(pool)[0] == "ENDED":
        raise SiteError(f"pool {name} is not up: its allocation has ended", where=str(pool.path), do=_again(name))
    return pool


def hand_in(run: Run, plan: Plan, indices: Sequence[int]) -> None:
    """Hand members of a run to its pool, or to the queue that runs others of the job there already.

    The intent is in the journal before the pool's folder has the file. Raises SiteError when the pool has ended.
    """
    pool = must_be_there(str(plan.pool))
    with locked(run.path / "submit.lock"):
        journal = Journal(run)
        intent = journal.intend(Part.whole(*indices)).intent
        if not _takes_more(run):
            (run.path / "runner.json").unlink(missing_ok=True)
            write_json(_known(run), {"pool": plan.pool, "path": str(pool.path)})
            asked = {"run_dir": str(run.path.absolute()), "python": plan.python, "members": ranges(indices)}
            write_json(pool.inbox / f"{run.id}.json", asked)
        journal.reached(intent, "pool")


def is_alive(run: Run) -> bool:
    """Whether a run waits or is run in its pool. Raises CommandError when Slurm does not answer."""
    pool = pool_of(run)
    return pool is not None and pool.has(run.id) and state_of(pool)[0] != "ENDED"


def why_gone(run: Run) -> str:
    """Why nothing runs a job of a pool any more."""
    pool = pool_of(run)
    if pool is None or not pool.has(run.id):
        return "its queue in the pool ended without a word (logs/pool.log)"
    name = pool.asked["name"]
    return f"pool {name} has ended (when it is up again: fairlead pool up {name} ...)"


def pool_of(run: Run) -> PoolFolder | None:
    """The pool that a run was last handed to."""
    known = read_json(_known(run))
    return PoolFolder(Path(known["path"])) if known else None


def _takes_more(run: Run) -> bool:
    """Whether the queue that runs the job in the pool will look for more. The caller holds the journal's lock."""
    said = read_json(run.path / "runner.json") or {}
    return bool(said.get("open")) and is_alive(run)


def _known(run: Run) -> Path:
    """Which pool the run was handed to."""
    return run.path / "pool.json"


def _again(name: str) -> str:
    return f"fairlead pool up {name} machine=..."
