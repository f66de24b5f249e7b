"""What a rank starts from that is its node's own: the words in front of its program, which start host/nearby.py for
copies on the node's disk, and host/devices.py for devices.

Pure, standard library only.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from conf import schema
from launchers.apptainer.container import ContainerPlan
from launchers.programs.words import Installed
from launchers.wrapped import Place


@dataclass(frozen=True, kw_only=True)
class Near:
    """Where copies lie on each node, and how large they may grow together."""

    folder: str
    """This user's alone."""
    most_gb: float | None
    """None is half of the disk."""


@dataclass(frozen=True, kw_only=True)
class Origins:
    """What is copied for the ranks of one pool."""

    container: ContainerPlan | None
    installed: Installed | None

    def documents(self) -> Iterator[dict[str, str]]:
        """Each that a digest vouches for."""
        if self.container and self.container.image and self.container.digest:
            yield {"kind": "image", "path": self.container.image, "digest": self.container.digest}
        if self.installed and self.installed.digest:
            yield {"kind": "layer", "path": self.installed.folder, "digest": self.installed.digest}


def of(site: schema.Site, user: int) -> Near | None:
    """None where everything is run from where it lies."""
    if not site.image_local:
        return None
    return Near(folder=f"{site.scratch_dir}/fairlead-copies-{user}", most_gb=site.local_gb)


def words(near: Near, place: Place, origins: Origins, begin: str) -> tuple[str, ...]:
    """In front of all others; `begin` is the event of the ledger that what comes after begins with. Empty where there
    is nothing to copy."""
    settings: dict[str, Any] = {
        "folder": near.folder,
        "most_gb": near.most_gb,
        "attempt": place.attempt_dir,
        "boxed": origins.container is not None,
        "begin": begin,
        "origins": list(origins.documents()),
    }
    file = f"{place.run_dir}/code/fairlead/launchers/host/nearby.py"
    return (place.python, "-IS", file, json.dumps(settings)) if settings["origins"] else ()


def device_words(box: ContainerPlan | None, place: Place) -> tuple[str, ...]:
    """Directly in front of the container's own, which become others by them: without -S, as specifications in YAML are
    read by the package that the host's Python has for it. Empty where no devices are asked for by CDI."""
    if box is None or not box.devices:
        return ()
    settings = {"devices": list(box.devices), "folders": list(box.cdi_dirs), "scratch": place.scratch}
    file = f"{place.run_dir}/code/fairlead/launchers/host/devices.py"
    return (place.python, "-I", file, json.dumps(settings))
