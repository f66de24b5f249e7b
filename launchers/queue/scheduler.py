"""What Slurm says: squeue, sacct, scontrol and sbatch --test-only, in formats that we ask for ourselves.

Nothing here parses Slurm's JSON or its default tables, which differ between 22.05 and 24.11. One call
answers for all members of a job. Interpreting the answers is status.py's, repair.py's and probe.py's.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from launchers.command import output_of
from launchers.errors import SiteError
from launchers.parts import MAX_ARRAY_SIZE
from launchers.queue.slurm import client_environment

SEPARATOR = "|"
"""In no job name of ours, no state and no reason."""
FURTHER = re.compile(r"\+[1-9][0-9]*$")
"""The number of a heterogeneous job's further components: the first, +0, stands for it."""
DO = "check that Slurm's controller answers: scontrol ping; where there is no Slurm: ask on a login node"
COMMANDS = ("sbatch", "srun", "squeue", "scontrol", "scancel", "sinfo")


@dataclass(frozen=True)
class Queued:
    """One line of squeue: a job, an array element, or the waiting rest of an array."""

    job: str
    """Array job id, or the job's own."""
    indices: tuple[int, ...]
    """Array elements it stands for; empty for a plain job."""
    name: str
    state: str
    reason: str
    throttle: int | None = None
    """How many elements of the array may run at once, where this is its waiting rest."""


def not_here() -> SiteError | None:
    """What to tell who asks for Slurm on a host that does not have it; None where its commands are."""
    missing = ", ".join(name for name in COMMANDS if shutil.which(name) is None)
    if not missing:
        return None
    do = "run this on a login node of the cluster, or use launcher=local"
    return SiteError(f"Slurm's commands are not on PATH: {missing}", f"this host, {socket.gethostname()}", do)


def must_be_here() -> None:
    """Raises SiteError on a host from which no job can be queued."""
    if shutil.which("sbatch") is None and (lacking := not_here()):
        raise lacking


def queue(names: Sequence[str] | None = None, timeout_s: float = 30) -> list[Queued]:
    """The user's jobs in the queue, all with one call. Raises CommandError when Slurm does not answer."""
    argv = [
        "squeue",
        "--noheader",
        "--user",
        str(os.getuid()),
        "--format",
        f"%F{SEPARATOR}%K{SEPARATOR}%j{SEPARATOR}%T{SEPARATOR}%r{SEPARATOR}%i",
    ]
    if names is not None:
        argv += ["--name", ",".join(names)]
    # without this squeue cuts the list of an array's elements after 64 characters
    env = {**client_environment(), "SLURM_BITSTR_LEN": "0"}
    text = output_of(argv, timeout_s=timeout_s, env=env, do=DO)
    rows = ((*line.split(SEPARATOR), "")[:6] for line in text.splitlines() if line.count(SEPARATOR) in (4, 5))
    return [
        Queued(job, tuple(indices_of(array)), name, state, reason, _throttle_of(array))
        for job, array, name, state, reason, own in rows
        if not FURTHER.search(own)
    ]


def _throttle_of(array: str) -> int | None:
    limit = array.partition("%")[2].strip("]")
    return int(limit) if limit.isdigit() else None


def accounted(names: Sequence[str], since: str, timeout_s: float = 30) -> list[tuple[str, str, str]]:
    """(job or job_index, name, state) of ended and running jobs, from accounting; empty where a site has none."""
    argv = ["sacct", "--allocations", "--noheader", "--parsable2", f"--delimiter={SEPARATOR}", "--starttime", since,
            "--name", ",".join(names), "--format", "JobID,JobName%128,State%32"]  # fmt: skip
    text = output_of(argv, timeout_s=timeout_s, env=client_environment())
    rows = (line.split(SEPARATOR) for line in text.splitlines() if line.count(SEPARATOR) == 2)
    return [
        (job.removesuffix("+0"), name, state.split()[0])
        for job, name, state in rows
        if not FURTHER.search(job) and state
    ]


def running_steps(jobs: Sequence[str], timeout_s: float = 20) -> list[tuple[str, str]]:
    """Id and name of every step of these jobs that runs. Raises CommandError."""
    argv = ["squeue", "--steps", "--noheader", "--jobs", ",".join(jobs), f"--format=%i{SEPARATOR}%j"]
    text = output_of(argv, timeout_s=timeout_s, env=client_environment(), do=DO)
    rows = (line.partition(SEPARATOR) for line in text.splitlines())
    return [(step.strip(), name.strip()) for step, _, name in rows]


def ends_at(job: str, env: Mapping[str, str] | None = None) -> float:
    """When Slurm will end a running job, in seconds since the epoch. Raises CommandError, or ValueError when it does
    not say."""
    argv = ["squeue", "--noheader", "--jobs", job, "--format", "%e"]
    said = output_of(argv, timeout_s=30, env=env or client_environment(), do=DO).strip()
    return time.mktime(time.strptime(said, "%Y-%m-%dT%H:%M:%S"))


def settings(timeout_s: float = 30) -> Mapping[str, str]:
    """`scontrol show config` as a mapping."""
    text = output_of(["scontrol", "show", "config"], timeout_s=timeout_s, env=client_environment(), do=DO)
    return {k.strip(): v.strip() for k, _, v in (line.partition("=") for line in text.splitlines()) if v}


def max_array_size() -> int:
    """One more than the highest index an array may have (slurm.conf, MaxArraySize; 1001 unless set)."""
    return int(settings().get("MaxArraySize", str(MAX_ARRAY_SIZE)))


def partition(name: str, timeout_s: float = 30) -> Mapping[str, str]:
    """One partition's settings."""
    argv = ["scontrol", "show", "partition", "--oneliner", name]
    text = output_of(argv, timeout_s=timeout_s, env=client_environment(), do="see the partitions with: sinfo")
    return dict(word.split("=", 1) for word in text.split() if "=" in word)


def default_partition(timeout_s: float = 30) -> str | None:
    """The partition that a job gets which names none."""
    text = output_of(["sinfo", "--noheader", "--format", "%P"], timeout_s=timeout_s, env=client_environment(), do=DO)
    return next((p.rstrip("*") for p in text.split() if p.endswith("*")), None)


def minutes_of(text: str) -> int | None:
    """Slurm's `days-hours:minutes:seconds` in minutes; None for no limit."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", text)
    if not found:
        return None
    days, hours, minutes, _ = (int(g or 0) for g in found.groups())
    return (days * 24 + hours) * 60 + minutes


def indices_of(text: str) -> Iterator[int]:
    """Array elements in Slurm's notation, whatever throttle stands behind: `3`, `0-7:2`, `1,4-6%2`, `[0-3]`."""
    for part in text.partition("%")[0].strip("[]").split(","):
        found = re.fullmatch(r"(\d+)(?:-(\d+)(?::(\d+))?)?", part)
        if found:
            first, last, step = int(found[1]), int(found[2] or found[1]), int(found[3] or 1)
            yield from range(first, last + 1, step)
