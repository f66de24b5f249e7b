"""What is refused before anything is queued, in three lines: what is wrong, where it was said, what to do."""

from __future__ import annotations

from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import CompactHydraException
from omegaconf import DictConfig, OmegaConf

BASIC = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"


def refusal(what: str, where: str, do: str) -> CompactHydraException:
    return CompactHydraException(f"{what}\n  where  {where}\n  do     {do}")


def interval_without_our_sweeper(config: DictConfig) -> None:
    """Hydra's own sweeper cannot enumerate an interval."""
    if config.hydra.sweeper._target_ != BASIC:
        return
    said: Any = OmegaConf.to_container(config.hydra.overrides.task)
    for each in OverridesParser.create().parse_overrides(said):
        if each.is_interval_sweep():
            what = f"{each.key_or_group} is an interval, which is searched, and Hydra's own sweeper makes grids"
            raise refusal(what, f"override {each.input_line}", "add hydra/sweeper=fairlead hydra.sweeper.trials=20")


def search_without_our_launcher(launcher: Any) -> None:
    """Another launcher needs to know all points beforehand."""
    if not hasattr(launcher, "search"):
        what = f"a search needs the launcher fairlead (members ask for their points); this is {type(launcher).__name__}"
        raise refusal(
            what, "hydra/launcher", "add hydra/launcher=fairlead (with hydra.launcher.launcher=local for here)"
        )
