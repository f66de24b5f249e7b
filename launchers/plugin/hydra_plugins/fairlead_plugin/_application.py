"""How this application was started, so that it can be started again: script or module, options, Hydra's overrides."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

OURS = (
    "hydra.launcher",
    "hydra/launcher",
    "hydra.sweeper",
    "hydra/sweeper",
    "hydra.mode",
    "hydra.run",
    "hydra.sweep.dir",
)
"""Keys of Hydra's that say how and where jobs are run, which a member need not know."""


def started(config: DictConfig) -> dict[str, Any]:
    """For launchers/hydra_app/application.py."""
    here = Path(config.hydra.runtime.cwd)
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    module = spec.name.removesuffix(".__main__") if spec is not None and spec.name != "__main__" else None
    return {
        "name": str(config.hydra.job.name),
        "script": None if module else str(here / sys.argv[0]),
        "module": module,
        "options": _options(here),
        "typed": [Path(sys.executable).name, *sys.argv],
    }


def hydra_overrides(config: DictConfig) -> list[str]:
    """What the command line says of Hydra itself, for members to be told as well."""
    said: Any = OmegaConf.to_container(config.hydra.overrides.hydra)  # not resolved: that is the member's
    return [text for text in said if not _is_ours(text.lstrip("+~").partition("=")[0])]


def _is_ours(key: str) -> bool:
    return any(key == own or key.startswith(f"{own}.") for own in OURS)


def _options(here: Path) -> list[str]:
    """--config-path, --config-name and --config-dir as they were given; what is below `here` is in the snapshot."""
    parser = argparse.ArgumentParser(add_help=False)
    for short, name in (("-cp", "--config-path"), ("-cn", "--config-name"), ("-cd", "--config-dir")):
        parser.add_argument(short, name)
    given = vars(parser.parse_known_args(sys.argv[1:])[0])
    if given["config_dir"] and Path(given["config_dir"]).absolute().is_relative_to(here):
        given["config_dir"] = os.path.relpath(given["config_dir"], here)
    return [f"--{name.replace('_', '-')}={value}" for name, value in given.items() if value is not None]
