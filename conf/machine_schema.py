"""What a pool is made of: the machine, its disk and accelerator, and the container that runs there.

As schema.py's groups: standard library only, typed, with units and meaning; absent is None.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

from conf.bounds import (
    CdiDevice,
    Count,
    Digest,
    GresType,
    NotNegative,
    Positive,
    Precision,
    Price,
    Text,
    VariableName,
    Word,
    group,
)


@group
class Disk:
    """Node-local disk that a run needs."""

    kind: Literal["nvme", "ssd", "hdd", "any"] = "any"
    """Asked of Slurm as a feature of that name, beside machine.constraint: the site gives it to its nodes."""
    size_gb: Positive | None = None


@group
class Machine:
    """The nodes of one pool and what is asked of each."""

    partition: Word | None = None
    """Slurm partition; None takes the site's default."""
    nodes: Count = 1
    ranks_per_node: Count | None = None
    """Processes per node; None is one per accelerator, or one where there is none."""
    cpus_per_rank: Count = 1
    mem_gb: Positive
    """Memory per node, in GB as Slurm counts them. On this machine (launcher=local) we look every second, and end ranks
    that take more together, or of several pools the worker that does, which starts again (memory they share counts
    once; what only lies in files of /dev/shm is not seen, see container.shm_gb)."""
    max_cpus: Count
    """Cores one node has: the catalogue's number, checked against, never asked for."""
    max_accelerators: NotNegative = 0
    """Accelerators one node has: checked against, never asked for."""
    disk: Disk = Disk()
    time_limit_min: Count = 7 * 24 * 60
    """Of a job's allocation; a week where nothing is said, as on Vertex. Where a partition allows less, `launch` says
    so. Before it ends a program is told to save (job.notice_s), and one that has goes on from the queue; on this
    machine (launcher=local) and in a held allocation just so, its time counted from a member's first attempt."""
    constraint: Word | None = None
    """Slurm feature expression the nodes must have."""
    account: Word | None = None
    qos: Word | None = None
    exclusive: bool = False
    hourly_cost: Price | None = None
    """Price of one node for one hour, in the site's currency; for reports only."""


@group
class Accelerator:
    """A card, what it can do, and how Slurm and the container are told to give it."""

    kind: Literal["none", "cuda", "rocm", "tpu"]
    """tpu: for programs, in one pool of one replica."""
    slurm_type: GresType | None = None
    """Type in `--gres=gpu:<type>:<count>` (of a tpu: `tpu:...`); None asks for any."""
    count: NotNegative = 0
    """Cards per node."""
    memory_gb: Positive | None = None
    """Memory of one card."""
    precisions: tuple[Precision, ...] = ("fp32",)
    """Precisions the hardware computes natively."""
    precision: Precision = "fp32"
    """The precision a run gets unless it says otherwise."""
    container_flag: Literal["nv", "rocm"] | None = None
    """Apptainer's switch that brings the host's driver libraries in."""
    cdi: tuple[CdiDevice, ...] = ()
    """Devices by the Container Device Interface, in place of the switch, looked up on each node in site.cdi_dirs. In
    YAML cdi: [nvidia.com/gpu=all], in a shell 'accelerator.cdi=["nvidia.com/gpu=all"]' (Hydra wants = in quotes). Which
    of them a rank may use is what Slurm assigned, whatever stands here. What is left undone: apptainer/cdi.py."""
    device: Literal["cpu", "cuda"] = "cpu"
    """torch device type (ROCm's is called cuda too)."""
    backend: Literal["gloo", "nccl"] = "gloo"
    """torch.distributed backend (RCCL is called nccl too)."""
    peak_tflops: Mapping[str, Positive] = dataclasses.field(default_factory=dict)
    """Dense peak per precision in 10^12 operations a second, for model FLOPs utilisation."""


@group
class Bind:
    """A host path that a container sees."""

    source: Word
    target: Word | None = None
    """Path inside; None is the same path."""
    writable: bool = False


@group
class Container:
    """The image a program runs in."""

    runtime: Literal["apptainer", "none"]
    """`none` runs the program with the host's own Python."""
    image: Word | None = None
    """Path of a SIF, or a reference to an image in a registry: docker://host/name:tag, oras://host/name@sha256:...,
    pulled at launch where the store does not have it. None with a recipe: the image built from it."""
    digest: Digest | None = None
    """sha256 of the SIF, or of a reference's manifest: then its tag may move, and an image that the store has needs no
    registry. What ran is filled in at launch, and verified on the first node of each attempt; on every node where each
    copies it to its own disk (site.image_local)."""
    workdir: Word | None = None
    """Folder in which the image's own entry point starts (job=command, job.command=[]); None is what the image says,
    where it was pulled from a registry, else the member's copy of the project."""
    source: Text | None = None
    """Filled in at launch: the reference by digest that the image was pulled by."""
    architecture: Literal["amd64", "arm64", "ppc64le"] | None = None
    """Processors of the nodes; None is those of the host that launches."""
    recipe: str | None = None
    """Stem of containers/<recipe>.def and .lock: built when it is not there yet."""
    dockerfile: Word | None = None
    """Path of a Dockerfile, converted and built when it is not there yet, in place of a recipe (extra `dockerfile`). It
    may use FROM ARG ENV RUN COPY WORKDIR LABEL ENTRYPOINT CMD, in one stage; its folder holds what it copies."""
    accelerators: tuple[Literal["none", "cuda", "rocm", "tpu"], ...] | None = None
    """Accelerator kinds the image's libraries can drive; `none` is a node without one. None is what the image's own
    environment says (CUDA_VERSION, NVIDIA_VISIBLE_DEVICES, ROCM_PATH), asked at launch; where that is nothing, any."""
    python: Word = "python3"
    """Interpreter inside the image."""
    writable: bool | None = None
    """Whether the program may write anywhere in its image: each rank into a layer of its own on the node's disk, which
    is removed after the attempt (Apptainer's --overlay: through FUSE, slowly, where the node's kernel lets users mount
    none), and as root of its container, which is you outside, and can give no file to others. None is: where the
    image's own entry point runs, in the image's own folder. Every program may write where it starts in the project, in
    its home, in /tmp and in its folders of the run."""
    binds: tuple[Bind, ...] = ()
    env: Mapping[VariableName, Text] = dataclasses.field(default_factory=dict)
    """Environment the program gets besides the contract's own."""
    host_env: tuple[VariableName, ...] = ()
    """Names of variables that the program gets as the node has them (in a held allocation as `pool up` had them); of
    the others it sees none."""
    host_shm: bool = False
    """See the node's whole /dev/shm. Otherwise a part of it that the ranks of this run on a node share, and nobody else
    sees; it is removed after the attempt."""
    shm_gb: Positive | None = None
    """How large /dev/shm is for a program on each node, for workers that hand over tensors and ranks that share memory:
    an attempt on a node that has less free ends at once and says so, as does a program with more in its files there
    (our trainer only where it has secrets). It is memory, and counts against machine.mem_gb. None takes what there is,
    half of the node's memory where nobody set another size, and at most machine.mem_gb."""
