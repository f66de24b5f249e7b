"""Which rank is this, and where does it read and write? The answer comes from the environment alone.

How ranks find each other and talk is in group.py.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trainer.failure import UserError

COUNTED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK", "MASTER_PORT")
NAMED = ("MASTER_ADDR", "FAIRLEAD_SPEC", "FAIRLEAD_MEMBER_DIR", "FAIRLEAD_ATTEMPT_DIR")


@dataclass(frozen=True)
class Rank:
    """One process among `world`, and one among `local_world` on its node."""

    number: int
    local: int
    world: int
    local_world: int
    node: int
    master: tuple[str, int]
    """Host and port at which rank 0 listens."""

    @property
    def first(self) -> bool:
        return self.number == 0

    @property
    def nodes(self) -> int:
        return -(-self.world // self.local_world)


@dataclass(frozen=True)
class Folders:
    """The files of this member and this attempt."""

    spec: Path
    member: Path
    attempt: Path

    @property
    def checkpoints(self) -> Path:
        return self.member / "checkpoints"

    @property
    def model(self) -> Path:
        return self.member / "model"


def from_environment(env: Mapping[str, str]) -> tuple[Rank, Folders]:
    """This process's rank and folders.

    Raises UserError naming every variable that is missing or not a number.
    """
    missing = [name for name in (*COUNTED, *NAMED) if not env.get(name)]
    if missing:
        raise UserError(
            f"{', '.join(missing)} not set",
            "the environment of this process",
            "start the program with `fairlead launch`, which sets them for each rank",
        )
    wrong = [f"{name}={env[name]}" for name in COUNTED if not env[name].isdigit()]
    if wrong:
        raise UserError(f"{', '.join(wrong)}: not a whole number", "the environment of this process", "")
    number = {name: int(env[name]) for name in COUNTED}
    rank = Rank(
        number=number["RANK"],
        local=number["LOCAL_RANK"],
        world=number["WORLD_SIZE"],
        local_world=number["LOCAL_WORLD_SIZE"],
        node=number["NODE_RANK"],
        master=(env["MASTER_ADDR"], number["MASTER_PORT"]),
    )
    folders = Folders(*(Path(env[name]) for name in NAMED[1:]))
    return rank, folders


def threads(env: Mapping[str, str], rank: Rank) -> int:
    """Threads to compute with: OMP_NUM_THREADS if somebody set it, else the rank's cores."""
    if env.get("OMP_NUM_THREADS", "").isdigit():
        return max(1, int(env["OMP_NUM_THREADS"]))
    return cores(rank)


def cores(rank: Rank) -> int:
    """This rank's share of the cores that its node gives to the run; at least one."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, found // rank.local_world)
