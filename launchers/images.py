"""The verb `image`: build, pull, list, verify or prune the images of container options. How is apptainer/'s."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from conf import machine_schema, reference, schema
from launchers.apptainer import image, image_build, image_pull, pruning, sif, signature
from launchers.errors import Problem, SiteError, SpecError
from launchers.folders import RECIPES, ROOT, folder_of
from launchers.launch import Request, checked, image_of
from launchers.run_folder import index
from launchers.run_folder.record import read_json
from sweeps.names import nearest

Rows = list[dict[str, Any]]
Say = Callable[[str], None]


def act(action: str, name: str | None, request: Request, say: Say) -> Rows:
    """What there is after the action, a row for each image; none where a list is empty.

    A `name` with = in it is an override that was typed before it, or without one.
    Raises SpecError when `name` is no container option, no recipe (list) or has no image, SiteError when
    building, pulling or verifying fails.
    """
    if name is not None and "=" in name:
        words = (name, *request.overrides)
        name = next((word for word in words if "=" not in word and not word.startswith("~")), None)
        request = dataclasses.replace(request, overrides=tuple(word for word in words if word != name))
    if action == "list":
        return _listed(name, request)
    if name is None:
        raise SpecError(
            [Problem(f"image {action} needs a name", "the command line", f"fairlead image {action} pytorch-cpu")]
        )
    spec = _spec_of(name, request)
    box = spec.pools[0].container
    if box.runtime == "none":
        what = f"container {name!r} has no image"
        raise SpecError([Problem(what, f"image {action} {name}", "name an option with runtime: apptainer")])
    if action == "verify":
        return _verified(spec)
    _must_suit(action, name, box)
    built = image_build.ensure_built(box, spec.site, RECIPES, folder_of(spec.site.images_dir), say)
    return [_row(built.path, built.digest)]


def prune(request: Request, really: bool) -> pruning.Pruned:
    """What no run of this user's index and no container option needs; it is removed if `really`."""
    site = checked(request).specs[0].site
    folder = folder_of(site.images_dir)
    needed = {**_of_options(folder, site, request.config_dirs), **_of_runs()}
    return pruning.prune(folder, needed, really=really)


def _spec_of(name: str, request: Request) -> schema.Spec:
    """The spec with a container option, a reference or a Dockerfile, whatever accelerators the image is for."""
    kinds = "container.accelerators=[none,cuda,rocm]"
    quoted = "'" + name.replace("\\", "\\\\").replace("'", "\\'") + "'"
    if "://" in name or Path(name).is_file():
        key = "image" if "://" in name else "dockerfile"
        chosen = (*request.overrides, f"container.{key}={quoted}", "container.runtime=apptainer", kinds)
    else:
        chosen = (f"container={name}", *request.overrides, kinds)
    return checked(dataclasses.replace(request, overrides=chosen)).specs[0]


def _must_suit(action: str, name: str, box: machine_schema.Container) -> None:
    """Built is what has a recipe, pulled what has a reference; an image given by its path is neither."""
    pulled = box.image is not None and "://" in box.image
    if action == "pull" and not pulled:
        do = f"fairlead image build {name}" if box.image is None else "fairlead image verify looks at it"
        raise SpecError([Problem(f"container {name!r} names no registry", f"image pull {name}", do)])
    if action == "build" and pulled:
        do = f"fairlead image pull {name}"
        raise SpecError([Problem(f"container {name!r} has no recipe, but an image", f"image build {name}", do)])


def _verified(spec: schema.Spec) -> Rows:
    """Every byte is read, and the signature checked where the site asks for one."""
    box, path = spec.pools[0].container, image_of(spec, spec.pools[0])
    if path is None:
        do = (
            "pull it (fairlead image pull); then name its digest in container.digest, as `fairlead image list` shows it"
        )
        raise SiteError(f"the store has no image of {box.image} by a digest that the YAML names", "container.image", do)
    known = image.known_of(path)
    pulled = known.get("source") is not None
    sif.verify(path, (None if pulled else box.digest) or known.get("digest"), box.architecture, fresh=True)
    if known.get("recipe") is None:
        signature.verify(path, spec.site)
    return [_row(path, sif.digest_of(path))]


def _listed(name: str | None, request: Request) -> Rows:
    rows = image.list_images(folder_of(checked(request).specs[0].site.images_dir))
    known = sorted({*image.recipes(RECIPES), *(_stem(row) for row in rows if _stem(row))})
    if name is not None and name not in known:
        raise SpecError([Problem(f"there is no recipe {name!r}", f"image list {name}", nearest(name, known))])
    return [row for row in rows if name is None or _stem(row) == name]


def _stem(row: dict[str, Any]) -> str:
    """The recipe of an image that was built, the last word of the name of one that was pulled."""
    return str(row["recipe"] or (reference.parse(row["reference"]).stem if "reference" in row else ""))


def _row(path: Path, digest: str) -> dict[str, Any]:
    known = (row for row in image.list_images(path.parent) if row["path"] == str(path))
    return {**next(known, {"name": path.name, "path": str(path), "recipe": None}), "digest": digest}


def _of_runs() -> dict[Path, str]:
    """Images that the plans of this user's runs name, and the run."""
    return {
        Path(box["image"]): run.id
        for run in index.all_runs()
        for plan in (read_json(run.plan) or {}).get("plans", ())
        for pool in plan["pools"]
        if (box := pool.get("container")) and box.get("image")
    }


def _of_options(store: Path, site: schema.Site, config_dirs: tuple[Path, ...]) -> dict[Path, str]:
    """Images of the store that container options name, and the option."""
    found = {}
    for folder in (ROOT / "conf", *config_dirs):
        for file in sorted(folder.glob("container/*.yaml")):
            document = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
            found.update(dict.fromkeys(_named(store, site, document), f"container={file.stem}"))
    return found


def _named(store: Path, site: schema.Site, option: dict[str, Any]) -> Iterator[Path]:
    """Of a tag that may move every image that it was: which it is now, only the registry knows."""
    name, recipe = str(option.get("image") or ""), option.get("recipe")
    if "://" in name:
        box = machine_schema.Container(runtime="apptainer", image=name, digest=option.get("digest"))
        ref, digest = image_pull.reference_of(box), image_pull.pinned(box)
        for path in store.glob("*.sif"):
            known = image.known_of(path)
            if digest in known.get("digests", ()) if digest else known.get("reference") == str(ref):
                yield path
    elif name:
        yield folder_of(name)
    elif option.get("dockerfile"):
        with contextlib.suppress(SpecError):  # relative to another folder, or gone: it names no image from here
            box = machine_schema.Container(runtime="apptainer", dockerfile=option["dockerfile"])
            yield image.image_path(image.recipe_of(box, RECIPES), site.image_build, store)
    elif recipe in image.recipes(RECIPES):
        yield image.image_path(image.read_recipe(str(recipe), RECIPES), site.image_build, store)
