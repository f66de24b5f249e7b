"""What may be said below `hydra.launcher` and `hydra.sweeper`, with types, so that Hydra completes and checks it.

Hydra runs these lines before the module is in sys.modules: annotations must not be postponed here.
"""

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore


@dataclass
class OfSubmitit:
    """Keys of hydra-submitit-launcher's, known here so that _submitit.py can say what takes their place."""

    timeout_min: Any = None
    nodes: Any = None
    tasks_per_node: Any = None
    cpus_per_task: Any = None
    mem_gb: Any = None
    partition: Any = None
    qos: Any = None
    account: Any = None
    constraint: Any = None
    name: Any = None
    comment: Any = None
    exclude: Any = None
    gpus_per_node: Any = None
    gpus_per_task: Any = None
    gres: Any = None
    cpus_per_gpu: Any = None
    mem_per_gpu: Any = None
    mem_per_cpu: Any = None
    array_parallelism: Any = None
    additional_parameters: Any = None
    setup: Any = None
    python: Any = None
    signal_delay_s: Any = None
    max_num_timeout: Any = None
    submitit_folder: Any = None
    stderr_to_stdout: Any = None
    use_srun: Any = None
    srun_args: Any = None


@dataclass
class LauncherSettings(OfSubmitit):
    """hydra/launcher=fairlead: every job of a sweep is a member of one Fairlead job."""

    _target_: str = "hydra_plugins.fairlead_plugin.launcher.FairleadLauncher"
    launcher: str = "slurm"
    """Fairlead's option: slurm, or local for this machine."""
    machine: str | None = None
    """Fairlead's options of its groups; None is what Fairlead takes by itself."""
    accelerator: str | None = None
    container: str | None = None
    site: str | None = None
    max_parallel: int | None = None
    """Members that run at once."""
    detach: bool = False
    """Do not wait for the end: print the job's id and leave."""
    config_dir: Any = None
    """Folder of Fairlead's groups (as `fairlead launch --config-dir`), or a list of them."""
    overrides: list[str] = field(default_factory=list)
    """Any other overrides of Fairlead's configuration, such as machine.time_limit_min=30."""


@dataclass
class SweeperSettings:
    """hydra/sweeper=fairlead: all points of a grid in one job, or a search whose members ask for theirs."""

    _target_: str = "hydra_plugins.fairlead_plugin.sweeper.FairleadSweeper"
    trials: int | None = None
    """Of a search: how many it may make."""
    algorithm: str | None = None
    """Of a search: tpe, gp, cma_es, nsga2, quasi_random, random or grid; None is tpe."""
    goal: Any = None
    """minimize or maximize what the application returns, or a list of these where it returns a tuple."""
    sweep: Any = None
    """A search as in Fairlead's conf/sweep, whose parameters are keys of the application; or an option's name."""
    params: dict[str, str] | None = None
    """Sweeps that the command line need not repeat: {lr: 'interval(1e-4,1e-1)'}."""


ConfigStore.instance().store(group="hydra/launcher", name="fairlead", node=LauncherSettings, provider="fairlead")
ConfigStore.instance().store(group="hydra/sweeper", name="fairlead", node=SweeperSettings, provider="fairlead")
