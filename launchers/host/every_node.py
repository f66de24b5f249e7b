"""What is done once on each node of an attempt, whatever runs there: which nodes these are, and cleaning them.

Pure but for `remove_folders`. How ranks are started there is ranks.py's and srun.py's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from launchers.command import output_of
from launchers.errors import CommandError
from launchers.plan import Plan
from launchers.queue.in_pool import Place
from launchers.queue.slurm import client_environment
from launchers.removal import REMOVE

REMOVE_S = 60.0


def is_on_one_host(plan: Plan) -> bool:
    """Whether all ranks are sure to run on the host of their supervisor."""
    return plan.launcher == "local" or (plan.launcher == "slurm" and sum(pool.nodes for pool in plan.pools) == 1)


def on_every_node(plan: Plan) -> Iterator[tuple[int | None, list[str]]]:
    """srun's options for a task on each node of an attempt; of each component of a heterogeneous job by itself."""
    for group in dict.fromkeys(pool.place.group for pool in plan.pools):
        nodes = sum(pool.nodes for pool in plan.pools if pool.place.group == group)
        which = [] if group is None else [f"--het-group={group}"]
        each = [f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", "--mpi=none", "--input=none"]
        yield group, [*which, *each]


def where(place: Place) -> tuple[str, ...]:
    """srun's options for these nodes of that held allocation."""
    return (f"--jobid={place.job}", f"--nodelist={','.join(place.nodes)}")


def remove_folders(folders: Sequence[str], plan: Plan) -> None:
    """Leave no node with what an attempt had on its own disk and in its memory. A node that is gone keeps it."""
    remove = ["sh", "-c", REMOVE, "sh", *folders]
    if is_on_one_host(plan):
        with contextlib.suppress(CommandError):
            output_of(remove, timeout_s=REMOVE_S)
        return
    held = (*where(Place.given()), "--overlap") if plan.launcher == "pool" else ()
    env = client_environment() if held else None
    for group, everywhere in on_every_node(plan):
        mem = [] if group is None else [f"--mem={plan.pools[group].mem}"]
        with contextlib.suppress(CommandError):
            output_of(["srun", *held, *everywhere, *mem, *remove], timeout_s=REMOVE_S, env=env)
