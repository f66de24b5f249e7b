"""How a program is put into its container: mounts, environment and the argument list of `apptainer exec`.

Isolated by default: clean environment, no home, only declared binds, a private /tmp on node-local disk.
Building and verifying images is image.py's. Pure, standard library only.
Source: Apptainer 1.4 user guide, `apptainer exec`, «Bind Paths and Mounts», «Environment and Metadata».
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from conf import machine_schema, schema

RANK_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK")
DEVICE_VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "GPU_DEVICE_ORDINAL",
)
"""Set by Slurm for the cards it assigned; handed on as they are and never re-mapped."""
PREFIX = "APPTAINERENV_"
"""Of variables that are set inside, and mean nothing outside."""
HOME = "/home/fairlead"
"""An empty folder on node-local disk: programs want a home for their caches, and yours is not theirs."""
MOUNTS = ("BIND", "BINDPATH", "MOUNT", "OVERLAY", "OVERLAYIMAGE")
"""What Apptainer mounts because a variable of this name says so, behind its prefix."""


@dataclass(frozen=True, kw_only=True)
class Mount:
    """A host path seen inside, at `target`."""

    source: str
    target: str
    writable: bool = False


@dataclass(frozen=True, kw_only=True)
class ContainerPlan:
    """What every member's container shares."""

    executable: str
    image: str | None
    """Path of the SIF; None when it is only built at launch (`fairlead plan` shows its recipe)."""
    digest: str | None
    flags: tuple[str, ...]
    mounts: tuple[Mount, ...]
    action: Literal["exec", "run"] = "exec"
    """`run` starts the image's own entry point, and hands it the program's words as its arguments."""
    writable: bool = False
    """All of the image, by a layer above it."""
    site_binds: tuple[str, ...] = ()
    """Host paths of the site's, seen read-only on the nodes that have them."""
    needs: tuple[str, ...] = ()
    """Host paths that the user named: a node may lack them."""
    host_shm: bool = False
    shm_gb: float | None = None
    """What a node's /dev/shm has to have free, and the most that a member may have there."""
    mem_gb: float | None = None
    """Of a node, which /dev/shm is part of."""
    escapes: tuple[str, ...] = ()
    """What the user opened in the isolation, in words."""
    architecture: str | None = None
    """Processors of the pool's nodes, where the user says."""
    devices: tuple[str, ...] = ()
    """By the Container Device Interface: what they are, each node says (cdi.py)."""
    cdi_dirs: tuple[str, ...] = ()
    """Where it says so."""


def plan_of(
    pool: schema.Pool, spec: schema.Spec, run_dir: Path, image: str | None, digest: str | None
) -> ContainerPlan:
    """The container of a pool: the run's code and data read-only, what the user declared as declared."""
    mounts = [Mount(source=str(run_dir / "code"), target=str(run_dir / "code"))]
    path = spec.data.options.get("path")
    if isinstance(path, str) and "://" not in path:
        whole = str(Path(path).expanduser().absolute())
        mounts.append(Mount(source=whole, target=whole))
    for bind in pool.container.binds:
        mounts.append(Mount(source=bind.source, target=bind.target or bind.source, writable=bind.writable))
    devices = tuple(dict.fromkeys(pool.accelerator.cdi))
    action: Literal["exec", "run"] = "run" if spec.job.kind == "command" and not spec.job.command else "exec"
    return ContainerPlan(
        executable=spec.site.apptainer,
        image=image or pool.container.image,
        digest=digest or pool.container.digest,
        flags=_device_flags(pool.accelerator),
        mounts=tuple(mounts),
        action=action,
        writable=action == "run" if pool.container.writable is None else pool.container.writable,
        site_binds=spec.site.binds,
        needs=tuple(mount.source for mount in mounts[1:]),
        host_shm=pool.container.host_shm,
        shm_gb=pool.container.shm_gb,
        mem_gb=pool.machine.mem_gb,
        escapes=_escapes(pool.container),
        architecture=pool.container.architecture,
        devices=devices,
        cdi_dirs=spec.site.cdi_dirs if devices else (),
    )


def _device_flags(accelerator: machine_schema.Accelerator) -> tuple[str, ...]:
    """What brings the cards in, unless CDI does (host/devices.py, as only a node knows how); which of them, Slurm has
    said in the environment and by its cgroup."""
    return (f"--{accelerator.container_flag}",) if accelerator.container_flag and not accelerator.cdi else ()


def _escapes(box: machine_schema.Container) -> tuple[str, ...]:
    binds = (
        f"{bind.source} of the host is {'written to' if bind.writable else 'read'} (container.binds)"
        for bind in box.binds
    )
    names = f"the host's {', '.join(box.host_env)} (container.host_env)"
    shm = "all of the node's /dev/shm is written to (container.host_shm)"
    return (*binds, *([names] if box.host_env else []), *([shm] if box.host_shm else []))


def shm_of(scratch: str) -> str:
    """The part of a node's /dev/shm that the ranks of an attempt share: named as its scratch folder."""
    return f"/dev/shm/{Path(scratch).name}"


def with_mounts(box: ContainerPlan, mounts: Sequence[Mount]) -> ContainerPlan:
    """The container with further host paths."""
    return replace(box, mounts=(*box.mounts, *mounts))


def argv_of(box: ContainerPlan, member_dir: Path, scratch: str, cwd: str) -> tuple[str, ...]:
    """`apptainer exec ... image` (or run), to which the program's own arguments are appended; it starts in `cwd`.

    /dev/shm is a folder of the host's own, because ranks of one node talk through it (NCCL), each from a container of
    its own, and Apptainer gives each container one that nobody else sees. It skips binds to /dev/shm («source and
    destination must be identical», then «already mounted»; measured, 1.4.5, as root and not); a scratch folder it does
    mount there, from where `shm_lines` leads.
    `--no-eval`: values in the environment are never evaluated by the image's start script (measured: without
    it `$(...)` in a value is executed inside).
    """
    return (
        box.executable,
        "--silent",
        box.action,
        "--contain",
        "--cleanenv",
        "--no-eval",
        *box.flags,
        "--home",
        f"{scratch}/home:{HOME}",
        "--workdir",
        scratch,
        "--scratch",
        "/dev/shm",
        *words_of(mounts_of(box, member_dir)),
        "--pwd",
        cwd,
        box.image or "<built at launch>",
    )


def with_options(argv: Sequence[str], options: Sequence[str]) -> list[str]:
    """What `argv_of` made and the program's words behind it, with further options of its action."""
    at = 1 + next(i for i, word in enumerate(argv) if i and word in ("exec", "run"))
    return [*argv[:at], *options, *argv[at:]]


def mounts_of(box: ContainerPlan, member_dir: Path) -> tuple[Mount, ...]:
    """Every host path that the container of a rank sees."""
    return (*box.mounts, Mount(source=str(member_dir), target=str(member_dir), writable=True))


def words_of(mounts: Sequence[Mount]) -> tuple[str, ...]:
    """Apptainer's options for these host paths."""
    return tuple(word for mount in mounts for word in ("--mount", _mount_text(mount)))


def environment_lines(names: Mapping[str, str], passed: Sequence[str] = ()) -> list[str]:
    """Shell lines that hand variables on through `--cleanenv`, unchanged by their prefix; those `passed` are as the
    host has them, so that a secret is written nowhere."""
    prefix = f"export {PREFIX}"
    place = [f'{prefix}{name}="${name}"' for name in RANK_VARIABLES]
    devices = [f'[ -z "${{{name}+set}}" ] || {prefix}{name}="${name}"' for name in (*DEVICE_VARIABLES, *passed)]
    return [*place, *devices, *(f"{prefix}{name}={shlex.quote(value)}" for name, value in names.items())]


def presence_lines(paths: Sequence[str]) -> list[str]:
    """Shell lines that name what a node lacks of host paths, where Apptainer would tell of a mount that failed."""
    gone = "fairlead: %s is not on %s, and the container has to see it (container.binds, or the path of the data)\\n"
    return [
        f"[ -e {path} ] || {{ printf '{gone}' {path} \"$(uname -n)\" >&2; exit 1; }}"
        for path in dict.fromkeys(map(shlex.quote, paths))
    ]


def shm_lines(box: ContainerPlan, scratch: str) -> list[str]:
    """Shell lines that make what the ranks of a node share as /dev/shm, and name a node whose memory for it is short.
    `--scratch /dev/shm` mounts WORKDIR/scratch/dev/shm (before Apptainer 1.1: WORKDIR/scratch/shm): here a link."""
    shm = shlex.quote("/dev/shm" if box.host_shm else shm_of(scratch))
    lines = [] if box.host_shm else [f"mkdir -p -m 700 {shm} && [ -O {shm} ] || exit 1"]
    below = shlex.quote(f"{scratch}/scratch")
    lines.append(f"mkdir -p {below}/dev || exit 1")
    links = f'[ -L "$link" ] || ln -s {shm} "$link" 2>/dev/null || [ -L "$link" ] || exit 1'
    lines.append(f"for link in {below}/dev/shm {below}/shm; do {links}; done")
    return lines if box.shm_gb is None else [*lines, _enough_line(shm, box.shm_gb)]


def site_lines(box: ContainerPlan) -> list[str]:
    """Shell lines that say which of the site's paths this node has; what else the environment would mount (apptainer
    help exec, --bind; --mount and --overlay likewise: measured, 1.4.5) was declared by nobody."""
    named = " ".join(map(shlex.quote, box.site_binds))
    names = [f"{prefix}_{name}" for prefix in ("APPTAINER", "SINGULARITY") for name in MOUNTS]
    lines = [f"unset {' '.join(names)}"]
    had = '[ ! -e "$path" ] || APPTAINER_BIND="${APPTAINER_BIND:+$APPTAINER_BIND,}$path:$path:ro"'
    return [*lines, f"for path in {named}; do {had}; done; export APPTAINER_BIND"] if named else lines


def layer_lines(box: ContainerPlan, scratch: str) -> list[str]:
    """Shell lines that make the layer that a rank writes into instead of its image. Two containers cannot share one
    (kernel documentation, «Overlay Filesystem», sharing and copying layers); Apptainer takes `--overlay` from the
    environment, too.

    What is in an image belongs to root: any other user may change it as the root of a namespace alone (measured, 1.4.5:
    «Permission denied», and «Value too large» where a file is removed). With no other users in it, whose files would
    stay on the node, and without the host's own command fakeroot, whose library many an image cannot load."""
    if not box.writable:
        return []
    layer = f'{shlex.quote(scratch + "/layer-")}"$RANK"'
    root = " ".join(f"APPTAINER_{name}=1" for name in ("FAKEROOT", "IGNORE_SUBUID", "IGNORE_FAKEROOT_COMMAND"))
    return [
        f"rm -rf {layer} && mkdir -m 700 {layer} && export APPTAINER_OVERLAY={layer} || exit 1",
        f'[ "$(id -u)" = 0 ] || export {root}',
    ]


def mountpoint_lines(mounts: Sequence[Mount], scratch: str) -> list[str]:
    """Shell lines that make what is mounted below /tmp and /var/tmp, which the ranks of a node share: of two containers
    that begin at once one fails over a folder that the other has just made («file exists»; measured, 1.4.5)."""
    lines = []
    for mount in mounts:
        for shared, place in (("/tmp/", "tmp"), ("/var/tmp/", "var_tmp")):
            if mount.target.startswith(shared):
                point = f"{scratch}/{place}/{mount.target.removeprefix(shared)}"
                source, made, above = (shlex.quote(path) for path in (mount.source, point, str(Path(point).parent)))
                lines.append(
                    f"mkdir -p {above} && if [ -d {source} ]; then mkdir -p {made}; else : >> {made}; fi || exit 1"
                )
    return lines


def _enough_line(shm: str, gb: float) -> str:
    """Shell line by which the first rank of a node sees whether its shared memory is as large as asked for; what other
    ranks of the run have taken of it by then counts as free."""
    least_mb = math.ceil(gb * 1000)
    own = f"$(du -sBMB {shm} 2>/dev/null | cut -f 1 | tr -dc 0-9)" if shm != "/dev/shm" else "0"
    free = f"free_mb=$(($(df --output=avail -BMB /dev/shm | tr -dc 0-9) + {own}))"
    said = "fairlead: /dev/shm of %s has %s MB free, and container.shm_gb asks for %s MB\\n"
    left = f'{{ printf \'{said}\' "$(uname -n)" "$free_mb" {least_mb} >&2; exit 1; }}'
    return f'[ "$LOCAL_RANK" != 0 ] || {{ {free}; [ "$free_mb" -ge {least_mb} ] || {left}; }}'


def _mount_text(mount: Mount) -> str:
    """`--mount`'s comma-separated form, quoted as CSV, so that commas and colons in paths arrive."""
    fields = ["type=bind", f"src={mount.source}", f"dst={mount.target}", *([] if mount.writable else ["ro"])]
    return ",".join('"' + f.replace('"', '""') + '"' if any(c in f for c in ',"\n') else f for f in fields)
