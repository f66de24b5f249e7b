"""The verb `launch`, from a command line to a queued job: compose, check, image, freeze, submit.

Each step is another file's; this one is their order, and what `plan` and `check` share with it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from conf import schema
from launchers.apptainer import image, image_pull, sif, suited
from launchers.errors import CommandError, Problem, SpecError
from launchers.folders import RECIPES, folder_of
from launchers.freeze import Launch, freeze, plans_for
from launchers.host.secret_values import value_of
from launchers.plan import Plan, plans_from
from launchers.programs import requirements
from launchers.programs.ready import made_ready
from launchers.queue import pool, scheduler, time_limits
from launchers.queue.handover import submit_members
from launchers.run_folder import index, kept, snapshot
from launchers.run_folder.record import Run, locked, read_json
from launchers.search.expand import expand

if TYPE_CHECKING:
    from launchers.search.resume import Place

Say = Callable[[str], None]
SHOWN_FILES = 3


@dataclass(frozen=True, kw_only=True)
class Request:
    """What was typed."""

    overrides: tuple[str, ...]
    config_dirs: tuple[Path, ...] = ()
    multirun: bool = False
    command: tuple[str, ...] = ()


def checked(request: Request) -> Launch:
    """The members of a request, each with its frozen spec. Raises SpecError with all problems."""
    members = expand(request.overrides, request.config_dirs)
    swept = members.specs[0].sweep is not None
    if len(members.specs) > 1 and not (request.multirun or swept):
        what = f"these overrides make {len(members.specs)} members, but -m was not given"
        do = "add -m for a sweep, or quote the value if it is one string with commas: key='\"a,b\"'"
        raise SpecError([Problem(what, f"overrides {' '.join(request.overrides)}", do)])
    _one_place(members.specs)
    return Launch(
        specs=members.specs,
        points=members.points,
        templates=members.templates,
        earlier=members.earlier,
        command=request.command or ("fairlead", "launch", *request.overrides),
        cwd=Path.cwd(),
        python=sys.executable,
    )


def planned(launch: Launch) -> tuple[Plan, ...]:
    """The plans of a launch that is not made: nothing is built and no folder is there."""
    spec = launch.specs[0]
    images = tuple(tuple(_known_image(shape, pool) for pool in shape.pools) for shape in launch.shapes)
    run = Run(folder_of(spec.site.runs_dir) / f"{spec.name}-planned")
    return plans_for(dataclasses.replace(launch, images=images), run)


def _known_image(spec: schema.Spec, pool: schema.Pool) -> image.BuiltImage | None:
    if pool.container.runtime == "none":
        return None
    path = image_of(spec, pool)
    if path is None:
        return None
    known = image.known_of(path)
    digest = sif.digest_of(path) if path.exists() else ""
    return image.BuiltImage(path, digest, known.get("source"), known.get("workdir"))


def image_of(spec: schema.Spec, pool: schema.Pool) -> Path | None:
    """The path of the image that a pool runs in, whether it is there yet or not; None of a reference whose digest is
    known only when it is launched, or that the store does not have."""
    box = pool.container
    if box.image is not None and "://" in box.image:
        digest = image_pull.pinned(box)
        found = digest and image.stored(folder_of(spec.site.images_dir), digest, box.architecture or sif.here())
        return found or None
    if box.image is not None:
        return folder_of(box.image)
    recipe = image.recipe_of(box, RECIPES)
    return image.image_path(recipe, spec.site.image_build, folder_of(spec.site.images_dir))


def with_images(launch: Launch, say: Say) -> Launch:
    """The launch with its images, which are built now if they are not there yet."""

    def built(pool: schema.Pool, site: schema.Site) -> image.BuiltImage | None:
        return None if pool.container.runtime == "none" else suited.ensure_suited(pool, site, say)

    images = (tuple(built(pool, spec.site) for pool in spec.pools) for spec in launch.shapes)
    return dataclasses.replace(launch, images=tuple(images))


def with_programs(launch: Launch, say: Say) -> Launch:
    """The launch with the programs of its shapes seen to be there, and what they need installed."""
    images = launch.images or tuple((None,) * len(shape.pools) for shape in launch.shapes)
    ready = (made_ready(spec, of, launch.python, say) for spec, of in zip(launch.shapes, images, strict=True))
    return dataclasses.replace(launch, installed=tuple(ready))


def launch(request: Request, say: Say) -> tuple[Run, Plan]:
    """Freeze and submit; returns when the job is queued (Slurm) or started (local)."""
    return submit(checked(request), say)


def submit(wanted: Launch, say: Say) -> tuple[Run, Plan]:
    """As `launch`, of what was checked. A search that was launched before goes on under its own id (resume.py)."""
    job = None
    if wanted.specs[0].launcher.kind == "slurm":
        scheduler.must_be_here()
    _secrets_are_known(wanted)
    if wanted.templates:
        place = _place(wanted, say)
        if place.known is not None:
            return place.known, plans_from(read_json(place.known.plan))[0]
        job = place.job
    if wanted.specs[0].launcher.kind == "pool":
        pool.must_be_there(str(wanted.specs[0].launcher.pool))
    elif wanted.specs[0].launcher.kind == "slurm":
        _time_is_allowed(wanted)
    wanted = with_programs(with_images(wanted, say), say)
    if wanted.specs[0].launcher.kind == "slurm" and len(wanted.specs) > 1:
        with contextlib.suppress(CommandError):  # sbatch says better what is wrong
            wanted = dataclasses.replace(wanted, max_array=scheduler.max_array_size())
    run, plans = freeze(wanted, folder_of(wanted.specs[0].site.runs_dir), job)
    index.remember(run)
    _say_what_stays(wanted, run, say)
    for hint in not_installed(wanted):
        say(hint)
    with locked(run.change_lock):
        submit_members(run, plans, range(plans[0].members))
    return run, plans[0]


def _say_what_stays(wanted: Launch, run: Run, say: Say) -> None:
    """Files of the project that a program of the user's may look for, and that are not in its snapshot."""
    jobs = [pool.job or spec.job for spec in wanted.shapes for pool in spec.pools]
    if all(job.kind == "trainer" or job.source is not None for job in jobs):
        return
    large, other = read_json(run.provenance)["files_left_out"], snapshot.beside(wanted.cwd)
    if large:
        say(
            f"not copied with the job, larger than {snapshot.MAX_FILE_MB} MB: {_some(large)}; name it by its whole path"
        )
    if other:
        what = "outside a git repository only Python files, scripts and YAML are copied with the job, not"
        say(f"{what} {_some(other)}; name it by its whole path, or: git init")


def not_installed(wanted: Launch) -> Iterator[str]:
    """What to say of requirements that stand beside a script, and that nobody asked to install."""
    jobs = (pool.job or spec.job for spec in wanted.shapes for pool in spec.pools)
    scripts = dict.fromkeys(job.script for job in jobs if job.kind == "script" and job.requirements is None)
    for name in dict.fromkeys(requirements.beside(script, wanted.cwd) for script in scripts if script):
        if name is not None:
            yield f"{name} is there and not installed; job.requirements={name} installs it"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN_FILES]) + (f" and {len(names) - SHOWN_FILES} more" * (len(names) > SHOWN_FILES))


def _time_is_allowed(wanted: Launch) -> None:
    """Raises SpecError where a job would wait for ever, as its partition never allows it so much time."""
    with contextlib.suppress(CommandError):  # sbatch says better what is wrong
        if problems := list(time_limits.too_long(wanted.shapes)):
            raise SpecError(problems)


def _secrets_are_known(wanted: Launch) -> None:
    """Before anything is built or frozen. Raises SpecError or SiteError; a value is not looked at longer than that."""
    variables = {name: s.env for spec in wanted.shapes for name, s in spec.secrets.items() if s.env}
    kept.must_be_known(variables)
    for spec in wanted.shapes:
        for name, secret in spec.secrets.items():
            value_of(name, secret, {n: os.environ[v] for n, v in variables.items()})


def _place(wanted: Launch, say: Say) -> Place:
    """Where a search begins; or where it goes on, and then what it still owes is queued."""
    from launchers.search import resume  # with what reads a study, which other launches do without

    spec = wanted.specs[0]
    place = resume.place_of(spec, folder_of(spec.site.runs_dir))
    if place.known is None:
        for each in wanted.earlier:
            say(f"{place.job} begins with {each}")
        return place
    members = resume.go_on(place.known, spec)
    say(f"{place.job} was launched before and goes on with the code of then: {len(members)} member(s) queued")
    if not resume.begun_as(place.known, spec):
        say("its sweep.warm_start was another when it was launched: it keeps what it began with")
    return place


def _one_place(specs: Sequence[schema.Spec]) -> None:
    """Members of one launch may ask for other machines, but not for another cluster or tracking store."""
    for name in ("name", "launcher", "site", "tracking"):
        own = getattr(specs[0], name)
        if any(getattr(spec, name) is not own and getattr(spec, name) != own for spec in specs):
            what = f"{name} differs between the members of one launch"
            raise SpecError([Problem(what, f"the swept {name}", "launch them separately, one command for each")])
