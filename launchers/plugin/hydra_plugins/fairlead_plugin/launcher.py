"""The launcher `fairlead`: the jobs of a sweep become the members of one Fairlead job.

It returns when they have ended, with what each returned; with `detach` it leaves the process instead, since
nobody may say of work that is only queued that it is done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.plugins.launcher import Launcher

if TYPE_CHECKING:
    from hydra.core.utils import JobReturn
    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig


class FairleadLauncher(Launcher):
    """Hydra gives it what stands in settings.py."""

    config: DictConfig

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Raises for a search that another sweeper would take for a mistake."""
        from . import _refused, _submitit

        self.config = config
        _submitit.refuse(self.settings)
        _refused.interval_without_our_sweeper(config)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """One array of all jobs; returns how each ended, in their order."""
        from . import _returns

        end = self._ask(jobs=[list(job) for job in job_overrides], first=initial_job_idx)
        return _returns.of(end["members"], [list(job) for job in job_overrides])

    def search(self, fixed: Sequence[str], search: Mapping[str, Any]) -> tuple[Sequence[JobReturn], Mapping[str, Any]]:
        """A search; returns how each trial ended, and what it found."""
        from . import _returns

        end = self._ask(fixed=list(fixed), search=dict(search))
        members = [member for member in end["members"] if member["state"] != "SKIPPED"]
        return _returns.of(members), end["search"] or {}

    def _ask(self, **wanted: Any) -> Mapping[str, Any]:
        """Queue and wait. Raises SystemExit when it is detached."""
        from hydra.core.utils import configure_log, setup_globals

        from . import _application, _fairlead

        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        sweep_dir = Path(str(self.config.hydra.sweep.dir)).absolute()
        sweep_dir.mkdir(parents=True, exist_ok=True)
        wanted["fixed"] = [*_application.hydra_overrides(self.config), *wanted.get("fixed", [])]
        asked = {
            **_application.started(self.config),
            **_fairlead.words(self.settings),
            "sweep_dir": str(sweep_dir),
            "detach": bool(self.settings["detach"]),
            **wanted,
        }
        end = _fairlead.ask(asked, Path(self.config.hydra.runtime.cwd))
        if end is None:
            raise SystemExit(0)
        return end
