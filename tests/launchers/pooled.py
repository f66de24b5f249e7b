"""Held allocations for tests that ask what fits into one: a folder as `fairlead pool up` leaves it, and no Slurm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from launchers.run_folder.pool_folder import PoolFolder, remember
from launchers.run_folder.record import make_private, write_json

SMALL = {"name": "small", "nodes": 1, "cpus": 1, "mem_mb": 1000, "gpus": 0, "gpu_type": None, "time_limit_min": 10}


def make_pool(path: Path, **asked: Any) -> PoolFolder:
    """A pool that this user knows, and that has not begun: one small node, but for what is asked."""
    pool = PoolFolder(make_private(path))
    write_json(path / "pool.json", {**SMALL, **asked})
    remember(pool)
    return pool
