"""What a job may say: the program of a run, where its reports come from, and how its life is guarded.

As schema.py's groups: standard library only, typed, with units and meaning; absent is None.
"""

from __future__ import annotations

from typing import Literal

from conf.bounds import (
    Count,
    ModulePath,
    NotNegative,
    Positive,
    Text,
    Word,
    group,
)


@group
class Metrics:
    """Where the reports of a program of yours come from."""

    kind: Literal["hypertune", "jsonl", "tensorboard", "mlflow", "pattern", "none"] = "none"
    """hypertune: $CLOUD_ML_HP_METRIC_FILE as the cloudml-hypertune package writes it. jsonl: lines such as
    {"step": 3, "val/loss": 0.4} added to $FAIRLEAD_REPORTS. tensorboard: scalars in event files below
    $AIP_TENSORBOARD_LOG_DIR, a folder's name before the tag's (validation/epoch_loss). mlflow: what it logs into
    the run that MLFLOW_RUN_ID names. pattern: lines of rank 0's output."""
    path: Text | None = None
    """Another file in place of these, below the member's folder ($FAIRLEAD_MEMBER_DIR). Of tensorboard another folder,
    in which * stands for what changes: logs/lightning_logs/version_*."""
    pattern: Text | None = None
    """Regular expression, searched for in each line. Its groups `value` and `metric` are a report, `step` says when;
    every other named group is a metric of that name."""
    metric: Text | None = None
    """What `value` measures, where the pattern has no group `metric`."""


@group
class Hang:
    """For how long a rank of our trainer may give no sign, by what it is at, before it is taken for one that hangs: all
    write their stacks into the run, and are ended. Where the ranks are at different things the longest limit counts.
    (What a rank writes is seen half a minute later on some shared storage.)"""

    setup_s: Positive = 1800.0
    """Slurm, the container and Python until the first sign; then the imports, later the building of the model."""
    rendezvous_s: Positive = 600.0
    """The meeting of the ranks, who themselves give up after 300 s."""
    data_s: Positive = 1800.0
    """Opening the data; of data that are brought to the node, without any progress."""
    restore_s: Positive = 1800.0
    """Going back to a checkpoint."""
    first_step_s: Positive = 1800.0
    """Either of the first two steps of an attempt, with its wait for data; and a compilation, whenever."""
    step_s: Positive = 120.0
    """Each other step. For a step, a wait for data and a batch of an evaluation three times the median step is allowed
    in any case."""
    data_wait_s: Positive = 300.0
    """Waiting for the next batch."""
    evaluation_s: Positive = 300.0
    """A batch of an evaluation."""
    checkpoint_s: Positive = 1800.0
    """What a checkpoint keeps training from, and at the end the wait for the last one."""
    export_s: Positive = 1800.0
    """The export, what comes after it, and writing a profile."""


@group
class Restarts:
    """How often in a row a member is started again on the nodes it holds, going on from its newest checkpoint, after it
    ended by each of these; an attempt that left a new checkpoint begins the count anew. What the program itself
    raised is never tried again; after a lost node the job goes back to the queue (max_requeues)."""

    crash: NotNegative = 0
    """A rank, or a process that reads for one, was killed by a signal: a fault in a library or a driver, or somebody's
    kill."""
    hang: NotNegative = 0
    rendezvous: NotNegative = 2
    """The ranks did not find each other, or lost each other."""
    out_of_memory: NotNegative = 0
    worker: NotNegative = 3
    """Of several pools: a worker failed more often than `job.worker_restarts`, and the whole job begins anew."""
    elsewhere: NotNegative = 0
    """Not a cause: where these did not help and one host ended each of the attempts, or where a host that was lost is
    among the job's again, it goes back to the queue without that host so often (as far as others are left in its
    partition). A host that was lost once is left only if others like it are free, and never by the last of these
    times; one that was lost twice in a row in any case."""


NO_RESTARTS = Restarts(rendezvous=0, worker=0)


@group
class Job:
    """The program of a run, and how its life is guarded."""

    kind: Literal["trainer", "command", "script", "module"]
    """What is run: the built-in trainer; or a program of yours: any argument list, a Python file, a Python module."""
    command: tuple[Text, ...] = ()
    """The program and its arguments, for kind command; in a container, none is the image's own entry point. The first
    word is looked up inside the container, or on the host's PATH. It starts in the member's own copy of the project's
    snapshot (members/<k>/project), where it may write; what it wrote stays there, and its next attempt finds it."""
    script: Word | None = None
    """A Python file of the project, relative to where you launch, for kind script; or of ours, as pkg://conf/...py. It
    starts as a command does."""
    module: ModulePath | None = None
    """What `python -m` runs, for kind module. None finds it in what `source` installs: its console script, or the only
    package with a `__main__` or `task` module."""
    source: Word | None = None
    """A folder with a pyproject.toml or setup.py, a wheel or a source distribution, installed at launch beside what the
    image (or the host's Python) has, once for each content; or one of ours: pkg://conf/... Its program starts in the
    member's folder. None runs a module of the project, and starts as a command does."""
    wheelhouse: Word | None = None
    """A folder of wheels that `source` and `requirements`, what they need and what they are built with are installed
    from, and from nowhere else. None asks the package index that your pip asks."""
    requirements: Word | None = None
    """A requirements.txt as pip reads it, relative to where you launch, for every kind but trainer: installed at launch
    beside what the image (or the host's Python) has, once for each content, and with what `source` installs; its
    console scripts stand on PATH. For the Python that a command begins with, else container.python or Fairlead's own.
    It may include files of the project and name hashes (--hash); a password in an address it has as ${NAME}."""
    data_format: Literal["jsonl", "csv"] | None = None
    """The splits of section `data` are written as files of this format before the program starts, for $AIP_DATA_FORMAT,
    $AIP_TRAINING_DATA_URI, $AIP_VALIDATION_DATA_URI and, where `data.split` declares a test, $AIP_TEST_DATA_URI:
    absolute paths with a wildcard, below the run. For data of rows with columns, and of image files, for each of which
    jsonl says where it is, and its class. None writes nothing."""
    arguments: tuple[Text, ...] = ()
    """Of the program, before what stands below `params`; for every kind but trainer."""
    parameters: Literal["arguments", "overrides", "environment", "none"] = "arguments"
    """How a program gets what stands below `params`: `--lr=0.1` after its other arguments, `lr=0.1` as a Hydra
    application reads it (and finds our plugin on its path), the variable LR, or not at all (it may read
    $FAIRLEAD_SPEC)."""
    metrics: Metrics = Metrics()
    notice_s: Count = 60
    """Seconds before the time limit at which the program is told to save and leave, our trainer by SIGUSR2, any other
    by SIGTERM; a pruned one has as long."""
    max_requeues: NotNegative = 10
    """How often in a row a member goes back to the queue after preemption, a time limit or a lost node; a new
    checkpoint begins the count anew, as `retry` does."""
    restarts: Restarts = Restarts()
    hang: Hang | None = None
    """For our trainer; None watches nobody."""
    worker_restarts: NotNegative = 5
    """Of several pools of programs (our trainer's ranks are one group): how often a worker that fails is started again
    by itself, where it was, while the others run on. A worker is a replica: the ranks of one node of a pool but the
    chief's."""
    restart_job_on_worker_restart: bool = False
    """Of several pools: a worker that fails is not started again by itself, but all of them are."""
    disable_retries: bool = False
    """Nothing that fails is tried again, neither a worker nor the whole job (a preemption or a lost node is no failure
    of it: that sends it back to the queue)."""
    silent_min: Positive | None = None
    """A program that prints and reports nothing for so long, at its start or later, hangs: it is told to leave by
    SIGTERM, and ended `notice_s` later. None lets it be silent."""
    log_gb: Positive = 1.0
    """Of what a rank prints: half of it from the beginning, the rest the newest. (Of our trainer only where it has
    secrets; it prints little.)"""
    max_processes: Count = 4096
    """A program that has more processes than this at once on one node is ended: it would take the node with it. For one
    that doubles faster than we look, the kernel holds its user on that node to the threads they had, and four times
    this and 256 a processor more (RLIMIT_NPROC; root's has no such ceiling)."""
    max_disk_gb: Positive | None = None
    """A program that has more than this on one disk is ended: in its member's folder of the run (its checkpoints among
    it), or on a node in what its container writes there (/tmp, a layer over its image). None lets it have what it
    likes as long as a tenth of that disk is free, and then half of it. What a program writes elsewhere without a
    container is not seen. (Of our trainer only where it has secrets.)"""
