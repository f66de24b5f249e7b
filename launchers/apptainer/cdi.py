"""Devices by the Container Device Interface, in words of Apptainer's, which itself knows none
(https://github.com/apptainer/apptainer/issues/2949): what `--device` of other runtimes does.

Each node has specifications of its own (cdi_specs.py), so this is asked on the node. Device nodes and files are
mounted, variables are set. Libraries are seen once more in /.singularity.d/libs, under each name by which the host has
them: that is where --nv has its own, and on LD_LIBRARY_PATH inside. Thus what the hooks update-ldcache and
create-symlinks are there for is done without them: Apptainer runs no hooks.

Not done, as Apptainer has nothing like it: other hooks, file systems that are not of the host (a tmpfs is an error),
owner, mode and permissions of device nodes (they stay the host's), additionalGids, intelRdt, netDevices.

Which cards a rank may use stays what Slurm assigned: its cgroup refuses all others, also where their nodes are seen
(cgroup.conf(5), ConstrainDevices), and CUDA_VISIBLE_DEVICES and its like are handed on as they are.
"""

from __future__ import annotations

import glob
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from launchers.apptainer.cdi_specs import Device, Edits, Found, Mounted, Node, found_in
from launchers.apptainer.container import Mount
from launchers.errors import SiteError

LIBS = "/.singularity.d/libs"
"""On LD_LIBRARY_PATH in each container (measured, 1.4.5), behind what its image says."""
LIBRARY = re.compile(r"(lib[^/]+\.so)(\.[^/]*)?")
BINDS = ("", "none", "bind", "rbind")
"""Types of a mount from the host (SPEC.md: with the option bind the type is a dummy, often none)."""
SHOWN = 20
"""Devices that an error lists; a node has one for each card, part of a card, and serial number."""


@dataclass(frozen=True)
class Shown:
    """What a container gets for the devices asked for."""

    mounts: tuple[Mount, ...]
    env: Mapping[str, str]


def shown(asked: Sequence[str], folders: Sequence[str]) -> Shown:
    """Raises SiteError where this host has no such device, or not what its specification says."""
    found = found_in(folders)
    devices = [_device(name, found, folders) for name in dict.fromkeys(asked)]
    mounts: dict[str, Mount] = {}
    env: dict[str, str] = {}
    for file, edits in _edits(devices):
        for mount in _mounts(file, edits):
            mounts.setdefault(mount.target, mount)
        env |= edits.env
    return Shown(tuple(mounts.values()), env)


def _device(name: str, found: Found, folders: Sequence[str]) -> Device:
    having = found.devices.get(name, ())
    if len(having) == 1:
        return having[0]
    here, where = socket.gethostname(), f"accelerator.cdi; looked in {', '.join(folders)} (site.cdi_dirs)"
    if having:
        files = " and ".join(str(device.file) for device in having)
        do = f"remove one of them, or have the right one in {folders[-1]}, which comes before the others"
        raise SiteError(f"{here} has the device {name} twice, in {files}", where, do)
    broken = "".join(f"; {file} cannot be read: {why}" for file, why in found.broken.items())
    raise SiteError(f"{here} has no device {name} by CDI{_has(found)}{broken}", where, _do(name, found))


def _has(found: Found) -> str:
    names = sorted(found.devices)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"; it has {', '.join(names[:SHOWN])}{more}" if names else "; it has no devices by CDI"


def _do(name: str, found: Found) -> str:
    if found.broken:
        return "have these files repaired, or name devices that the nodes have"
    if found.devices:
        return "name devices that the nodes have"
    made = {
        "nvidia.com/gpu": "nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml",
        "amd.com/gpu": "amd-ctk cdi generate --output=/etc/cdi/amd.json",
    }.get(name.partition("=")[0], "a tool of the devices' vendor")
    do = f"have an administrator make the specification on each node (by {made}), name its folder in site.cdi_dirs"
    return f"{do}, or leave accelerator.cdi out, so that accelerator.container_flag brings the cards (nv, rocm)"


def _edits(devices: Sequence[Device]) -> Iterator[tuple[Path, Edits]]:
    for device in devices:
        yield device.file, device.own
    yield from {device.file: device.common for device in devices}.items()


def _mounts(file: Path, edits: Edits) -> Iterator[Mount]:
    for node in edits.nodes:
        yield _node(file, node)
    for mounted in edits.mounts:
        if mounted.kind not in BINDS and not {"bind", "rbind"} & set(mounted.options):
            what = f"{file} has a mount of type {mounted.kind!r} at {mounted.target}, and a bind alone can be made"
            raise SiteError(what, "accelerator.cdi", "name devices that do without it")
        _must_be_there(file, mounted.source)
        yield Mount(source=mounted.source, target=mounted.target, writable="ro" not in mounted.options)
        yield from _as_library(mounted)


def _node(file: Path, node: Node) -> Mount:
    """Apptainer shows devices below /dev alone, and there each as itself («source and destination must be identical»;
    elsewhere nobody can open them: measured, 1.4.5). What a driver has in a folder of its own may be there, too."""
    _must_be_there(file, node.source)
    source, target = Path(node.source), Path(node.target)
    if not target.is_relative_to("/dev") or (source != target and not _is_one_device(source, target)):
        what = f"{file} has the device node {source} as {target}, and Apptainer shows those of /dev, each as itself"
        raise SiteError(what, "accelerator.cdi", "name devices whose nodes are in /dev, or have the file written anew")
    return Mount(source=node.target, target=node.target, writable=True)


def _is_one_device(one: Path, other: Path) -> bool:
    try:
        return one.stat().st_rdev == other.stat().st_rdev != 0
    except OSError:
        return False


def _as_library(mounted: Mounted) -> Iterator[Mount]:
    """Names that ldconfig or a package gave it on the host: a program asks for libcuda.so.1, and what is mounted is
    called libcuda.so.575.51.03."""
    source = Path(mounted.source)
    if (named := LIBRARY.fullmatch(source.name)) is None or not source.is_file():
        return
    for path in sorted(source.parent.glob(f"{glob.escape(named[1])}*")):
        if LIBRARY.fullmatch(path.name) and path.exists() and path.samefile(source):
            yield Mount(source=mounted.source, target=f"{LIBS}/{path.name}")


def _must_be_there(file: Path, path: str) -> None:
    """As the specification asks: Apptainer would pass over a device that is gone, in silence."""
    try:
        Path(path).stat()
    except OSError as e:
        what = f"{file} names {path}, which you do not find on {socket.gethostname()}: {e.strerror}"
        do = "have the file written anew, as after a change of the driver"
        raise SiteError(what, "accelerator.cdi", do) from None
