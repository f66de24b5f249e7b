"""Write a run folder: spec, plan, members, provenance, code and scripts, all before anything is submitted.

Everything is written into a folder beside and renamed into place, so a run folder is whole or not there.
After this step nothing in it but the journal, members and results changes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conf import schema
from conf.document import to_document
from launchers import exported
from launchers.errors import SiteError
from launchers.folders import folder_of
from launchers.parts import MAX_ARRAY_SIZE, parts
from launchers.plan import Plan, apart, plans_document
from launchers.planning import Facts, plan_of
from launchers.queue import slurm
from launchers.run_folder import kept, provenance, snapshot
from launchers.run_folder.fingerprint import fingerprint_of
from launchers.run_folder.record import Run, late_row, make_private, write_json, write_text
from sweeps.grid import point_id

if TYPE_CHECKING:
    from launchers.apptainer.image import BuiltImage
    from launchers.programs.words import Installed
    from launchers.search.warm_start import Earlier

STALE_S = 24 * 3600
SHAPES = ("pools", "job", "launcher", "site", "secrets")
"""Sections that decide what is asked of Slurm and what is started there."""


@dataclass(frozen=True, kw_only=True)
class Launch:
    """What a command line asked for, checked."""

    specs: tuple[schema.Spec, ...]
    points: tuple[Mapping[str, Any], ...]
    command: tuple[str, ...]
    cwd: Path
    python: str
    templates: tuple[Mapping[str, Any], ...] = ()
    """Of a search: what its points are put into when members start."""
    earlier: tuple[Earlier, ...] = ()
    """Of a search: what it begins with."""
    images: tuple[tuple[BuiltImage | None, ...], ...] = ()
    """Of each shape one for each pool; none yet while it is only planned."""
    installed: tuple[tuple[Installed | None, ...], ...] = ()
    """Likewise: what its source became."""
    max_array: int = MAX_ARRAY_SIZE

    @functools.cached_property
    def shapes(self) -> tuple[schema.Spec, ...]:
        """A member for each kind of allocation and program that the members ask for, in order of the first."""
        return tuple(self.specs[self.shape_of.index(i)] for i in range(max(self.shape_of) + 1))

    @functools.cached_property
    def shape_of(self) -> tuple[int, ...]:
        """Each member's shape. Members share the sections that no swept value touches, so most are the same object."""
        by_id: dict[tuple[int, ...], int] = {}
        by_text: dict[str, int] = {}
        found = []
        for spec in self.specs:
            key = tuple(id(getattr(spec, name)) for name in (*SHAPES, "data", "train"))
            if key not in by_id:
                documents = [to_document(getattr(spec, name)) for name in SHAPES]
                text = json.dumps([*documents, _mounted(spec), to_document(exported.of(spec))], sort_keys=True)
                by_id[key] = by_text.setdefault(text, len(by_text))
            found.append(by_id[key])
        return tuple(found)


def _mounted(spec: schema.Spec) -> object:
    """What a container sees of the data, and of weights to begin with."""
    boxed = any(pool.container.runtime == "apptainer" for pool in spec.pools)
    return [spec.data.options.get("path"), spec.train.start_from] if boxed else None


def new_job_id(name: str) -> str:
    """`name-20261120-201512-3fa9`: sorts by time, unique without asking anybody."""
    slug = re.sub(r"[^A-Za-z0-9._-]", "-", name)
    return f"{slug}-{datetime.datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def plans_for(launch: Launch, run: Run) -> tuple[Plan, ...]:
    """The plans of a launch in a run folder that need not exist: one for each shape."""
    shapes = _shapes_with_images(launch) if launch.images else launch.shapes
    installed = launch.installed or ((),) * len(launch.shapes)
    below = (
        snapshot.below(launch.cwd) if any(schema.chiefs_job(spec).kind != "trainer" for spec in launch.shapes) else ""
    )
    return tuple(
        plan_of(
            spec,
            Facts(
                job=run.id,
                run_dir=run.path,
                python=launch.python,
                members=len(launch.specs),
                shape=i,
                max_array=launch.max_array,
                user=os.getuid(),
                below=below,
                installed=programs,
                kept=str(kept.file_of(run.id)),
            ),
        )
        for i, (spec, programs) in enumerate(zip(shapes, installed, strict=True))
    )


def freeze(launch: Launch, runs_dir: Path, job: str | None = None) -> tuple[Run, tuple[Plan, ...]]:
    """A new, whole run folder, private to the user; `job` is its id if it has one before.

    Raises SiteError when it cannot be written; then nothing is left behind.
    """
    launch = _with_digests(launch)
    try:
        make_private(runs_dir)
        _sweep_out(runs_dir)
        run = Run(runs_dir / (job or new_job_id(launch.specs[0].name)))
        aside = Run(runs_dir / f".{run.id}.new")
        plans = plans_for(launch, run)
        try:
            _write(aside, launch, plans)
            aside.path.rename(run.path)
        except BaseException:
            shutil.rmtree(aside.path, ignore_errors=True)
            raise
    except OSError as e:
        do = "free space, or choose another place with site.runs_dir=DIR"
        raise SiteError(f"the run folder cannot be written: {_reason(e)}", where=str(runs_dir), do=do) from None
    return run, plans


def _with_digests(launch: Launch) -> Launch:
    """The launch with the image of each shape in its members' specs, so that the document says what ran."""
    if not any(image for images in launch.images for image in images):
        return launch
    shapes = _shapes_with_images(launch)
    specs = (
        dataclasses.replace(spec, pools=shapes[s].pools) for spec, s in zip(launch.specs, launch.shape_of, strict=True)
    )
    return dataclasses.replace(launch, specs=tuple(specs))


def _shapes_with_images(launch: Launch) -> list[schema.Spec]:
    return [
        dataclasses.replace(spec, pools=tuple(map(_with_image, spec.pools, images)))
        for spec, images in zip(launch.shapes, launch.images, strict=True)
    ]


def _with_image(pool: schema.Pool, image: BuiltImage | None) -> schema.Pool:
    if image is None:
        return pool
    path, digest = str(image.path), image.digest or pool.container.digest
    box = dataclasses.replace(pool.container, image=path, digest=digest, source=image.source)
    return dataclasses.replace(pool, container=dataclasses.replace(box, workdir=box.workdir or image.workdir))


def _reason(error: OSError) -> str:
    """In a few words; copying a tree raises an error that holds one for each file."""
    if isinstance(error, shutil.Error) and error.args and isinstance(error.args[0], list):
        _, target, why = error.args[0][0]
        return f"{why} ({Path(target).name}, and {len(error.args[0]) - 1} more)"
    return error.strerror or str(error)


def member_rows(launch: Launch) -> list[dict[str, Any]]:
    """members.jsonl: each member's point, and the sections in which its spec differs from the first's."""
    first = launch.specs[0]
    names = [f.name for f in dataclasses.fields(schema.Spec)]
    rows = []
    for i, (spec, point) in enumerate(zip(launch.specs, launch.points, strict=True)):
        other = [n for n in names if getattr(spec, n) is not getattr(first, n)]
        sections = {n: to_document(getattr(spec, n)) for n in other if getattr(spec, n) != getattr(first, n)}
        row: dict[str, Any] = {"index": i, "id": point_id(point), "point": dict(point), "sections": sections}
        if launch.templates:
            row = late_row(i)
        rows.append(row | ({"shape": launch.shape_of[i]} if launch.shape_of[i] else {}))
    return rows


def _installed(plans: Sequence[Plan]) -> list[dict[str, Any]]:
    """What was installed, and for which pools."""
    pools: dict[Installed, set[str]] = {}
    for pool in (pool for plan in plans for pool in plan.pools):
        if pool.installed is not None:
            pools.setdefault(pool.installed, set()).add(pool.name)
    return [{**to_document(each), "pools": sorted(names)} for each, names in pools.items()]


def _write(aside: Run, launch: Launch, plans: Sequence[Plan]) -> None:
    plan = plans[0]
    aside.path.mkdir(mode=0o700)
    make_private(aside.path / "members")
    make_private(aside.logs)
    site = launch.specs[0].site
    outputs = [aside.path.parent, folder_of(site.images_dir)]
    taken = snapshot.take(aside.code, launch.cwd, outputs)
    document = to_document(launch.specs[0])
    origin = provenance.gather(launch.command, launch.cwd, taken)
    origin["spec_digest"] = provenance.digest_of(document)
    origin["seed"] = launch.specs[0].seed
    origin["data"] = fingerprint_of(launch.specs[0].data)
    origin["slurm"] = provenance.slurm_version() if plan.launcher == "slurm" else None
    boxes = [p.pools[0].container for p in plans]
    origin["installed"] = _installed(plans)
    source = launch.specs[0].pools[0].container.source
    origin["image"] = {"path": boxes[0].image, "digest": boxes[0].digest, "source": source} if boxes[0] else None
    write_json(aside.spec, document)
    write_json(aside.plan, plans_document(plans))
    write_json(aside.provenance, origin)
    write_text(aside.members_file, _lines(member_rows(launch)))
    if launch.templates:
        study = make_private(aside.path / "study")
        write_json(study / "templates.json", list(launch.templates))
        if launch.earlier:
            write_text(study / "extra.jsonl", _lines(row for each in launch.earlier for row in each.rows()))
    if plan.launcher == "slurm":
        for name, text in scripts(launch, plans).items():
            write_text(aside.path / name, text)
        write_text(aside.path / "finish.sbatch", slurm.finish_script(plan, f"{plan.job}.finish"))


def _lines(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def scripts(launch: Launch, plans: Sequence[Plan]) -> dict[str, str]:
    """The batch scripts of a job by file name: one for each array that its members need."""
    plan, shapes = plans[0], {i: s for i, s in enumerate(launch.shape_of) if s}
    cut = parts(range(plan.members), shapes, plan.per_allocation, plan.max_array, apart(plans))
    names = ["job.sbatch", *(f"job-{i}.sbatch" for i in range(1, len(cut)))]
    return {n: slurm.member_script(plans[p.shape], p, plan.job) for n, p in zip(names, cut, strict=True)}


def _sweep_out(runs_dir: Path) -> None:
    """Remove what a launch that was killed while freezing left, once it is surely nobody's any more."""
    for path in runs_dir.glob(".*.new"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > STALE_S:
                shutil.rmtree(path, ignore_errors=True)
