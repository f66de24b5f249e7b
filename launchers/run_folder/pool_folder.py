"""A held allocation's folder: what lies where, and how it is found again by its name.

    <runs_dir>/pools/<name>-<time>-<hex>/
      pool.json      what was asked for                               written once, before it is submitted
      code/          Fairlead, as it was then                         "
      held.json      its nodes and what each has, until when          by the holder, when it begins
      in/            <job>.json   handed in by `launch`               renamed by the holder into
      taken/         <job>.json   is being run                        and removed when its queue has ended
      failed/        <job>.json   its queue ended badly, again and again
      places.json    who holds how much of which node                 under places.lock
      down.json      the user asked for the end                       by `pool down`
      logs/

Standard library only: the holder reads it on a node. Whether the allocation lives is Slurm's to say (queue/pool.py).
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launchers.run_folder.record import append_line, make_private, read_json, read_lines


@dataclass(frozen=True)
class PoolFolder:
    """The folder of one allocation. A name may have had others before."""

    path: Path

    @property
    def id(self) -> str:
        """The Slurm job's name, by which it is found in the queue."""
        return self.path.name

    @property
    def asked(self) -> dict[str, Any]:
        """name, nodes, time_limit_min, and for each node cpus, mem_mb, gpus, gpu_type, constraint and disk."""
        found: dict[str, Any] = read_json(self.path / "pool.json")
        return found

    @property
    def held(self) -> dict[str, Any] | None:
        """slurm_job_id, host, nodes by name, started and ends_at; None before it has begun."""
        found: dict[str, Any] | None = read_json(self.path / "held.json")
        return found

    @property
    def inbox(self) -> Path:
        return self.path / "in"

    @property
    def taken(self) -> Path:
        return self.path / "taken"

    @property
    def failed(self) -> Path:
        return self.path / "failed"

    @property
    def down(self) -> Path:
        return self.path / "down.json"

    def has(self, job: str) -> bool:
        """Whether a job was handed in and has not ended. In this order: the holder renames from one to the other."""
        return any((folder / f"{job}.json").exists() for folder in (self.inbox, self.taken))

    def jobs(self) -> list[str]:
        """Every job that was handed in and has not ended."""
        return sorted({path.stem for folder in (self.inbox, self.taken) for path in folder.glob("[!.]*.json")})


def remember(pool: PoolFolder) -> None:
    """Add a pool to those of this user."""
    make_private(_file().parent)
    append_line(_file(), {"pool": pool.asked["name"], "path": str(pool.path), "t": time.time()})


def known_pools() -> list[PoolFolder]:
    """Each name's newest pool, oldest first; without those whose folder is gone."""
    newest = {row["pool"]: Path(row["path"]) for row in read_lines(_file())}
    return [PoolFolder(path) for path in newest.values() if (path / "pool.json").exists()]


def find_pool(name: str) -> PoolFolder | None:
    """The newest pool of a name, whether it is up or not."""
    return next((pool for pool in known_pools() if pool.asked["name"] == name), None)


def _file() -> Path:
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state) / "fairlead" / "pools.jsonl"
