"""What a run may say: one frozen dataclass per configuration group, with types, units and meaning. What a job, a
machine and its container, the trainer's loop and a sweep may say stands in job_, machine_, train_ and sweep_schema.py.

Standard library only, because the supervisor on a node and the trainer in a container read it too.
No rule that needs two groups at once stands here (that is launchers/config/check.py), and no default that a
site or a person would want to see (those are YAML files in the group's folder).
Absent is None. A name carries its unit: `_gb` is 10^9 bytes, `_min` minutes, `_s` seconds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from conf.bounds import (
    Alias,
    Count,
    ModelName,
    NodePath,
    NotNegative,
    OptionName,
    Positive,
    Precision,
    RunName,
    Text,
    VariableName,
    Word,
    group,
)
from conf.job_schema import Job
from conf.machine_schema import Accelerator, Container, Machine
from conf.sweep_schema import Grid, Search
from conf.train_schema import Train


@group
class Component:
    """A part chosen by name: a data source, model, optimizer or engine.

    In YAML it is flat (`kind: cnn`, `width: 32`); what stands beside `kind` becomes `options` and is
    checked against the `Options` dataclass in `trainer/<folder>/<kind>.py`. Instead of `kind`, `_target_`
    names a class on the user's own path, which is called with the options.
    """

    kind: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@group
class Staging:
    """How data get onto the disk of a node before anything is read. What lies at an address always does, whole
    (all that `data.glob` names: none is streamed), once per node and content: ranks, later members and attempts find
    it there."""

    copy: bool = False
    """Copy the files of a `data.path` that is no address too: for disks that many nodes share."""
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What fsspec's file system for the address is told, such as {endpoint_url: ...} for s3. Credentials come from the
    environment where you launch: AWS_ACCESS_KEY_ID and so on."""
    sums: Text | None = None
    """Name, below `data.path`, of a list as sha256sum writes it. It says which files there are, also to HTTP servers
    that list none, and each is compared with it."""


@group
class Objective:
    """The metric by which members are compared and a model is chosen."""

    metric: str
    goal: Literal["maximize", "minimize"]


@group
class Tracking:
    """Where a run is recorded."""

    kind: Literal["mlflow", "none"]
    uri: str | None = None
    """MLflow tracking URI; None is an SQLite file beside the runs, opened by one process at a time."""
    experiment: str | None = None
    """None is the run's name."""
    register: ModelName | None = None
    """Name in the model registry; None registers nothing."""
    alias: Alias = "newest"
    """Alias moved to the version a launch registers. (`latest` is reserved by MLflow.)"""
    model_gb: Positive = 10.0
    """What a command leaves in $AIP_MODEL_DIR is uploaded when it has succeeded, unless it is larger."""
    tensorboard: bool = False
    """Write the metrics for TensorBoard, too, into RUN/tensorboard (needs the extra `tensorboard` on the host)."""


@group
class Launcher:
    """How a run gets onto machines."""

    kind: Literal["local", "slurm", "pool"]
    pool: Word | None = None
    """Name of a held allocation (`fairlead pool up NAME`) in which the members run without queueing, for kind pool."""
    max_parallel: Count | None = None
    """Members that run at once; None is the launcher's own limit (local: 1, Slurm: none, pool: what fits)."""
    max_wait_min: Positive | None = None
    """A member that has not begun so long after it was queued is EXPIRED (Slurm's --deadline, which a job that is held
    may outlive). Its wait for a place under `max_parallel` counts. One that has begun and went back into the queue may
    wait as long as it takes, whoever put it there."""
    members_per_allocation: Count = 1
    """Members that share one allocation, one after the other: for many that are shorter than the queue's wait."""
    sbatch: Mapping[OptionName, Word | int | float | bool] = dataclasses.field(default_factory=dict)
    """Further sbatch options by their long names, for what no other key covers."""


@group
class ImageBuild:
    """What images are built from, at this site."""

    bootstrap: str = "docker"
    base: str = "python:3.11-slim-bookworm"
    options: tuple[str, ...] = ()
    """Further `apptainer build` options, such as --fakeroot."""


@group
class Secret:
    """Where a value comes from that only the program may know, by one of `env`, `file` and `command`. It is asked for
    when an attempt starts, stands in no file of the run, and is masked in what the program prints, reports, and logs by
    MLflow's client into our run: parameters, tags, names, artifacts that are text. What it sends to a server of its own
    choice (MLFLOW_TRACKING_URI in container.env) or writes into other files of its own is its own to keep clean."""

    env: VariableName | None = None
    """Variable of your environment when you launch or retry. Its value waits for the job in a file of your own, outside
    of the run (launchers/run_folder/kept.py says where and why), until the job has succeeded."""
    file: Word | None = None
    """File whose content it is, but for a line break at its end; read on the node at each attempt."""
    command: tuple[Text, ...] | None = None
    """Command whose output it is, likewise; run on the node at each attempt, by no shell."""
    through: Literal["env", "file"] = "env"
    """How the program gets it: in the variable of its name, or in a private file in the node's memory, named by
    <NAME>_FILE and gone with the attempt."""


@group
class Site:
    """Everything that differs between clusters."""

    name: str
    runs_dir: Word = "runs"
    """Folder of the run folders, on storage every node sees; relative to where the command is given."""
    images_dir: Word = "~/.cache/fairlead/images"
    """Folder of built images, likewise; a home that all nodes see is good for it."""
    python: Word | None = None
    """Host interpreter of the batch step; None is the one that launched."""
    apptainer: Word = "apptainer"
    """Name or path of apptainer or singularity on the nodes."""
    setup: tuple[str, ...] = ()
    """Shell lines at the top of the batch script, such as `module load`. Written by the site, run as they are."""
    env: Mapping[VariableName, Text] = dataclasses.field(default_factory=dict)
    """Environment of every rank: fabric and NCCL or gloo settings."""
    binds: tuple[NodePath, ...] = ()
    """Paths that every container sees, read-only and at the same place, on nodes that have them: libraries of the
    fabric and its devices (/dev/infiniband), without which NCCL goes by TCP."""
    cdi_dirs: tuple[NodePath, ...] = ("/etc/cdi", "/var/run/cdi")
    """Folders in which nodes have what they say of devices (accelerator.cdi); a later one's come before an earlier
    one's of the same name."""
    default_partition: Word | None = None
    default_account: Word | None = None
    scratch_dir: Word = "/tmp"
    """Node-local disk. Staged data stay on it for later jobs, so name one that is not private to a job, where /tmp is
    (Slurm's job_container/tmpfs)."""
    stage_gb: Positive | None = None
    """How much of it the staged data of a user may take; None is half. What was not used longest leaves first."""
    image_local: bool = False
    """Copy the image, and what was installed for the job, to scratch_dir once per node, verified by digest: where
    many ranks read slowly from the shared storage. A node that has no room runs the shared one, and says so."""
    local_gb: Positive | None = None
    """How much of the disk these copies of a user may take; what was used longest ago leaves first. None is half."""
    node_mtbf_h: Positive = 1000.0
    """Mean time between failures of a node in hours, for train.checkpoint_every_steps=auto: until a run has seen worse.
    (Jobs of 1024 cards broke every 8 hours at one large site: 128 nodes of 1000 hours each.)"""
    currency: str = "EUR"
    registry_auth: Word | None = None
    """Path of a file with credentials for registries, as `apptainer registry login` and docker write it; None is
    Apptainer's own (~/.apptainer/docker-config.json), or docker's. It is read where images are pulled, never copied."""
    registry_http: tuple[Word, ...] = ()
    """Registries (host:port) that speak plain HTTP."""
    image_keys: tuple[Word, ...] = ()
    """Paths of public keys (PEM). Where any are given, an image that was not built here must be signed by one."""
    image_build: ImageBuild = ImageBuild()


@group
class Pool:
    """Replicas that share a machine type. Pool 0 is the chief's; a plain job has this one alone."""

    machine: Machine
    accelerator: Accelerator
    container: Container
    number: NotNegative = 0
    """Its place in Vertex's order: 0 chief, 1 workers, 2 reducers or parameter servers, 3 evaluators."""
    job: Job | None = None
    """Its own program; None is the job's. How the job's life is guarded is said by the job alone."""


@group
class Spec:
    """A whole run, frozen: the document that everything after the check reads."""

    name: RunName
    """What the job's id begins with, and its folder and its run in MLflow."""
    seed: NotNegative
    """Of every random number: weights, order, splits, augmentation."""
    job: Job
    pools: tuple[Pool, ...]
    data: Component
    engine: Component
    model: Component
    optimizer: Component
    train: Train
    objective: Objective
    tracking: Tracking
    launcher: Launcher
    site: Site
    staging: Staging = Staging()
    sweep: Grid | Search | None = None
    """Of a job with several members: where their points come from."""
    params: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Parameters of a program, by names of its own; may be nested. Sweeps set them as `params.lr`."""
    secrets: Mapping[VariableName, Secret] = dataclasses.field(default_factory=dict)


COMPONENTS = ("data", "engine", "model", "optimizer")
"""Sections that are a `kind` with options of its own."""

POOL_GROUPS = ("machine", "accelerator", "container")
"""Sections that together make pool 0."""


def ranks_per_node(pool: Pool) -> int:
    """Processes on each node of a pool."""
    return pool.machine.ranks_per_node or max(1, pool.accelerator.count)


def chiefs_job(spec: Spec) -> Job:
    """The program of the chief's pool, whose life is the whole job's."""
    return spec.pools[0].job or spec.job


def precision(spec: Spec) -> Precision:
    """The precision a run computes in."""
    return spec.train.precision or spec.pools[0].accelerator.precision
