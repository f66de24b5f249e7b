"""What hydra-submitit-launcher called the keys below `hydra.launcher`, and what says the same here.

Whoever comes from it has them in YAML. They are refused, all at once, each with the line that takes its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hydra.errors import CompactHydraException

from ._refused import refusal

SAID_HERE = {
    "timeout_min": "add machine.time_limit_min={} to the list hydra.launcher.overrides",
    "nodes": "add machine.nodes={} to the list hydra.launcher.overrides",
    "tasks_per_node": "add machine.ranks_per_node={} to the list hydra.launcher.overrides",
    "cpus_per_task": "add machine.cpus_per_rank={} to the list hydra.launcher.overrides",
    "mem_gb": "add machine.mem_gb={} to the list hydra.launcher.overrides",
    "partition": "add machine.partition={} to the list hydra.launcher.overrides",
    "qos": "add machine.qos={} to the list hydra.launcher.overrides",
    "account": "add machine.account={} to the list hydra.launcher.overrides",
    "constraint": "add machine.constraint={} to the list hydra.launcher.overrides",
    "name": "add name={} to the list hydra.launcher.overrides",
    "comment": "leave it out: the comment holds the job's id, by which a lost submission is found",
    "exclude": "add launcher.sbatch.exclude={} to the list hydra.launcher.overrides",
    "gpus_per_node": "hydra.launcher.accelerator=h100 (or yours), and accelerator.count={} in hydra.launcher.overrides",
    "gpus_per_task": "hydra.launcher.accelerator=h100 (or yours); accelerator.count is that of a node",
    "gres": "hydra.launcher.accelerator=h100 (or yours) and accelerator.count in hydra.launcher.overrides",
    "cpus_per_gpu": "machine.cpus_per_rank in hydra.launcher.overrides",
    "mem_per_gpu": "machine.mem_gb in hydra.launcher.overrides: that of a node",
    "mem_per_cpu": "machine.mem_gb in hydra.launcher.overrides: that of a node",
    "array_parallelism": "hydra.launcher.max_parallel={}",
    "additional_parameters": "launcher.sbatch.OPTION=VALUE in hydra.launcher.overrides, one for each",
    "setup": "`setup:` in a site file of yours, chosen by hydra.launcher.site",
    "python": "`python:` in a site file of yours, or hydra.launcher.container",
    "signal_delay_s": "add job.notice_s={} to the list hydra.launcher.overrides",
    "max_num_timeout": "leave it out: a job that leaves in time with exit status 75 goes back into the queue",
    "submitit_folder": "leave it out: what a job writes is in its run folder (site.runs_dir)",
    "stderr_to_stdout": "leave it out: a rank's log has both",
    "use_srun": "leave it out: ranks are steps of srun",
    "srun_args": "leave it out, or name it to sbatch: launcher.sbatch.OPTION=VALUE in hydra.launcher.overrides",
}
"""Key -> what to write; {} is the value."""


def refuse(settings: Mapping[str, Any]) -> None:
    """Raises CompactHydraException with every key of the other launcher's that is set."""
    said = {key: value for key in SAID_HERE if (value := settings.get(key)) is not None}
    if not said:
        return
    each = [
        str(refusal(f"{key} is hydra-submitit-launcher's", f"hydra.launcher.{key}={value}", _instead(key, value)))
        for key, value in said.items()
    ]
    raise CompactHydraException("\n\n".join(each))


def _instead(key: str, value: object) -> str:
    do = SAID_HERE[key].format(value)
    return f"write {do}" if do.startswith("hydra.") else do
