"""What one rank runs, by the kind of the job's program: its words, where its Python looks first, where it starts.

Pure, standard library only. How a source or requirements were installed is layer.py's; how a container is put around
it container.py's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from conf import job_schema
from launchers.run_folder.record import PROJECT

OURS = "pkg://"
"""In front of a script or a source that comes with Fairlead, as Hydra names a folder inside a package."""
SCRIPTS = "bin"
"""Folder of what was installed where its console scripts are (pip install --target)."""


@dataclass(frozen=True, kw_only=True)
class Installed:
    """A source, requirements or both that were installed for a job."""

    folder: str
    """Where its modules are, seen by every node; its console scripts are below."""
    digest: str
    """Of what is in it, as layer.py computes it."""
    start: tuple[str, ...]
    """What Python is told to start: `-m` and a module, or the path of a console script; empty where no source is
    installed."""
    packages: tuple[str, ...] = ()
    """name==version of it and of all that was installed with it."""


LATER = Installed(folder="<installed at launch>", digest="", start=())


@dataclass(frozen=True, kw_only=True)
class Program:
    """What one rank runs, without what differs between members."""

    words: tuple[str, ...]
    """Empty is the image's own entry point, with `arguments` alone."""
    arguments: tuple[str, ...] = ()
    path: tuple[str, ...]
    """For PYTHONPATH. Our packages are on it for our trainer alone: a project may have a `trainer` or a `conf` of its
    own."""
    cwd: str | None
    """Folder that it starts in, below the member's; None is the member's own."""
    installed: tuple[str, ...] = ()
    """Of `path` what a container has to be shown: the folder of what was installed."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a job's code will be."""

    code: Path
    """The run's snapshot."""
    below: str = ""
    """Where in the snapshot of the project the command was given."""
    installed: Installed | None = None


def program_of(job: job_schema.Job, python: str, place: Place) -> Program:
    """The program of a job whose Python is `python`."""
    if job.kind == "trainer":
        ours = (str(place.code / "fairlead"), str(place.code / PROJECT))
        return Program(words=(python, "-m", "trainer"), path=ours, cwd=None)
    layer = place.installed or LATER
    if job.kind == "module" and job.source is not None:
        start = layer.start or ("-m", job.module or "<found at launch>")
        own = (layer.folder,)
        return Program(words=(python, *start), arguments=job.arguments, path=own, cwd=None, installed=own)
    here = place.code / PROJECT / place.below
    words = {
        "command": job.command,
        "script": (python, script_in(job.script or "", place.code)),
        "module": (python, "-m", str(job.module)),
    }[job.kind]
    beside = () if job.requirements is None else (layer.folder,)
    path = (*dict.fromkeys((str(here), str(place.code / PROJECT))), *beside)
    cwd = str(Path(PROJECT, place.below))
    return Program(words=words, arguments=job.arguments, path=path, cwd=cwd, installed=beside)


def script_in(script: str, code: Path) -> str:
    """A script as the program's own folder knows it; of one that comes with Fairlead the whole path."""
    return str(code / "fairlead" / script.removeprefix(OURS)) if script.startswith(OURS) else script
