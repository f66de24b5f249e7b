"""The image of a pool, made where it is not there, and not made for other cards than the pool has.

What a container says (container.accelerators) is believed, and compared in config/rules.py: many an image for cards
runs without one, too. Where it says nothing the image is asked: its registry before anything is pulled, else itself.
"""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from conf import machine_schema, schema
from launchers.apptainer import image_build, image_pull
from launchers.apptainer.image import BuiltImage
from launchers.apptainer.made_for import Cards, cards_of_sif
from launchers.apptainer.waiting import Progress
from launchers.errors import CommandError, Problem, SiteError, SpecError
from launchers.folders import RECIPES, folder_of


def ensure_suited(pool: schema.Pool, site: schema.Site, progress: Progress) -> BuiltImage:
    """As image_build.ensure_built. Raises SpecError, too, where the image is made for other cards."""
    box, images_dir = pool.container, folder_of(site.images_dir)
    if box.accelerators is None and str(box.image).startswith("docker://"):
        with contextlib.suppress(SiteError):  # which the pull tells of, with what the store has
            must_suit(pool, image_pull.announced(box, site, images_dir))
    built = image_build.ensure_built(box, site, RECIPES, images_dir, progress)
    file_must_suit(pool, site, built.path)
    return built


def file_must_suit(pool: schema.Pool, site: schema.Site, image: Path) -> None:
    """Raises SpecError where an image that is there is made for other cards; a host without Apptainer cannot say."""
    if pool.container.accelerators is None and shutil.which(site.apptainer) is not None:
        with contextlib.suppress(CommandError):  # whoever starts it tells what is wrong with it
            must_suit(pool, cards_of_sif(image, site.apptainer))


def must_suit(pool: schema.Pool, cards: Cards | None) -> None:
    """Raises SpecError where a pool whose container says nothing has other cards than these."""
    kind, box = pool.accelerator.kind, pool.container
    if box.accelerators is not None or cards is None or cards.kind == kind:
        return
    said = ", ".join(cards.said_by)
    what = f"accelerator.kind is {kind!r}, but this image is made for {cards.kind}: its environment has {said}"
    do = f"choose another image, or say that this one is built for it: container.accelerators=[{kind}]"
    if kind == "none":
        do = "choose an accelerator (accelerator=a100), or an image for CPUs; to try this one without a card:"
        do += " container.accelerators=[none]"
    number = f"pools.{pool.number}." if pool.number else ""
    raise SpecError([Problem(what, f"{number}container.{_named(box)}", do)])


def _named(box: machine_schema.Container) -> str:
    """The key that says which image it is, and its value."""
    for name in ("image", "dockerfile", "recipe"):
        if (value := getattr(box, name)) is not None:
            return f"{name}={value}"
    return "image"
