"""The sweeper `fairlead`: a grid of Hydra's grammar in one launch, or a search whose members ask for their points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.plugins.sweeper import Sweeper

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override
    from hydra.core.utils import JobReturn
    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig


class FairleadSweeper(Sweeper):
    """Hydra gives it what stands in settings.py."""

    config: DictConfig
    hydra_context: HydraContext

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from hydra.core.plugins import Plugins

        self.config, self.hydra_context = config, hydra_context
        self.launcher: Any = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Run every point. Raises for the first job that failed, or a search that found nothing."""
        from hydra.core.override_parser.overrides_parser import OverridesParser

        from . import _legal, _points

        own = [f"{key}={value}" for key, value in (self.settings["params"] or {}).items()]
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        given = _points.last_of_each(parser.parse_overrides([*own, *arguments]))
        self._write_down()
        legal = _legal.Legal(self.hydra_context.config_loader, self.config)
        if self._is_search(given):
            return self._search(given, legal)
        jobs = _points.product(given)
        legal.check(jobs)
        returns = self.launcher.launch(jobs, initial_job_idx=0)
        for each in returns:
            _ = each.return_value  # raises what the job failed of
        return [returns]

    def _is_search(self, given: Sequence[Override]) -> bool:
        asked = any(self.settings[name] is not None for name in ("sweep", "trials", "algorithm"))
        return asked or any(each.is_interval_sweep() for each in given)

    def _search(self, given: Sequence[Override], legal: Any) -> Sequence[Sequence[JobReturn]]:
        from . import _points, _refused, _results

        _refused.search_without_our_launcher(self.launcher)
        search = self._described(given)
        fixed = [str(each.input_line) for each in given if not each.is_sweep_override()]
        legal.check(_points.corners(given, search["sweep"], fixed))
        returns, found = self.launcher.search(fixed, search)
        _results.write(found, Path(str(self.config.hydra.sweep.dir)))
        return [returns]

    def _described(self, given: Sequence[Override]) -> Mapping[str, Any]:
        """The search as launchers/hydra_app/application_space.py reads it."""
        from omegaconf import OmegaConf

        from . import _points

        plain = {k: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for k, v in self.settings.items()}
        goal = plain["goal"]
        return {
            "sweep": plain["sweep"],
            "trials": plain["trials"],
            "algorithm": plain["algorithm"],
            "goals": [] if goal is None else [goal] if isinstance(goal, str) else list(goal),
            "swept": [_points.listed(each) for each in given if each.is_sweep_override()],
        }

    def _write_down(self) -> None:
        from omegaconf import OmegaConf

        folder = Path(str(self.config.hydra.sweep.dir))
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
