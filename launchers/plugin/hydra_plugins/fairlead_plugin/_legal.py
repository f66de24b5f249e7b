"""Whether the application can be configured as the jobs ask, before anything is queued.

Hydra composes once for each choice of groups (0.1 s); each other value is then set in that composition, so
that its key must exist and its type fit. What this finds wrong, or cannot tell, Hydra itself composes whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

MOST_COMPOSITIONS = 200
"""Of jobs that each need their own, so many are looked at; the others find out when they run."""


class Legal:
    """Checks jobs of an application; what they share is looked at once."""

    def __init__(self, loader: Any, config: DictConfig) -> None:
        self._loader, self._config = loader, config
        self._parser = OverridesParser.create(config_loader=loader)
        self._bases: dict[tuple[str, ...], DictConfig] = {}
        self._seen: set[tuple[tuple[str, ...], str]] = set()
        self._count = 0
        self._parsed = cache(self._parser.parse_override)
        self._is_group = cache(self._has_options)

    def check(self, jobs: Sequence[Sequence[str]]) -> None:
        """Raises what Hydra raises for the first job that cannot be."""
        for job in jobs:
            leaves = [text for text in job if self._is_leaf(text)]
            chosen = tuple(text for text in job if not self._is_leaf(text))
            if chosen not in self._bases:
                if self._count >= MOST_COMPOSITIONS:
                    continue
                self._bases[chosen] = self._compose(job)
                self._seen.update((chosen, text) for text in leaves)
            fresh = [text for text in leaves if (chosen, text) not in self._seen]
            if not all(self._fits(self._bases[chosen], text) for text in fresh):
                self._compose(job)
            self._seen.update((chosen, text) for text in fresh)

    def _is_leaf(self, text: str) -> bool:
        """Whether an override only changes one value."""
        each: Override = self._parsed(text)
        return each.type == OverrideType.CHANGE and not each.package and not self._is_group(each.key_or_group)

    def _has_options(self, key: str) -> bool:
        return key.startswith("hydra") or bool(self._loader.get_group_options(key))

    def _fits(self, base: DictConfig, text: str) -> bool:
        each: Override = self._parsed(text)
        try:
            OmegaConf.update(base, each.key_or_group, each.value(), merge=True)
        except (OmegaConfBaseException, ValueError):
            return False
        return True

    def _compose(self, job: Sequence[str]) -> DictConfig:
        self._count += 1
        found: DictConfig = self._loader.load_sweep_config(self._config, list(job))
        return found
