"""What a search found, for people and for scripts: optimization_results.yaml in the folder of the sweep."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.errors import CompactHydraException
from omegaconf import OmegaConf


def write(found: Mapping[str, Any], folder: Path) -> None:
    """As Hydra's other sweepers write it. Raises where no trial has a value."""
    best = found.get("best")
    if best is None:
        raise CompactHydraException(f"the search has found nothing: {found.get('over') or 'no trial has a value'}")
    values = best["values"]
    value: Any = next(iter(values.values())) if len(values) == 1 else dict(values)
    document = {
        "name": "fairlead",
        "best_trial": best["trial"],
        "best_evaluated_params": best["point"],
        "best_evaluated_result": value,
        **({"pareto_trials": found["pareto"]} if found.get("pareto") else {}),
    }
    OmegaConf.save(OmegaConf.create(document), folder / "optimization_results.yaml")
    shown = ", ".join(f"{key}={each}" for key, each in best["point"].items())
    print(f"best: trial {best['trial']}: {shown}: {', '.join(f'{k} {v:.6g}' for k, v in values.items())}", flush=True)
