"""A Hydra application as a job: what the plugin of Hydra (launchers/plugin) asks of us, in a process of its own.

`python -m launchers.hydra_app.application` reads one request as JSON, answers with a line of JSON when the job is
queued and, unless it is detached, with another when it has ended. A process of its own, because an application
has a Hydra of its own, and often a package `conf` or `trainer`. How it ended is application_end.py's.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conf import job_schema, machine_schema, schema
from launchers.errors import EXIT_DONE, FairleadError, Problem, SpecError
from launchers.freeze import Launch
from launchers.hydra_app.application_space import in_hydras_words, search_words, varying
from launchers.launch import Request, checked, submit
from launchers.plan import Plan
from launchers.run_folder import snapshot
from launchers.run_folder.record import Run, read_json

SWEEP_DIR = "FAIRLEAD_SWEEP_DIR"
"""Tells a member where Hydra's outputs of the whole sweep are."""
PLACE = (
    "hydra.mode=RUN",
    "hydra.job.num=${oc.env:FAIRLEAD_MEMBER}",
    "hydra.job.id=${oc.env:FAIRLEAD_JOB_ID}_${oc.env:FAIRLEAD_MEMBER}",
    f"hydra.sweep.dir=${{oc.env:{SWEEP_DIR}}}",
    "hydra.run.dir=${hydra.sweep.dir}/${hydra.sweep.subdir}",
    "++hydra.callbacks.fairlead={_target_:hydra_plugins.fairlead_plugin._returned.Returned}",
)
"""A member is a run whose number and output folder are those it has in the sweep."""
UNTIL_KNOWN = "hydra-application"


@dataclass(frozen=True, kw_only=True)
class Application:
    """What the plugin asks for."""

    name: str
    script: str | None
    """File that was started; None where `module` was, with python -m."""
    module: str | None
    options: tuple[str, ...]
    """Options in front of the overrides, such as --config-name."""
    fixed: tuple[str, ...]
    """Overrides that all members have."""
    sweep_dir: str
    overrides: tuple[str, ...]
    """Of Fairlead's own configuration."""
    config_dirs: tuple[str, ...] = ()
    typed: tuple[str, ...]
    """The command line, for the provenance."""
    detach: bool = False
    jobs: tuple[tuple[str, ...], ...] = ()
    """Overrides of each member."""
    first: int = 0
    """Hydra's number of the first member."""
    search: Mapping[str, Any] | None = None
    """In place of jobs: what application_space.py reads."""


def submitted(wanted: Application) -> tuple[Run, Plan]:
    """The application's job, queued. Raises FairleadError as `fairlead launch` does."""
    fixed, points = varying(wanted.jobs, wanted.first)
    launch = checked(
        Request(
            overrides=_overrides(wanted),
            config_dirs=tuple(Path(folder) for folder in wanted.config_dirs),
            command=wanted.typed,
        )
    )
    sections = _sections(wanted, launch.specs[0], fixed)
    launch = _with(launch, *sections)
    if wanted.search is None:
        launch = dataclasses.replace(
            launch,
            specs=tuple(dataclasses.replace(launch.specs[0], params=point) for point in points),
            points=_told(points),
        )
    return submit(launch, _say)


def _overrides(wanted: Application) -> tuple[str, ...]:
    """Fairlead's overrides: ours, where the user says nothing of the same key."""
    ours = [
        f"name={re.sub(r'[^A-Za-z0-9._-]', '-', wanted.name).lstrip('-._')[:63] or 'application'}",
        "job=command",
        f"job.command=[{UNTIL_KNOWN}]",
        "job.parameters=overrides",
        "job.metrics.kind=jsonl",
        "objective.metric=objective",
        *(search_words(wanted.search) if wanted.search is not None else ()),
    ]
    said = {text.lstrip("+~").partition("=")[0] for text in wanted.overrides}
    return (*(text for text in ours if text.partition("=")[0] not in said), *wanted.overrides)


def _sections(
    wanted: Application, spec: schema.Spec, fixed: Sequence[str]
) -> tuple[job_schema.Job, machine_schema.Container]:
    """The program, and a container that may write Hydra's outputs.

    Put in here and not by overrides, so that what is `${...}` to the application is nothing to us.
    """
    box = spec.pools[0].container
    python = box.python if box.runtime == "apptainer" else spec.site.python or sys.executable
    command = (python, *_program(wanted, box), *wanted.options, *wanted.fixed, *fixed, *PLACE)
    binds = (*box.binds, machine_schema.Bind(source=wanted.sweep_dir, writable=True))
    env = {**box.env, SWEEP_DIR: wanted.sweep_dir}
    return dataclasses.replace(spec.job, command=command), dataclasses.replace(box, binds=binds, env=env)


def _program(wanted: Application, box: machine_schema.Container) -> tuple[str, ...]:
    """What was started, as it stands in the snapshot. Raises SpecError for a file that will not be there."""
    if wanted.script is None:
        return ("-m", str(wanted.module))
    here, script = Path.cwd(), Path(wanted.script)
    if snapshot.holds(here, script):
        return (os.path.relpath(script.resolve(), here.resolve()),)
    if box.runtime == "none" and not script.resolve().is_relative_to(here.resolve()):
        return (str(script.absolute()),)  # installed, as the command of a package is
    what = f"{script} would not be among the files that are frozen with the job"
    do = "start it in its own folder, or in a git repository that does not ignore it; or as python -m its.module"
    raise SpecError([Problem(what, f"the application, started in {here}", do)])


def _with(launch: Launch, job: job_schema.Job, box: machine_schema.Container) -> Launch:
    """The launch with another program and container, also in what points of a search are put into."""
    spec = launch.specs[0]
    pools = tuple(dataclasses.replace(pool, container=box) for pool in spec.pools)
    whole = dataclasses.replace(spec, job=job, pools=pools)
    templates = tuple({**t, "config": _configured(t["config"], job, box)} for t in launch.templates)
    return dataclasses.replace(launch, specs=(whole,) * len(launch.specs), templates=templates)


def _configured(config: Mapping[str, Any], job: job_schema.Job, box: machine_schema.Container) -> dict[str, Any]:
    """A template of points, whose interpolations are resolved when a point is put into it."""
    binds = [{k: _as_it_is(v) for k, v in dataclasses.asdict(bind).items()} for bind in box.binds]
    container = {**config["container"], "binds": binds, "env": {k: _as_it_is(v) for k, v in box.env.items()}}
    command = [_as_it_is(word) for word in job.command]
    return {**config, "job": {**config["job"], "command": command}, "container": container}


def _as_it_is(value: Any) -> Any:
    """What OmegaConf resolves to this very value."""
    if not isinstance(value, str):
        return value
    return re.sub(r"(\\*)\$\{", lambda m: m[1] * 2 + r"\${", value)


def _told(points: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    """The points as keys of ours, without what only Hydra wants to know."""
    return tuple({f"params.{k}": v for k, v in p.items() if not k.startswith("hydra.job.")} for p in points)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _answer(document: Mapping[str, Any]) -> None:
    print(json.dumps(document), flush=True)


def _whole(wanted: Application) -> int:
    """Queue the job, and unless it is detached, wait for its end."""
    from launchers.hydra_app.application_end import end_of

    run, plan = submitted(wanted)
    if plan.launcher == "slurm":
        from launchers.delivery.sync import prepare

        prepare(run, plan)
    spec = read_json(run.spec)
    place = spec["pools"][0]["container"]["env"][SWEEP_DIR]
    _answer({"job": run.id, "run_dir": str(run.path), "members": plan.members, "sweep_dir": place})
    if not wanted.detach:
        _answer(end_of(run, plan))
    return EXIT_DONE


def main() -> int:
    os.umask(0o077)
    given = json.load(sys.stdin)
    tuples = {k: tuple(map(tuple, v)) if k == "jobs" else tuple(v) for k, v in given.items() if isinstance(v, list)}
    try:
        return _whole(Application(**{**given, **tuples}))
    except FairleadError as e:
        _answer({"error": in_hydras_words(str(e))})
        return e.exit_code
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
