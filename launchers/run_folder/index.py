"""Which runs this user has, and where: so that every verb works from any folder and any shell.

A line per launch in the user's state folder (XDG base directory specification), and whatever run folders
stand in ./runs. The run folders are the truth; a line whose folder is gone is passed over.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from launchers.errors import Problem, SpecError
from launchers.run_folder.record import Run, append_line, make_private, read_lines
from sweeps.names import nearest


def _file() -> Path:
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state) / "fairlead" / "runs.jsonl"


def remember(run: Run) -> None:
    """Add a run. A home that cannot be written is no reason to fail: the run folder is what counts."""
    try:
        make_private(_file().parent)
        append_line(_file(), {"job": run.id, "path": str(run.path), "t": time.time()})
    except OSError:
        return


def all_runs() -> list[Run]:
    """Every run that is still there, oldest first."""
    known: dict[str, tuple[float, Path]] = {}
    for row in read_lines(_file()):
        if isinstance(row, dict) and {"job", "path", "t"} <= set(row):
            known[row["job"]] = (float(row["t"]), Path(row["path"]))
    here = Path("runs")
    for path in here.iterdir() if here.is_dir() else ():
        if not path.name.startswith("."):
            known.setdefault(path.name, (path.stat().st_ctime, path.resolve()))
    found = [(t, Run(path)) for t, path in known.values() if _is_run(path)]
    return [run for _, run in sorted(found, key=lambda pair: pair[0])]


def _is_run(path: Path) -> bool:
    """Whether a run folder stands there; a name that no file can have is none."""
    try:
        return (path / "plan.json").exists()
    except (OSError, ValueError):
        return False


def find(name: str | None) -> Run:
    """The run of a job id, of a prefix that only one has, of a path, or the newest for None.

    Raises SpecError naming the nearest.
    """
    if name is not None and _is_run(Path(name)):
        return Run(Path(name).resolve())
    runs = all_runs()
    if not runs:
        raise SpecError(
            [
                Problem(
                    "there are no runs yet",
                    "this user's index and ./runs",
                    "fairlead launch experiment=digits",
                )
            ]
        )
    if name is None:
        return runs[-1]
    exact = [run for run in runs if run.id == name]
    matching = exact or [run for run in runs if run.id.startswith(name)]
    if len(matching) == 1:
        return matching[0]
    ids = [run.id for run in matching or runs][-8:]
    what = f"{name!r} is the beginning of {len(matching)} jobs" if matching else f"there is no job {name!r}"
    raise SpecError([Problem(what, f"job {name}", nearest(name, ids))])
