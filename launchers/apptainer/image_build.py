"""Images that are built from a recipe where they are not there yet: once, however many ask, and whole or not at all.

Which file an image has is image.py's, whether a file is one sif.py's, and that one alone makes it making.py's.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

from conf import machine_schema, schema
from launchers.apptainer import image_pull, sif, signature, waiting
from launchers.apptainer.image import BuiltImage, Recipe, image_key, image_path, known_of, recipe_of
from launchers.apptainer.making import Bench, make_once, publish, run_logged
from launchers.apptainer.waiting import Progress
from launchers.command import output_of
from launchers.errors import SiteError
from launchers.folders import folder_of

PYTHON = "3.11"
"""Python of the images; the host's own may be another."""
GLIBC_MINOR = 28
"""Wheels for glibc 2.28 and older are taken: every base we name has a newer one."""


def ensure_built(
    container: machine_schema.Container,
    site: schema.Site,
    recipes_dir: Path,
    images_dir: Path,
    progress: Progress = lambda _: None,
) -> BuiltImage:
    """Give the container's image and its digest, and build it first where it is not there.

    However many ask at once, on whatever hosts, one builds and the others wait. A caller killed at any
    moment leaves nothing that the next one would take for an image.

    Raises SiteError when the image is missing, is no SIF, cannot be built or pulled, is not what its digest says or
    is not signed where the site asks for that; SpecError when there is no such recipe.
    """
    if container.image is not None and "://" in container.image:
        return image_pull.ensure_pulled(container, site, images_dir, progress)
    if container.image is not None:
        image = Path(container.image).expanduser().absolute()
    elif container.recipe is not None or container.dockerfile is not None:
        recipe = recipe_of(container, recipes_dir)
        image = image_path(recipe, site.image_build, images_dir)
        if not image.exists():
            make_once(image, progress, lambda bench: _build(recipe, image, site, bench, progress))
    else:
        raise SiteError("the container names neither an image nor a recipe", "container", "set one of the two")
    sif.verify(image, container.digest or known_of(image).get("digest"), container.architecture)
    if container.image is not None:
        signature.verify(image, site)
    return BuiltImage(image, sif.digest_of(image))


def _build(recipe: Recipe, image: Path, site: schema.Site, bench: Bench, progress: Progress) -> None:
    do = "set site.apptainer, or load the module that brings it; or build elsewhere and set container.image"
    version = output_of([site.apptainer, "--version"], do=do).strip()
    wheels = bench.work / "wheels"
    wheels.mkdir()
    if recipe.lock_text and recipe.context is None and _asks_for("WHEELS", recipe.text):
        _download(recipe, wheels, bench, progress)
    progress(f"building {image.name} (log: {bench.log})")
    made, build = bench.work / "image.sif", site.image_build
    base = str(Path(build.base).expanduser().absolute()) if build.bootstrap == "localimage" else build.base
    used = _build_arguments(recipe.text, {"BOOTSTRAP": build.bootstrap, "BASE": base, "WHEELS": str(wheels)})
    private = ["--authfile", str(folder_of(site.registry_auth))] if site.registry_auth else []
    definition = recipe.definition
    if recipe.context is not None:
        definition = bench.work / "image.def"
        definition.write_text(recipe.text, encoding="utf-8")
    plain = _plain_http(recipe, site)
    argv = [site.apptainer, "build", *private, *plain, *build.options, *used, str(made), str(definition)]
    run_logged(argv, bench, recipe.definition.parent, waiting.lines_come(bench.log, progress))
    sif.check(made)
    progress(f"computing the digest of {image.name}")
    key = image_key(recipe.text, recipe.lock_text, build)
    origin = {"recipe": recipe.name, "key": key, "bootstrap": build.bootstrap, "base": build.base}
    if recipe.context is not None:
        origin |= {"bootstrap": "docker", "base": recipe.text.partition("From: ")[2].partition("\n")[0]}
    publish(made, image, bench, {**origin, "apptainer": version})


def _download(recipe: Recipe, wheels: Path, bench: Bench, progress: Progress) -> None:
    """All that the lock names; of one that was broken off, pip's cache has the wheels that had come."""
    number = len(re.findall(r"^\S+==", recipe.lock_text, re.MULTILINE))
    progress(f"downloading the {number} wheels of {recipe.lock.name} (log: {bench.log})")
    argv = [*_download_argv(recipe.lock, wheels), "--cache-dir", str(bench.fetched / "pip")]
    do = f"pip has to find all of {recipe.lock}, or build elsewhere and set container.image"
    run_logged(argv, bench, wheels, waiting.lines_come(bench.log, progress), do)
    shutil.copyfile(recipe.lock, wheels / "requirements.lock")


def _plain_http(recipe: Recipe, site: schema.Site) -> list[str]:
    """For a Dockerfile whose FROM names a registry that speaks plain HTTP."""
    base = re.search(r"^From: ([^/\s]+)/", recipe.text, re.MULTILINE)
    return ["--no-https"] if recipe.context and base and base[1] in site.registry_http else []


def _download_argv(lock: Path, wheels: Path) -> list[str]:
    """pip takes what the image's Python can use, not the host's, and only with the hashes of the lock; which names all
    there is. What has no wheel comes as its source, which a recipe may build or refuse."""
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in range(GLIBC_MINOR, 4, -1)]
    platforms += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"]
    pip = [sys.executable, "-m", "pip", "download", "--no-input", "--disable-pip-version-check"]
    pip += ["--progress-bar", "off"]  # in a log
    target = ["--python-version", PYTHON, "--implementation", "cp", "--abi", f"cp{PYTHON.replace('.', '')}"]
    target += [word for platform in platforms for word in ("--platform", platform)]
    target += ["--no-deps"]
    return [*pip, *target, "--require-hashes", "--requirement", str(lock), "--dest", str(wheels)]


def _build_arguments(text: str, values: dict[str, str]) -> list[str]:
    """`--build-arg` for each value that the recipe uses: Apptainer refuses others, and reads each as a line of CSV."""
    used = [f"{name}={value}" for name, value in values.items() if _asks_for(name, text)]
    return [word for pair in used for word in ("--build-arg", '"' + pair.replace('"', '""') + '"')]


def _asks_for(name: str, text: str) -> bool:
    """Whether a recipe uses a value; a lock of one that takes no wheels names what its own build fetches."""
    return re.search(rf"{{{{\s*{name}\s*}}}}", text) is not None
