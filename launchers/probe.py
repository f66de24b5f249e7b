"""`fairlead check`: ask the real site about a plan that is already sound, before anything queues.

Each question is one function that yields findings; a finding is good news or a problem in three lines.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from conf import job_schema, locations, machine_schema, schema
from launchers.apptainer import cdi, image_pull, registry, sif, signature, suited
from launchers.apptainer.cdi_specs import found_in
from launchers.apptainer.container import ContainerPlan
from launchers.command import output_of
from launchers.delivery import store
from launchers.errors import CommandError, SiteError, SpecError
from launchers.folders import folder_of
from launchers.host.secret_values import value_of
from launchers.parts import parts
from launchers.plan import Plan
from launchers.programs.ready import (
    NO_SHELL,
    made_ready,
    may_be_brought,
    missing_in,
    scripts_are_frozen,
    why_no_program,
)
from launchers.queue import pool as held
from launchers.queue import scheduler, slurm, time_limits

OTHER_COMMANDS = {"slurm": ("flock", "timeout"), "local": ("setpriv",), "pool": ("squeue",)}
"""Launcher -> what else of the host's it calls: util-linux and coreutils."""
STORE_LIMIT_S = 5
PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
"""Where a database listens whose URI does not say it."""
INSPECT = "look at the image with: apptainer inspect"


@dataclass(frozen=True)
class Finding:
    """One answer of the site."""

    good: bool
    text: str


Question = Callable[[schema.Spec, Plan], Iterator[Finding]]


def probe(spec: schema.Spec, plan: Plan) -> Iterator[Finding]:
    """Every answer, the good ones too, so that a person sees what was asked."""
    yield from _folders(spec)
    yield from _commands(plan.launcher)
    if plan.launcher == "local":
        yield _held_to(spec.pools[0].machine)
    if plan.launcher == "slurm" and scheduler.not_here() is None:  # else one answer says it all
        yield from _guarded(_limits, spec, plan)
        yield from _guarded(_test_only, spec, plan)
    if plan.launcher == "pool":
        yield from _guarded(_pool, spec, plan)
    found: dict[Finding, None] = {}
    for of_pool, pool_plan in _pools(spec, plan):
        found |= dict.fromkeys(_guarded(_program_of_ones_own, of_pool, pool_plan))
        found |= dict.fromkeys(_guarded(_image, of_pool, pool_plan))
        found |= dict.fromkeys(_guarded(_address, of_pool, pool_plan))
        found |= dict.fromkeys(_binds(of_pool))
        found |= dict.fromkeys(_guarded(_devices, of_pool, pool_plan))
    yield from found
    yield from _secrets(spec)
    yield from _guarded(_store, spec, plan)


def _pools(spec: schema.Spec, plan: Plan) -> Iterator[tuple[schema.Spec, Plan]]:
    """Each pool, as if it were the only one."""
    for pool, planned in zip(spec.pools, plan.pools, strict=True):
        alone = dataclasses.replace(spec, pools=(pool,), job=pool.job or spec.job)
        yield alone, dataclasses.replace(plan, pools=(planned,), components=())


def _guarded(question: Question, spec: schema.Spec, plan: Plan) -> Iterator[Finding]:
    """A question whose means fail is answered by that failure."""
    try:
        yield from question(spec, plan)
    except (SiteError, SpecError) as e:
        yield Finding(False, str(e))


def _program_of_ones_own(spec: schema.Spec, plan: Plan) -> Iterator[Finding]:
    """What `launch` refuses of a program before it freezes a job; sources and requirements are installed only there,
    and a module may be among these."""
    if spec.job.kind == "command":
        scripts_are_frozen(spec)
    job = spec.job
    later = job.source is not None or (job.kind == "module" and job.requirements is not None)
    if plan.pools[0].container is None and may_be_brought(job) and why_no_program(spec, None):
        yield _brought(job.command[0], f"on this host, {socket.gethostname()}")
        return
    if plan.pools[0].container is None and job.kind != "trainer" and not later:
        (pool,), alone = spec.pools, dataclasses.replace(job, requirements=None)
        pools = (dataclasses.replace(pool, job=alone),)
        made_ready(dataclasses.replace(spec, pools=pools, job=alone), (None,), sys.executable, print)
        if job.kind == "module" or (job.kind == "command" and plan.launcher == "local"):  # else only the nodes know
            yield Finding(True, f"the program is there: {' '.join(job.command[:2]) or job.module}")


def _brought(word: str, where: str) -> Finding:
    """Of a program that is not there, and may be when launch has installed the job's requirements."""
    return Finding(True, f"{word} is not {where}: it has to come with job.requirements, which launch installs")


def _secrets(spec: schema.Spec) -> Iterator[Finding]:
    """As seen from here; on a node they are asked for again."""
    for name, secret in spec.secrets.items():
        try:
            value_of(name, secret, {name: os.environ.get(secret.env or "", "")})
        except SiteError as e:
            yield Finding(False, str(e))
        else:
            yield Finding(True, f"the secret {name} has a value")


def _missing(names: Sequence[str]) -> str:
    return ", ".join(name for name in names if shutil.which(name) is None)


def _commands(launcher: str) -> Iterator[Finding]:
    here = f"this host, {socket.gethostname()}"
    if launcher == "slurm" and (lacking := scheduler.not_here()):
        yield Finding(False, str(lacking))
    elif launcher == "slurm":
        yield Finding(True, "Slurm's commands are on PATH")
    if missing := _missing(OTHER_COMMANDS[launcher]):
        yield _problem(f"not on PATH: {missing}", here, "install the packages util-linux and coreutils")


def _pool(spec: schema.Spec, plan: Plan) -> Iterator[Finding]:
    folder = held.must_be_there(str(plan.pool))
    state, reason = held.state_of(folder)
    yield Finding(True, f"pool {plan.pool} is {state}{f' ({reason})' if reason else ''}")


def _folders(spec: schema.Spec) -> Iterator[Finding]:
    for key in ("runs_dir", "images_dir"):
        folder = Path(getattr(spec.site, key)).expanduser().absolute()
        there = next(p for p in (folder, *folder.parents) if p.exists())
        if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
            free_gb = shutil.disk_usage(there).free / 1e9
            yield Finding(True, f"site.{key} can be written: {folder} ({free_gb:.0f} GB free)")
        else:
            yield _problem(f"{there} cannot be written", f"site.{key}={folder}", f"choose another site.{key}")


def _held_to(machine: machine_schema.Machine) -> Finding:
    asked = f"machine.time_limit_min ({machine.time_limit_min}) and mem_gb ({machine.mem_gb:g})"
    return Finding(True, f"a program on this machine is held to {asked}")


def _limits(spec: schema.Spec, plan: Plan) -> Iterator[Finding]:
    default, times = scheduler.default_partition(), time_limits.asked(spec)
    wanted = [asked.get("partition") or default for asked in (plan.sbatch, *plan.components)]
    if None in wanted:
        yield _problem("the cluster has no default partition, and none is named", "machine.partition", "name one")
        return
    size = scheduler.max_array_size()
    arrays = -(-plan.members // size)
    split = f", so that this job gets {arrays} arrays" if arrays > 1 else ""
    if plan.components:
        split = ", and none of heterogeneous jobs: each member is a job of its own"
    for name in dict.fromkeys(name for names in wanted for name in str(names).split(",")):
        known = scheduler.partition(name)
        minutes = times.get(name, times.get(None, 0) if name == default else 0)
        if problem := time_limits.over(name, minutes, known):
            yield Finding(False, str(problem))
        yield Finding(True, f"partition {name} is {known.get('State', '?')}, arrays take {size} members{split}")


def _test_only(spec: schema.Spec, plan: Plan) -> Iterator[Finding]:
    """`sbatch --test-only`: the controller itself checks the request and says when it could start."""
    first = parts([0], {0: plan.shape}, 1, 1)[0]
    text = slurm.member_script(plan, first, plan.job)
    lines = [line for line in text.splitlines() if not line.startswith(("#SBATCH --chdir", "#SBATCH --output"))]
    with tempfile.NamedTemporaryFile("w", suffix=".sbatch", encoding="utf-8") as script:
        script.write("\n".join(lines) + "\n")
        script.flush()
        env = slurm.client_environment()
        argv = ["sbatch", "--test-only", script.name]
        try:
            done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False, env=env)
        except (OSError, subprocess.TimeoutExpired) as e:
            raise CommandError(argv, "could not be asked", str(e), "check that Slurm answers: scontrol ping") from None
    said = (done.stderr.strip() or done.stdout.strip()).removeprefix("sbatch: ")
    if done.returncode:
        do = "ask for what one of its partitions has: sinfo --format='%P %D nodes, %c CPUs, %m MB, %G, %l'"
        yield _problem(f"the cluster refuses this: {said}", f"asked for: {_asked(plan)}", do)
    else:
        yield Finding(True, f"the controller takes it: {said}")


def _asked(plan: Plan) -> str:
    """What the batch job asks of Slurm, which names nothing in its refusal, by our keys."""
    wanted = plan.sbatch
    words = [
        f"partition {wanted['partition']}" if "partition" in wanted else "the default partition",
        f"machine.nodes={wanted['nodes']}",
        f"ranks per node {wanted['ntasks_per_node']}",
        f"machine.cpus_per_rank={wanted['cpus_per_task']}",
        f"memory per node {wanted['mem']}",
        f"time {wanted['time']} min",
        *([f"gres {plan.pools[0].gres} per node"] if plan.pools[0].gres else []),
        *(f"{name} {wanted[name]}" for name in ("constraint", "account", "qos", "exclusive", "tmp") if name in wanted),
    ]
    return ", ".join(words)


def _image(spec: schema.Spec, plan: Plan) -> Iterator[Finding]:
    box = plan.pools[0].container
    if box is None:
        return
    if shutil.which(box.executable) is None:
        what = f"{box.executable} was not found on this host, {socket.gethostname()}"
        do = "install Apptainer (apptainer.org), load the module that brings it, or name its path in site.apptainer"
        yield _problem(what, f"site.apptainer={box.executable}", do)
        return
    wanted = spec.pools[0].container
    if box.image and "://" in box.image:
        yield _registry(spec.pools[0], spec.site)
        return
    if box.image is None or not Path(box.image).exists():
        recipe = wanted.recipe or wanted.dockerfile
        yield Finding(True, f"the image is not built yet: launch builds it (or: fairlead image build {recipe})")
        return
    sif.runs_on(Path(box.image), wanted.architecture or sif.here())
    suited.file_must_suit(spec.pools[0], spec.site, Path(box.image))
    if wanted.image is not None:
        signature.verify(Path(box.image), spec.site)
    if wanted.architecture not in (None, sif.here()):
        yield Finding(True, f"the image is for {wanted.architecture}, as the nodes: it is not started on this host")
        return
    inside = [box.executable, "exec", "--contain", "--cleanenv", box.image]
    if spec.job.kind == "command":
        yield from _program(inside, spec.job) if spec.job.command else _entry_point(box)
        return
    said = output_of([*inside, spec.pools[0].container.python, "--version"], timeout_s=120, do=INSPECT)
    yield Finding(True, f"the image runs: {Path(box.image).name}, {said.strip()}")


def _registry(pool: schema.Pool, site: schema.Site) -> Finding:
    """What launch would pull. Raises SiteError where it could not, SpecError where it would not."""
    box = pool.container
    ref = image_pull.reference_of(box)
    signature.refuse_unsignable(ref.scheme, str(ref), site)
    digest = image_pull.pinned(box) or registry.digest_of(ref, site)
    found = registry.manifest_of(ref, digest, box.architecture or sif.here(), site)
    suited.must_suit(pool, found.cards)
    return Finding(
        True, f"the registry has the image, and launch pulls it: {ref.by(digest)}, {found.size / 1e6:.0f} MB"
    )


def _entry_point(box: ContainerPlan) -> Iterator[Finding]:
    name = Path(str(box.image)).name
    if missing_in(Path(str(box.image)), box.executable, ""):
        what = "job.command is empty, and the image has no entry point"
        yield _problem(what, f"job.command, container {name}", "write job.command=[python3,train.py]")
    else:
        yield Finding(True, f"the image runs: {name}, by its own entry point")


def _program(inside: Sequence[str], job: job_schema.Job) -> Iterator[Finding]:
    """Whether an image starts and has a command's program; what is named by its path may come with the project."""
    word = job.command[0]
    wanted = "sh" if "/" in word else word
    name = Path(inside[-1]).name
    try:
        said = output_of([*inside, "sh", "-c", 'command -v -- "$0" || true', wanted], timeout_s=120, do=INSPECT)
    except CommandError as e:
        if NO_SHELL not in str(e):
            raise
        yield Finding(True, f"the image runs: {name}; it has no shell to ask for {word}")
        return
    if said.strip():
        yield Finding(True, f"the image runs: {name}" + (f", with {said.strip()}" if wanted == word else ""))
    elif may_be_brought(job):
        yield _brought(word, f"in {name}")
    else:
        do = "name a program that is in the image, or the path of one that stands in your project"
        yield _problem(f"the image has no program {word!r}", f"job.command[0], container {name}", do)


def _address(spec: schema.Spec, plan: Plan) -> Iterator[Finding]:
    """Whether what speaks the protocol of data at an address is there; whether nodes can reach it, only they know."""
    address, box = str(spec.data.options.get("path")), plan.pools[0].container
    if spec.job.kind != "trainer" or not locations.is_remote(address) or (box and not Path(str(box.image)).exists()):
        return
    package = locations.PACKAGES[locations.protocol(address)]
    where = [box.executable, "exec", "--contain", "--cleanenv", str(box.image)] if box else []
    script = "import importlib.util, sys; print(importlib.util.find_spec(sys.argv[1]) is not None)"
    if output_of([*where, plan.pools[0].program[0], "-c", script, package], timeout_s=120).strip() == "True":
        shown = locations.masked(address)
        yield Finding(True, f"the package for data at {shown} is there: {package}; each node copies them whole")
        return
    extra = locations.EXTRAS[package]
    do = "add it to the image's lock file and build it anew" if box else f"pip install 'fairlead[{extra}]'"
    what = f"data at {locations.masked(address)} need the Python package {package}, which is not there"
    yield _problem(what, f"container {Path(str(box.image)).name}" if box else plan.pools[0].program[0], do)


def _binds(spec: schema.Spec) -> Iterator[Finding]:
    """As this host sees them; what a node alone has must be trusted."""
    for bind in spec.pools[0].container.binds:
        if Path(bind.source).exists():
            yield Finding(True, f"the bind source is there: {bind.source}")
        else:
            do = "make it, or ignore this where only the nodes have it"
            yield _problem(f"the bind source {bind.source} is not on this host", "container.binds", do)


def _devices(spec: schema.Spec, plan: Plan) -> Iterator[Finding]:
    """As this host has them; where it is no node and has none, the nodes must be trusted."""
    box = plan.pools[0].container
    if box is None or not box.devices:
        return
    named = ", ".join(box.devices)
    if plan.launcher != "local" and not found_in(box.cdi_dirs).devices:
        yield Finding(True, f"{named}: only the nodes know, where it is looked up in {', '.join(box.cdi_dirs)}")
        return
    count = len(cdi.shown(box.devices, box.cdi_dirs).mounts)
    yield Finding(True, f"{named}: this host has what its CDI specifications name, {count} mounts")


def _store(spec: schema.Spec, plan: Plan) -> Iterator[Finding]:
    uri = spec.tracking.uri
    if spec.tracking.kind == "none":
        return
    if uri is None or not uri.startswith("http"):
        yield _database(uri, spec)
        return
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=STORE_LIMIT_S):
            yield Finding(True, f"the tracking store answers: {urlsplit(uri).netloc}")
    except OSError as e:
        do = "start it, or launch anyway: `fairlead sync` delivers later"
        yield _problem(f"the tracking store does not answer: {e}", f"tracking.uri={uri}", do)


def _database(uri: str | None, spec: schema.Spec) -> Finding:
    """Whether it can be reached; who may write into it, the first delivery says."""
    shown = store.shown(uri) if uri else "mlflow.db beside the runs"
    address = urlsplit(uri or "")
    if not address.hostname:
        path = store.sqlite_path(uri) if uri else None
        file = folder_of(spec.site.runs_dir) / (path or "mlflow.db")
        there = next(p for p in (file, *file.parents) if p.exists())
        if os.access(there, os.W_OK):
            return Finding(True, f"the tracking store is a database: {shown}")
        return _problem(f"{there} cannot be written", f"tracking.uri={shown}", "choose another tracking.uri")
    try:
        port = address.port or PORTS.get(address.scheme.partition("+")[0], 0)
        socket.create_connection((address.hostname, port), timeout=STORE_LIMIT_S).close()
    except OSError as e:
        do = "start it, or launch anyway: `fairlead sync` delivers later"
        return _problem(f"the tracking store does not answer: {e}", f"tracking.uri={shown}", do)
    return Finding(True, f"the tracking store is a database that answers: {shown}")


def _problem(what: str, where: str, do: str) -> Finding:
    return Finding(False, str(SiteError(what, where, do)))
