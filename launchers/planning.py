"""From a spec to its plan: what is asked of Slurm, and each pool's program, container and environment.

Pure: nothing is read and nothing is written. What else than the spec it takes is in Facts, which launch.py gathers.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from conf import job_schema, locations, machine_schema, schema
from conf.sweep_schema import Search
from launchers import exported, near, wrapped
from launchers.apptainer import container
from launchers.layout import Place, places, requests
from launchers.parts import MAX_ARRAY_SIZE
from launchers.plan import Plan, PoolPlan
from launchers.programs import words as programs
from launchers.programs.words import Installed, Program, program_of


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the plan needs to know beyond the spec. Gathered once, by launch."""

    job: str
    run_dir: Path
    python: str
    members: int
    shape: int = 0
    max_array: int = MAX_ARRAY_SIZE
    image: str | None = None
    digest: str | None = None
    user: int = 0
    """Number of who launches."""
    below: str = ""
    """Where in the snapshot of the project the command was given: a program of the user's starts there."""
    installed: tuple[Installed | None, ...] = ()
    """Of each pool its source and requirements; none while it is only planned."""
    kept: str | None = None
    """Where secrets wait that come from the environment."""


def plan_of(spec: schema.Spec, facts: Facts) -> Plan:
    """The plan of a job. Nothing is read and nothing is written."""
    whole, spec = spec, dataclasses.replace(spec, job=schema.chiefs_job(spec))
    asked = [_sbatch(spec, pool) for pool in spec.pools]
    together = len(asked) == 1 or spec.launcher.kind == "pool"  # then they share what is held already
    first, *others = asked[:1] if together else requests(asked)
    installed = facts.installed or (None,) * len(spec.pools)
    found = places([(pool.machine.nodes, schema.ranks_per_node(pool)) for pool in spec.pools], shared=not others)
    return Plan(
        job=facts.job,
        run_dir=str(facts.run_dir),
        launcher=spec.launcher.kind,
        python=spec.site.python or facts.python,
        members=facts.members,
        shape=facts.shape,
        max_parallel=_max_parallel(spec),
        max_array=facts.max_array,
        per_allocation=spec.launcher.members_per_allocation,
        max_requeues=spec.job.max_requeues,
        restarts=job_schema.NO_RESTARTS if spec.job.disable_retries else spec.job.restarts,
        worker_restarts=_worker_restarts(spec),
        max_wait_min=spec.launcher.max_wait_min,
        hang=spec.job.hang,
        silent_min=spec.job.silent_min,
        notice_s=spec.job.notice_s,
        scratch_dir=spec.site.scratch_dir,
        setup=spec.site.setup,
        pools=tuple(
            _pool(pool, place, dataclasses.replace(spec, job=pool.job or whole.job), facts, source)
            for pool, place, source in zip(spec.pools, found, installed, strict=True)
        ),
        sbatch={k: v for k, v in first.items() if k != "gres"},
        components=tuple(others),
        pool=spec.launcher.pool,
        time_limit_min=spec.pools[0].machine.time_limit_min if spec.launcher.kind != "slurm" else None,
        search=isinstance(spec.sweep, Search),
        parameters="none" if _is_ours(spec) else spec.job.parameters,
        metrics=spec.job.metrics,
        experiment=(spec.tracking.experiment or spec.name) if spec.tracking.kind == "mlflow" else None,
        metric=spec.objective.metric if isinstance(spec.sweep, Search) else None,
        notice="SIGUSR2" if _is_ours(spec) else "SIGTERM",
        wrapping=wrapped.of(spec),
        copies=near.of(spec.site, facts.user),
        export=exported.of(whole),
        secrets=spec.secrets,
        kept=facts.kept if any(secret.env for secret in spec.secrets.values()) else None,
    )


def _max_parallel(spec: schema.Spec) -> int | None:
    """More than a population's members would wait, with their allocations, for a place in it."""
    limit, sweep = spec.launcher.max_parallel, spec.sweep
    if not isinstance(sweep, Search) or sweep.population is None or spec.launcher.kind == "local":
        return limit
    return min(limit or sweep.population.size, sweep.population.size)


def _worker_restarts(spec: schema.Spec) -> int:
    """Our trainer's ranks are one group: one that comes back alone meets nobody."""
    together = spec.job.restart_job_on_worker_restart or spec.job.disable_retries
    return 0 if len(spec.pools) == 1 or spec.job.kind == "trainer" or together else spec.job.worker_restarts


def _gres(pool: schema.Pool) -> str | None:
    card = pool.accelerator
    kind = f":{card.slurm_type}" if card.slurm_type else ""
    return f"{'tpu' if card.kind == 'tpu' else 'gpu'}{kind}:{card.count}" if card.count else None


def _pool(pool: schema.Pool, place: Place, spec: schema.Spec, facts: Facts, installed: Installed | None) -> PoolPlan:
    """`spec` is the whole's with the pool's own program, `installed` what its source and requirements became."""
    program = _program(spec, pool, facts, installed)
    box, stage_dir = None, f"{spec.site.scratch_dir}/fairlead-data-{facts.user}" if _is_ours(spec) else None
    if pool.container.runtime == "apptainer":
        box = container.plan_of(pool, spec, facts.run_dir, facts.image, facts.digest)
        box = container.with_mounts(box, _mounts(spec, stage_dir, program))
    return PoolPlan(
        name=f"workerpool{pool.number}",
        place=place,
        mem=_mem(pool) if len(spec.pools) > 1 else None,
        mem_gb=pool.machine.mem_gb if spec.launcher.kind == "local" else None,
        nodes=pool.machine.nodes,
        ranks_per_node=schema.ranks_per_node(pool),
        cpus_per_rank=pool.machine.cpus_per_rank,
        gres=_gres(pool),
        container=box,
        env={
            "OMP_NUM_THREADS": str(pool.machine.cpus_per_rank),
            **spec.site.env,
            **pool.container.env,
            **_python_path(spec, pool, (*program.path, *_plugin(spec, facts))),
            "PYTHONUNBUFFERED": "1",
            **_staging(spec, stage_dir),
        },
        stage_dir=stage_dir,
        passed=(*(_credentials(spec) if stage_dir else ()), *pool.container.host_env),
        program=(*program.words, *program.arguments),
        cwd=(pool.container.workdir if _is_entry(spec, pool) else None) or program.cwd,
        installed=installed,
    )


def _is_entry(spec: schema.Spec, pool: schema.Pool) -> bool:
    """Whether the image's own entry point is what runs."""
    return pool.container.runtime == "apptainer" and spec.job.kind == "command" and not spec.job.command


def _python_path(spec: schema.Spec, pool: schema.Pool, folders: Sequence[str]) -> dict[str, str]:
    """Where Python looks; an image's own entry point has what the image says, unless it needs our plugin of Hydra."""
    if _is_entry(spec, pool) and spec.job.parameters != "overrides":
        return {}
    return {"PYTHONPATH": ":".join(folders)}


def _is_ours(spec: schema.Spec) -> bool:
    return spec.job.kind == "trainer"


def _credentials(spec: schema.Spec) -> tuple[str, ...]:
    """Names of variables: those of the data's address, and the one that holds a database's URL (data=sql)."""
    url = spec.data.options.get("url_env")
    return (*locations.variables(str(spec.data.options.get("path"))), *([url] if isinstance(url, str) else []))


def _mounts(spec: schema.Spec, stage_dir: str | None, program: Program) -> list[container.Mount]:
    """What a program sees besides its data. Our trainer: the node's folder of staged data, which the container's
    private /tmp would not keep, and weights to begin with (of a file the folder, where something vouches for it). Any
    other program: what was installed for it."""
    if stage_dir is None:
        return [container.Mount(source=path, target=path) for path in program.installed]
    mounts, begin = [container.Mount(source=stage_dir, target=stage_dir, writable=True)], spec.train.start_from
    if begin is not None:
        folder = str(Path(begin).parent) if begin.endswith(".safetensors") else begin
        mounts.append(container.Mount(source=folder, target=folder))
    return mounts


def _staging(spec: schema.Spec, stage_dir: str | None) -> dict[str, str]:
    """What trainer/data/node.py reads."""
    if stage_dir is None:
        return {}
    most = spec.site.stage_gb
    return {"FAIRLEAD_STAGE_DIR": stage_dir, **({"FAIRLEAD_STAGE_GB": f"{most:g}"} if most else {})}


def _plugin(spec: schema.Spec, facts: Facts) -> tuple[str, ...]:
    """A Hydra application finds our plugin of Hydra, which needs none of our packages."""
    wanted = not _is_ours(spec) and spec.job.parameters == "overrides"
    return (str(facts.run_dir / "code" / "fairlead" / "launchers" / "plugin"),) if wanted else ()


def _program(spec: schema.Spec, pool: schema.Pool, facts: Facts, installed: Installed | None) -> Program:
    """The program of one rank, without what differs between members."""
    inside = pool.container.python if pool.container.runtime == "apptainer" else spec.site.python or facts.python
    place = programs.Place(code=facts.run_dir / "code", below=facts.below, installed=installed)
    return program_of(spec.job, inside, place)


def _mem(pool: schema.Pool) -> str:
    return f"{math.ceil(pool.machine.mem_gb * 1024)}M"


def _constraint(machine: machine_schema.Machine) -> str | None:
    """What is asked of the nodes' features (sbatch(1), --constraint)."""
    said, disk = machine.constraint, machine.disk.kind
    if disk == "any":
        return said
    return disk if said is None else f"({said})&{disk}" if "|" in said else f"{said}&{disk}"


def _sbatch(spec: schema.Spec, pool: schema.Pool) -> dict[str, str | int | float | bool]:
    """Options of a pool's job that come from the spec: resources and accounting."""
    machine = pool.machine
    options: dict[str, str | int | float | bool | None] = {
        "partition": machine.partition or spec.site.default_partition,
        "account": machine.account or spec.site.default_account,
        "qos": machine.qos,
        "constraint": _constraint(machine),
        "nodes": machine.nodes,
        "ntasks_per_node": schema.ranks_per_node(pool),
        "cpus_per_task": machine.cpus_per_rank,
        "mem": _mem(pool),
        "time": machine.time_limit_min,
        "exclusive": machine.exclusive or None,
        "gres": _gres(pool),
        "tmp": f"{math.ceil(machine.disk.size_gb * 1024)}M" if machine.disk.size_gb else None,
        **{name.replace("-", "_"): value for name, value in spec.launcher.sbatch.items()},
    }
    return {name: value for name, value in options.items() if value is not None and value is not False}
