"""Ask Fairlead, in a process of its own (launchers.hydra_app.application): a request in, a line for each answer.

Of its own, because what an application imports may be called conf or trainer too, and has its own Hydra.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.errors import CompactHydraException

GROUPS = ("launcher", "machine", "accelerator", "container", "site")


def words(settings: Mapping[str, Any]) -> dict[str, Any]:
    """hydra.launcher as overrides of Fairlead; `overrides` has the last word."""
    own = [str(text) for text in settings["overrides"]]
    said = {text.partition("=")[0] for text in own}
    chosen = [f"{group}={settings[group]}" for group in GROUPS if settings[group] and group not in said]
    if settings["max_parallel"] is not None:
        chosen.append(f"launcher.max_parallel={settings['max_parallel']}")
    folders = settings["config_dir"] or []
    folders = [folders] if isinstance(folders, str) else [str(folder) for folder in folders]
    return {"overrides": [*chosen, *own], "config_dirs": folders}


def ask(wanted: Mapping[str, Any], here: Path) -> Mapping[str, Any] | None:
    """How the job ended; None when it is detached. What Fairlead has to say meanwhile goes to standard error.

    Raises CompactHydraException with what Fairlead refuses, or cannot do.
    """
    argv = [sys.executable, *_isolation(), "-m", "launchers.hydra_app.application"]
    with subprocess.Popen(
        argv, cwd=here, env=_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as fairlead:
        assert fairlead.stdin and fairlead.stdout
        with fairlead.stdin as request:
            json.dump(wanted, request)
        queued = _answer(fairlead.stdout.readline())
        _tell(queued, bool(wanted["detach"]))
        return None if wanted["detach"] else _answer(fairlead.stdout.readline())


def _answer(line: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads(line or '{"error": "Fairlead broke off: see above"}')
    if "error" in found:
        raise CompactHydraException(found["error"])
    return found


def _tell(queued: Mapping[str, Any], detached: bool) -> None:
    job, count = queued["job"], queued["members"]
    print(f"{job}   {count} member(s)   {queued['run_dir']}   outputs: {queued['sweep_dir']}", flush=True)
    if detached:
        print(f"queued, and nothing has ended yet: fairlead status {job}   fairlead wait {job}", flush=True)


def _root() -> Path:
    """Folder that Fairlead's packages stand in: beside this one when installed, above it in a checkout."""
    here = Path(__file__).parents[2]
    return here.parents[1] if (here.parent / "cli.py").exists() else here


def _is_checkout() -> bool:
    return _root() != Path(__file__).parents[2]


def _isolation() -> list[str]:
    """Neither the folder we stand in nor PYTHONPATH may hide Fairlead's packages."""
    return ["-P"] if _is_checkout() else ["-P", "-E"]


def _environment() -> dict[str, str]:
    if not _is_checkout():
        return dict(os.environ)
    return {**os.environ, "PYTHONPATH": ":".join(filter(None, (str(_root()), os.environ.get("PYTHONPATH"))))}
