"""The rules of what a container gets of its node: shared memory, and copies on its disk.

As in rules.py: a rule's parameters name the sections it looks at, and check.py finds it.
"""

from __future__ import annotations

from collections.abc import Iterator

from conf.machine_schema import Container, Machine

Finding = tuple[str, str, str]


def shared_memory_fits_the_machine(container: Container, machine: Machine) -> Iterator[Finding]:
    if container.shm_gb is None:
        return
    if container.runtime == "none":
        what = (
            f"container.shm_gb is {container.shm_gb:g}, but there is no container: the program sees the node's /dev/shm"
        )
        yield what, "container.shm_gb", "leave it out, or choose a container"
    elif container.shm_gb >= machine.mem_gb:
        what = (
            f"container.shm_gb is {container.shm_gb:g}, but machine.mem_gb is {machine.mem_gb:g}, "
            f"and what lies in /dev/shm is part of that"
        )
        yield what, "container.shm_gb", "ask for more memory (machine.mem_gb), or for less of it in /dev/shm"
