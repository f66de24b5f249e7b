"""The rules that need more than one value: each function's parameters name the sections it looks at.

A rule yields (what is wrong with both values, the key to look up, what to do). It may look at files;
it changes nothing and asks no cluster. A new rule is a new function here: check.py finds it.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from conf import reference
from conf.job_schema import Job
from conf.machine_schema import Accelerator, Container, Machine
from conf.schema import Component, Launcher, Pool, Site, Tracking, ranks_per_node
from conf.train_schema import Train
from launchers.folders import RECIPES, folder_of

Finding = tuple[str, str, str]
OURS = {
    "array", "chdir", "comment", "cpus-per-task", "dependency", "gres", "job-name", "mem", "nodes", "ntasks",
    "ntasks-per-node", "open-mode", "output", "error", "partition", "requeue", "signal", "time", "account", "qos",
    "constraint", "exclusive",
}  # fmt: skip
CARDS = {
    "cuda": ("/dev/nvidia[0-9]*", "/dev/nvhost-gpu", "/dev/dxg", "nvidia-smi"),
    "rocm": ("/dev/kfd", "/dev/dxg"),
}
"""Kind of accelerator -> what its driver puts on a machine (/dev/dxg is Windows' WSL, nvhost NVIDIA's boards)."""


def accelerators_fit_the_machine(machine: Machine, accelerator: Accelerator) -> Iterator[Finding]:
    if accelerator.count > machine.max_accelerators:
        what = f"accelerator.count is {accelerator.count}, but a node of this machine has {machine.max_accelerators}"
        yield (
            what,
            "accelerator.count",
            "choose a machine with accelerators (machine=gpu-1, gpu-8), or fewer of them",
        )
    if accelerator.kind != "none" and accelerator.count == 0:
        what = f"accelerator.kind is {accelerator.kind!r}, but accelerator.count is 0"
        yield what, "accelerator.count", "ask for at least 1, or choose accelerator=none"


def ranks_fit_the_machine(machine: Machine, accelerator: Accelerator) -> Iterator[Finding]:
    ranks = machine.ranks_per_node or max(1, accelerator.count)
    if ranks * machine.cpus_per_rank > machine.max_cpus:
        what = (
            f"{ranks} ranks with {machine.cpus_per_rank} CPUs each need more than the {machine.max_cpus} CPUs of a node"
        )
        yield what, "machine.cpus_per_rank", "lower machine.cpus_per_rank or machine.ranks_per_node"
    if 0 < accelerator.count < ranks:
        what = f"machine.ranks_per_node is {ranks}, but a node gives {accelerator.count} accelerators"
        yield what, "machine.ranks_per_node", "set it to null: one rank per accelerator; or raise accelerator.count"


def container_drives_the_accelerator(container: Container, accelerator: Accelerator) -> Iterator[Finding]:
    if container.accelerators is not None and accelerator.kind not in container.accelerators:
        has = ", ".join(container.accelerators)
        what = f"accelerator.kind is {accelerator.kind!r}, but this container's libraries drive: {has}"
        do = f"choose a container built for it, or say that this one is: container.accelerators=[{accelerator.kind}]"
        if accelerator.kind == "none":
            do = "choose an accelerator (accelerator=a100), or a container for CPUs (container=pytorch-cpu); to try the"
            do += " image without a card: add none to container.accelerators"
        yield what, "container.accelerators", do


def precision_is_native(train: Train, accelerator: Accelerator, job: Job, engine: Component) -> Iterator[Finding]:
    if job.kind != "trainer":
        return
    wanted = train.precision or accelerator.precision
    if wanted not in accelerator.precisions:
        has = ", ".join(accelerator.precisions)
        key = "train.precision" if train.precision else "accelerator.precision"
        yield (
            f"train.precision is {wanted!r}, but this accelerator computes: {has}",
            key,
            f"use one of: {has}",
        )
    if wanted == "fp8" and engine.kind == "deepspeed":
        what = "train.precision is 'fp8', which engine 'deepspeed' does not compute"
        yield (what, "engine", "use engine=ddp or fsdp, or train.precision=bf16")


def batch_has_a_sample_for_each_rank(train: Train, pools: tuple[Pool, ...], job: Job) -> Iterator[Finding]:
    if job.kind != "trainer":
        return
    world = sum(pool.machine.nodes * ranks_per_node(pool) for pool in pools)
    parts = world * train.accumulate
    if train.batch_size < parts:
        what = f"train.batch_size is {train.batch_size}, less than {world} ranks x {train.accumulate}"
        yield what, "train.batch_size", f"it is the samples of a step over all ranks: use {parts} or more"


def training_ends(train: Train, job: Job) -> Iterator[Finding]:
    if job.kind == "trainer" and train.epochs is None and train.max_steps is None:
        yield "neither train.epochs nor train.max_steps is given", "train.epochs", "give one of them"


def launcher_has_the_nodes(launcher: Launcher, machine: Machine, pools: tuple[Pool, ...]) -> Iterator[Finding]:
    """Of several pools the replicas are processes of this machine."""
    if launcher.kind == "local" and machine.nodes > 1 and len(pools) == 1:
        what = f"machine.nodes is {machine.nodes}, but launcher=local has this machine alone"
        do = "use launcher=slurm, or machine.nodes=1 with more machine.ranks_per_node, or worker pools (pools=...)"
        yield what, "machine.nodes", do


def notice_fits_the_limit(job: Job, machine: Machine) -> Iterator[Finding]:
    limit_s = machine.time_limit_min * 60
    if job.notice_s >= limit_s:
        what = f"job.notice_s is {job.notice_s}, but the time limit is {limit_s} s ({machine.time_limit_min} min)"
        yield what, "job.notice_s", "lower job.notice_s or raise machine.time_limit_min"


def hangs_are_seen_before_the_limit(job: Job, launcher: Launcher, machine: Machine) -> Iterator[Finding]:
    limit, silent = machine.time_limit_min, job.silent_min
    if silent is not None and silent >= limit and launcher.kind == "slurm":
        what = f"job.silent_min is {silent:g}, but the time limit ends a member after {limit} minutes anyhow"
        yield what, "job.silent_min", "lower job.silent_min or raise machine.time_limit_min"


def heartbeats_are_our_trainers(job: Job) -> Iterator[Finding]:
    if job.kind != "trainer" and job.hang is not None:
        what = f"job.hang is for our trainer, whose ranks beat; the program of this job is a {job.kind}"
        yield what, "job.hang", "use job.silent_min, and leave job.hang out"


def sbatch_options_are_free(launcher: Launcher) -> Iterator[Finding]:
    for name in launcher.sbatch:
        if name.replace("_", "-") in OURS:
            what = f"launcher.sbatch.{name} would override what Fairlead itself sets"
            yield (
                what,
                f"launcher.sbatch.{name}",
                "use the key that owns it (see `fairlead plan`), or leave it out",
            )


def image_is_there(container: Container, launcher: Launcher) -> Iterator[Finding]:
    if container.runtime == "none":
        return
    if container.dockerfile is not None and (container.image is not None or container.recipe is not None):
        what = "container.dockerfile stands beside container.image or container.recipe"
        yield what, "container.dockerfile", "leave one of them: container.recipe=null or container.image=null"
    elif container.dockerfile is not None:
        if not Path(container.dockerfile).expanduser().is_file():
            what = f"container.dockerfile is {container.dockerfile!r}, and there is no such file"
            yield what, "container.dockerfile", "give the path of a Dockerfile"
    elif container.image is None and container.recipe is None:
        yield (
            "container has neither an image nor a recipe",
            "container.image",
            "give the path of a SIF, or a recipe",
        )
    elif container.image is not None:
        yield from _image_problems(container.image)
    elif not (RECIPES / f"{container.recipe}.def").is_file():
        has = ", ".join(sorted(p.stem for p in RECIPES.glob("*.def")))
        yield f"containers/{container.recipe}.def is not there", "container.recipe", f"use one of: {has}"


def _image_problems(image: str) -> Iterator[Finding]:
    path = Path(image).expanduser()
    if "://" in image:
        yield from _reference_problems(image)
    elif not _is_there(path):
        yield f"container.image is {image!r}, and there is no such file", "container.image", "give the path of a SIF"
    elif not path.is_file():
        yield f"container.image is {image!r}, which is not a file", "container.image", "give the path of a SIF"
    elif not _is_sif(path):
        yield f"container.image is {image!r}, which is not a SIF", "container.image", "build one with `apptainer build`"


def _reference_problems(image: str) -> Iterator[Finding]:
    try:
        reference.parse(image)
    except ValueError as e:
        do = "write docker://host/name:tag or oras://host/name:tag, or pull it yourself and give the path of the SIF"
        yield f"container.image is {reference.masked(image)!r}: {e}", "container.image", do


def _is_there(path: Path) -> bool:
    """Whether a path can be seen; one that is too long, or behind a closed door, cannot."""
    try:
        return path.exists()
    except OSError:
        return False


def _is_sif(path: Path) -> bool:
    try:
        with path.open("rb") as f:
            return b"SIF_MAGIC" in f.read(64)
    except OSError:
        return False


def binds_are_there(container: Container, launcher: Launcher) -> Iterator[Finding]:
    for i, bind in enumerate(container.binds):
        key = f"container.binds.{i}"
        for path in (bind.source, bind.target or bind.source):
            if not path.startswith("/"):
                yield f"the bind path {path!r} is not absolute", key, "give an absolute path"
        if launcher.kind == "local" and not _is_there(Path(bind.source)):
            yield f"the bind source {bind.source!r} is not there", key, "make it, or leave the bind out"


def data_is_there(data: Component) -> Iterator[Finding]:
    path = data.options.get("path")
    if isinstance(path, str) and "://" not in path and not _is_there(Path(path)):
        what = f"data.path is {path!r}, and there is no such file or folder"
        yield what, "data.path", "give a path that this machine sees"


def targets_are_names(data: Component, model: Component, optimizer: Component, train: Train) -> Iterator[Finding]:
    parts = {"data": data, "model": model, "optimizer": optimizer}
    said = {name: part.options.get("_target_") for name, part in parts.items() if part.kind == "_target_"}
    said |= {} if train.loss is None else {"train.loss": train.loss.get("_target_")}
    for name, target in said.items():
        if not (isinstance(target, str) and re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)+", target)):
            what = f"{name}._target_ is {target!r}, which is not the dotted path of a class"
            yield what, f"{name}._target_", "write package.module.Class, or of a function"


def tracking_is_sound(tracking: Tracking) -> Iterator[Finding]:
    if tracking.uri:
        yield from _uri_problems(tracking.uri)
    if tracking.kind == "none" and tracking.register:
        what = f"tracking.register is {tracking.register!r}, but tracking.kind is 'none'"
        yield what, "tracking.register", "use tracking=mlflow, or tracking.register=null"


def tensorboard_is_there(tracking: Tracking, site: Site) -> Iterator[Finding]:
    if tracking.tensorboard and site.python is None and find_spec("tensorboard") is None:
        what = "tracking.tensorboard is true, but the package tensorboard is not installed here"
        yield what, "tracking.tensorboard", "pip install 'fairlead[tensorboard]', or tracking.tensorboard=false"


def event_files_can_be_read(job: Job, site: Site) -> Iterator[Finding]:
    if job.metrics.kind == "tensorboard" and site.python is None and find_spec("tensorboard") is None:
        what = "job.metrics.kind is 'tensorboard', but the package tensorboard is not installed here"
        yield what, "job.metrics.kind", "pip install 'fairlead[tensorboard]', or another job.metrics.kind"


def _uri_problems(uri: str) -> Iterator[Finding]:
    try:
        parts = urlsplit(uri)
    except ValueError as e:
        yield f"tracking.uri is {uri!r}, which is no URI: {e}", "tracking.uri", "write http(s)://host:port"
        return
    if parts.scheme not in ("http", "https", "sqlite", "postgresql", "mysql"):
        do = "use http(s)://host:port, sqlite:////path/to/mlflow.db, or null for a file beside the runs"
        yield f"tracking.uri is {uri!r}, whose kind is not known", "tracking.uri", do
    if parts.password or parts.username:
        do = "take them out, and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD in your environment"
        yield "tracking.uri carries a user name or password, which would be written into the run", "tracking.uri", do


def folders_can_be_named(site: Site) -> Iterator[Finding]:
    """The run folder stands in batch scripts and in PYTHONPATH, the scratch folder in Apptainer's --home."""
    runs = str(folder_of(site.runs_dir))
    if any(not c.isprintable() for c in runs) or ":" in runs:
        what = f"the run folders would lie in {runs!r}, whose name has a colon or a line break"
        yield what, "site.runs_dir", "give the command in another folder, or choose another site.runs_dir"
    if ":" in site.scratch_dir or "," in site.scratch_dir:
        yield (
            f"site.scratch_dir is {site.scratch_dir!r}: Apptainer takes no : or , there",
            "site.scratch_dir",
            "use another",
        )


def folders_are_no_files(site: Site) -> Iterator[Finding]:
    for key in ("runs_dir", "images_dir"):
        folder = folder_of(getattr(site, key))
        there = next((p for p in (folder, *folder.parents) if _is_there(p)), folder)
        if there.is_file():
            what = f"site.{key} is {getattr(site, key)!r}, but {there} is a file, not a folder"
            yield what, f"site.{key}", f"choose another site.{key}, or move the file away"


def registries_are_told(site: Site) -> Iterator[Finding]:
    named = [("registry_auth", site.registry_auth)] if site.registry_auth else []
    for key, name in (*named, *((f"image_keys.{i}", key) for i, key in enumerate(site.image_keys))):
        if not folder_of(name).is_file():
            yield f"site.{key} is {name!r}, and there is no such file", f"site.{key}", "give the path of the file"
    for i, host in enumerate(site.registry_http):
        if not re.fullmatch(reference.HOST, host):
            what = f"site.registry_http.{i} is {host!r}, which is no host[:port]"
            yield what, f"site.registry_http.{i}", "write it as references do, without http://"


def cards_are_here(launcher: Launcher, accelerator: Accelerator) -> Iterator[Finding]:
    """Slurm knows its nodes; of this machine its driver tells."""
    signs = CARDS.get(accelerator.kind, ())
    if launcher.kind == "local" and signs and not any(_is_found(sign) for sign in signs):
        what = f"accelerator.kind is {accelerator.kind!r}, but launcher=local, and this machine has no such card"
        yield what, "accelerator.kind", "use launcher=slurm, or accelerator=none"


def _is_found(sign: str) -> bool:
    """A command on PATH, or a file by its pattern."""
    return any(Path("/").glob(sign.lstrip("/"))) if sign.startswith("/") else shutil.which(sign) is not None
