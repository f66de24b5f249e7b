"""Values of secrets that come from the environment of who launches, kept until their job has succeeded.

A job starts hours later on another host, and again after weeks, so a value must wait somewhere. It waits in a file of
mode 600 in the user's own state folder, as an SSH key does: `$XDG_STATE_HOME/fairlead/secrets/JOB.json` (by default
below ~/.local/state), which the nodes must see, and which is removed when the finish step finds no member that
`fairlead retry` would run again. Why not in the environment of the batch job, where sbatch puts everything by default:
the controller keeps that as well, a site may store it in the accounting database (AccountingStoreFlags=job_env) where
`sacct --env-vars` shows it, and a retry from another shell has it no more. So submit.py takes it out of there.
Where no home is shared, a secret comes from a file or a command of the node.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from launchers.errors import Problem, SiteError, SpecError
from launchers.run_folder.record import Run, make_private, read_json, write_json

STALE_S = 30 * 24 * 3600
"""So long the values of a job wait that has ended with failures, for a retry."""


def file_of(job: str) -> Path:
    """Where the values of a job wait."""
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state).absolute() / "fairlead" / "secrets" / f"{job}.json"


def must_be_known(wanted: Mapping[str, str], known: Iterable[str] = ()) -> None:
    """Raises SpecError with every variable that is not set; `wanted` are variables by the names of their secrets."""
    problems = [
        Problem(
            f"the variable {variable} is {'empty' if variable in os.environ else 'not set'}",
            f"secrets.{name}.env",
            f"export {variable}=... in this shell, then give the command again",
        )
        for name, variable in wanted.items()
        if not os.environ.get(variable) and name not in known
    ]
    if problems:
        raise SpecError(problems)


def keep(run: Run, path: Path, wanted: Mapping[str, str]) -> None:
    """Keep what the environment says now; what it does not say stays as it was kept before.

    Raises SpecError for a value that is nowhere, and SiteError where it cannot be kept.
    """
    if not wanted:
        return
    before = (read_json(path) or {}).get("values", {})
    must_be_known(wanted, before)
    values = {name: os.environ.get(variable) or before[name] for name, variable in wanted.items()}
    try:
        make_private(path.parent)
        write_json(path, {"run": str(run.path), "values": values})
        path.chmod(0o600)
        _sweep_out(path.parent)
    except OSError as e:
        do = "make room there, or take these secrets from a file or a command"
        raise SiteError(f"the secrets cannot be kept: {e.strerror}", where=str(path.parent), do=do) from None


def values_in(path: Path) -> Mapping[str, str]:
    """What is kept there. Raises SiteError where there is nothing."""
    found = read_json(path)
    if found is None:
        what = f"the secrets that were kept for this job are not there: {path}"
        do = "let the nodes see that folder (XDG_STATE_HOME), or take the secrets from a file or a command; then retry"
        raise SiteError(what, where="secrets", do=do)
    values: Mapping[str, str] = found["values"]
    return values


def forget(path: Path) -> None:
    """Nobody needs them any more."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def _sweep_out(folder: Path) -> None:
    """Of runs that are gone, or have ended long ago."""
    for path in folder.glob("*.json"):
        with contextlib.suppress(OSError, SiteError):
            run = Run(Path((read_json(path) or {})["run"]))
            old = run.result.exists() and time.time() - run.result.stat().st_mtime > STALE_S
            if old or not run.path.exists():
                path.unlink()
