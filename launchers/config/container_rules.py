"""The rules of what a container gets of its node: shared memory, and devices.

As in rules.py: a rule's parameters name the sections it looks at, and check.py finds it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from conf.document import to_document
from conf.machine_schema import Accelerator, Container, Machine
from conf.schema import Site

Finding = tuple[str, str, str]
INSIDE = ("image", "recipe", "dockerfile", "digest", "workdir", "writable", "host_env", "host_shm")
"""Keys that mean nothing without a container. (What is bound a program on the host sees anyhow.)"""


def what_is_said_of_a_container_has_one(container: Container) -> Iterator[Finding]:
    """A program that was meant for an image would run on the host, which may be quite another."""
    if container.runtime != "none":
        return
    default = {name: field.default for name, field in Container.__dataclass_fields__.items()}
    for name in INSIDE:
        value = getattr(container, name)
        if value != default[name]:
            said = repr(value) if isinstance(value, str) else json.dumps(to_document(value))
            what = f"container.{name} is {said}, but container.runtime is 'none': the program runs on the host"
            do = "add container.runtime=apptainer, or choose a container (container=pytorch-cpu), or leave it out"
            yield what, f"container.{name}", do


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


def devices_are_shown_to_a_container(container: Container, accelerator: Accelerator, site: Site) -> Iterator[Finding]:
    if not accelerator.cdi:
        return
    named = ", ".join(accelerator.cdi)
    if container.runtime == "none":
        what = f"accelerator.cdi is {named}, but there is no container: the program sees the node's devices"
        yield what, "accelerator.cdi", "leave it out, or choose a container"
    elif not site.cdi_dirs:
        what = f"accelerator.cdi is {named}, but site.cdi_dirs is empty: nodes have nowhere to say what that is"
        yield what, "site.cdi_dirs", "name the folders of the nodes' specifications: [/etc/cdi, /var/run/cdi]"
