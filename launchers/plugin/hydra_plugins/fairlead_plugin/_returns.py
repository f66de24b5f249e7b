"""What Hydra wants to know of a job that has ended, from what Fairlead says of a member."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import CompactHydraException
from omegaconf import DictConfig, OmegaConf

DONE = ("SUCCEEDED", "PRUNED")


def of(members: Sequence[Mapping[str, Any]], overrides: Sequence[Sequence[str]] | None = None) -> list[JobReturn]:
    """A JobReturn of each member, in order. One that did not succeed raises when its value is asked for."""
    found = []
    for position, member in enumerate(members):
        said: Mapping[str, Any] = member["returned"] or {}
        each = JobReturn(
            overrides=overrides[position] if overrides is not None else said.get("overrides"),
            cfg=_config(said, "config.yaml"),
            hydra_cfg=_config(said, "hydra.yaml"),
            working_dir=said.get("working_dir"),
            task_name=said.get("task_name"),
        )
        if member["state"] in DONE:
            each.status, each.return_value = JobStatus.COMPLETED, _value(said)
        else:
            each.status, each.return_value = JobStatus.FAILED, _failure(member)
        found.append(each)
    return found


def _value(said: Mapping[str, Any]) -> Any:
    return tuple(said["value"]) if said.get("is_tuple") else said.get("value")


def _failure(member: Mapping[str, Any]) -> CompactHydraException:
    head = f"job {member['number']} is {member['state']}: {member['message']}"
    return CompactHydraException("\n".join([head, *(f"    {line}" for line in member["last_lines"])]))


def _config(said: Mapping[str, Any], name: str) -> DictConfig | None:
    """The configuration that the member itself wrote down; None where it wrote none."""
    path = Path(said.get("config_dir") or "/nowhere") / name
    if not path.exists():
        return None
    found = OmegaConf.load(path)
    assert isinstance(found, DictConfig)
    return OmegaConf.create({"hydra": found.hydra}) if name == "hydra.yaml" else found
