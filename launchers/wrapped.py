"""What stands between a rank and its log: the words in front of its program, which start host/piped.py.

Any program that is not our trainer gets it, as nobody knows what that prints and leaves behind; our trainer where it
has secrets. Pure, standard library only.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from conf import schema
from launchers.apptainer import container

INSIDE = "/run/fairlead-secrets"
"""Where a container sees the files of secrets: its /dev/shm is its own (measured, Apptainer 1.4 with --contain)."""
PROGRESS_S = 1.0
"""A progress bar leaves a line so often; every state of it where a pattern looks for reports in the output."""


@dataclass(frozen=True, kw_only=True)
class Wrapping:
    """What it does, for every rank alike."""

    log_bytes: int
    max_processes: int
    progress_s: float
    max_disk_bytes: int | None = None
    """On one disk; None is half of one that is nearly full, as for runs frozen before there was a limit."""
    secrets: Mapping[str, Literal["env", "file"]] = field(default_factory=dict)
    """How each reaches the program; the values come from the supervisor."""


class Place(NamedTuple):
    """Where the rank is."""

    python: str
    run_dir: str
    attempt_dir: str
    member: str
    """A name for the member that no other has."""
    scratch: str
    """Folder on the node's own disk that its containers write to."""


def of(spec: schema.Spec) -> Wrapping | None:
    """None for our own trainer without secrets."""
    if spec.job.kind == "trainer" and not spec.secrets:
        return None
    return Wrapping(
        log_bytes=int(spec.job.log_gb * 1e9),
        max_processes=spec.job.max_processes,
        max_disk_bytes=None if spec.job.max_disk_gb is None else int(spec.job.max_disk_gb * 1e9),
        progress_s=0.0 if spec.job.metrics.kind == "pattern" else PROGRESS_S,
        secrets={name: secret.through for name, secret in spec.secrets.items()},
    )


def words(wrapping: Wrapping, place: Place, box: container.ContainerPlan | None) -> tuple[str, ...]:
    """In front of the program, or of its container."""
    prefix = container.PREFIX if box else ""
    settings = {
        "attempt": place.attempt_dir,
        "log_bytes": wrapping.log_bytes,
        "max_processes": wrapping.max_processes,
        "max_disk_bytes": wrapping.max_disk_bytes,
        "scratch": place.scratch if prefix else None,
        "shm": shm_most(box, place) if box else None,
        "progress_s": wrapping.progress_s,
        "prefix": prefix,
        "secrets": dict(wrapping.secrets),
        "folder": private_folder(place),
        "seen_as": INSIDE if prefix else private_folder(place),
    }
    return (place.python, "-IS", _file(place, "piped.py"), json.dumps(settings))


def shm_most(box: container.ContainerPlan, place: Place) -> dict[str, str | int] | None:
    """What a member may have in a node's /dev/shm; None where it sees all of that, which is not its own."""
    if box.host_shm or (box.shm_gb is None and box.mem_gb is None):
        return None
    gb = f"container.shm_gb is {box.shm_gb:g}" if box.shm_gb is not None else f"machine.mem_gb is {box.mem_gb:g}"
    most = int(box.shm_gb * 1e9) if box.shm_gb is not None else int((box.mem_gb or 0) * (1 << 30))
    return {"folder": container.shm_of(place.scratch), "bytes": most, "said": gb}


def private_folder(place: Place) -> str:
    """In the node's memory."""
    return f"/dev/shm/fairlead-secrets-{place.member}"


def has_files(wrapping: Wrapping | None) -> bool:
    """Whether a secret reaches its program in a file."""
    return wrapping is not None and "file" in wrapping.secrets.values()


def settle_line(place: Place, first_rank: int) -> str:
    """Of rank-end.sh: Slurm must not end what is left of a step before the log is whole."""
    return shlex.join([place.python, "-IS", _file(place, "settling.py"), place.attempt_dir, str(first_rank)])


def _file(place: Place, name: str) -> str:
    return f"{place.run_dir}/code/fairlead/launchers/host/{name}"
