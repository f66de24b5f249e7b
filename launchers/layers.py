"""The verb `image prune`, as far as it is about installed sources: which unfinished job uses which layer.

Which of the others go, and how, is programs/layer_pruning.py's.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from launchers.apptainer.pruning import Entry, Pruned
from launchers.errors import SiteError
from launchers.folders import folder_of
from launchers.jobs.status import TERMINAL, status_of
from launchers.launch import Request, checked
from launchers.programs import layer_pruning
from launchers.programs.layer_pruning import Limits
from launchers.run_folder import index
from launchers.run_folder.record import Run, read_json


def prune(request: Request, limits: Limits, *, really: bool) -> Pruned:
    """The layers beside this site's runs, and what is left of installations that were broken off; those that may go
    are removed if `really`."""
    runs_dir = folder_of(checked(request).specs[0].site.runs_dir)
    judged = layer_pruning.prune(runs_dir, _needed(runs_dir), limits, really=really)
    return Pruned(tuple(Entry(each.path, each.size, each.why) for each in judged), really)


def _needed(runs_dir: Path) -> dict[Path, str]:
    """Folders of modules that jobs use which have not ended, and the job; of one that Slurm says nothing of, too."""
    found: dict[Path, str] = {}
    for run in _runs(runs_dir):
        used = set(_installed(run))
        if used and (why := _why_unfinished(run)):
            found |= dict.fromkeys(used, why)
    return found


def _runs(runs_dir: Path) -> Iterator[Run]:
    """Those of this user's index and those beside the layers: an index may be lost."""
    beside = (Run(plan.parent) for plan in runs_dir.glob("*/plan.json"))
    yield from {run.path: run for run in (*index.all_runs(), *beside)}.values()


def _installed(run: Run) -> Iterator[Path]:
    for plan in (read_json(run.plan) or {}).get("plans", ()):
        yield from (Path(pool["installed"]["folder"]) for pool in plan["pools"] if pool.get("installed"))


def _why_unfinished(run: Run) -> str:
    try:
        state = status_of(run, progress_of=0).state
    except SiteError as e:
        return f"{run.id}, which may still run: {str(e).splitlines()[0]}"
    return "" if state in TERMINAL else f"{run.id}, which is {state}"
