"""Which image file a run uses: a store of SIFs named by what they are built from, or by the digest they were pulled by.

    images/<recipe>-<key>.sif         there only when it is complete; never written again
    images/<recipe>-<key>.sif.json    its digest and origin; written before the image gets its name
    images/<recipe>-<key>.sif.log     what the build said
    images/<recipe>-<key>.sif.lock    held by the one who builds or pulls

The key is a hash over the recipe, its lock and the site's base, so a change of any of them is another image.
Building is image_build.py's, pulling image_pull.py's, digests are sif.py's, and how an image is run is container.py's.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conf import machine_schema, schema
from launchers.apptainer import dockerfile
from launchers.errors import Problem, SpecError
from launchers.run_folder import record
from sweeps.names import nearest


@dataclass(frozen=True)
class BuiltImage:
    """An image file and the sha256 of its bytes."""

    path: Path
    digest: str
    source: str | None = None
    """The reference, by digest, that it was pulled by."""
    workdir: str | None = None
    """Where its entry point starts, as far as a registry said so."""


@dataclass(frozen=True)
class Recipe:
    """containers/<name>.def and .lock, as they were read."""

    name: str
    definition: Path
    text: str
    lock: Path
    lock_text: str
    context: Path | None = None
    """Of a Dockerfile: the folder its definition's paths are relative to."""


def recipe_of(container: machine_schema.Container, recipes_dir: Path) -> Recipe:
    """What a container without an image is built from. Raises SpecError when that is not there, or cannot be read."""
    if container.dockerfile is None:
        return read_recipe(str(container.recipe), recipes_dir)
    path = Path(container.dockerfile).expanduser().absolute()
    try:
        made = dockerfile.definition_of(path.read_text(encoding="utf-8"), str(path))
        copied = "".join(f"{name} {dockerfile.content_of(path.parent / name)}\n" for name in made.files)
    except (OSError, UnicodeDecodeError) as e:
        what = f"{getattr(e, 'filename', None) or path} cannot be read: {getattr(e, 'strerror', None) or e}"
        raise SpecError(
            [Problem(what, "container.dockerfile", "give the path of a Dockerfile with what it copies")]
        ) from None
    stem = re.sub(r"[^A-Za-z0-9_-]", "-", path.parent.name if path.name == "Dockerfile" else path.stem)
    return Recipe(stem or "image", path, made.text(), path, copied, path.parent)


def recipes(recipes_dir: Path) -> list[str]:
    """Names of all recipes."""
    return sorted(p.stem for p in recipes_dir.glob("*.def"))


def read_recipe(name: str, recipes_dir: Path) -> Recipe:
    """Read a recipe and its lock (empty where there is none). Raises SpecError when there is no such recipe."""
    definition, lock = recipes_dir / f"{name}.def", recipes_dir / f"{name}.lock"
    if not definition.is_file():
        do = nearest(name, recipes(recipes_dir))
        raise SpecError([Problem(f"there is no recipe {name!r} in {recipes_dir}", "container.recipe", do)])
    lock_text = lock.read_text(encoding="utf-8") if lock.is_file() else ""
    return Recipe(name, definition, definition.read_text(encoding="utf-8"), lock, lock_text)


def image_key(recipe_text: str, lock_text: str, build: schema.ImageBuild) -> str:
    """Hash everything an image is made from. (A base's own content is not read: name another base for another.)"""
    parts = [recipe_text, lock_text, build.bootstrap, build.base, list(build.options)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def image_path(recipe: Recipe, build: schema.ImageBuild, images_dir: Path) -> Path:
    """Where the image of a recipe lies, built or not."""
    return images_dir.absolute() / f"{recipe.name}-{image_key(recipe.text, recipe.lock_text, build)[:12]}.sif"


def list_images(images_dir: Path) -> list[dict[str, Any]]:
    """Every image in the store, by name: name, path, recipe, digest, size (bytes), built, key, base and so on.

    Of an image that was not built here recipe and digest are None.
    """
    unknown = {"recipe": None, "digest": None}
    return [
        {"name": image.name, "path": str(image), "size": image.stat().st_size, **unknown, **known_of(image)}
        for image in sorted(images_dir.absolute().glob("*.sif"))
    ]


def record_of(image: Path) -> Path:
    """Where the digest and the origin of an image are written."""
    return image.with_name(f"{image.name}.json")


def known_of(image: Path) -> dict[str, Any]:
    """What its build wrote down; empty for an image that was not built here."""
    known = record.read_json(record_of(image))
    return known if isinstance(known, dict) else {}


def stored(images_dir: Path, digest: str, architecture: str) -> Path | None:
    """The pulled image of a manifest's digest, for these processors, if the store has it."""
    for path in sorted(images_dir.absolute().glob("*.sif")):
        known = known_of(path)
        if digest in known.get("digests", ()) and known.get("architecture") == architecture:
            return path
    return None
