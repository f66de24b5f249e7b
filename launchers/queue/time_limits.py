"""Does each partition that a job asks for allow its time? Asked of Slurm before anything is queued.

Slurm itself takes a job that asks for more than its partition allows, and lets it wait for ever (slurm.conf,
EnforcePartLimits). A quality of service may lift the limit (sacctmgr, flag PartitionTimeLimit): then Slurm is left to
judge.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from conf import schema
from launchers.errors import Problem
from launchers.queue import scheduler


def asked(spec: schema.Spec) -> dict[str | None, int]:
    """Minutes by partition, the longest that any pool asks of it; None is the cluster's default partition."""
    more = {name.replace("-", "_"): value for name, value in spec.launcher.sbatch.items()}
    found = dict[str | None, int]()
    for machine in (pool.machine for pool in spec.pools):
        if machine.qos or "qos" in more or "time" in more:
            continue
        named = more.get("partition") or machine.partition or spec.site.default_partition
        name = str(named) if named else None
        if name is None or "," not in name:  # of several Slurm takes one that allows it
            found[name] = max(found.get(name, 0), machine.time_limit_min)
    return found


def too_long(specs: Sequence[schema.Spec]) -> Iterator[Problem]:
    """What the partitions of these shapes do not allow. Raises CommandError where Slurm does not say."""
    wanted = dict[str | None, int]()
    for spec in specs:
        for name, minutes in asked(spec).items():
            wanted[name] = max(wanted.get(name, 0), minutes)
    for name, minutes in wanted.items():
        partition = name or scheduler.default_partition()
        if partition is not None and (problem := over(partition, minutes, scheduler.partition(partition))):
            yield problem


def over(partition: str, minutes: int, known: Mapping[str, str]) -> Problem | None:
    """What is wrong with so many minutes in a partition of which Slurm says this."""
    limit = scheduler.minutes_of(known.get("MaxTime", "UNLIMITED"))
    if limit is None or minutes <= limit:
        return None
    what = f"machine.time_limit_min is {minutes}, but partition {partition} allows {limit}"
    do = f"ask for {limit} or less (a job goes on in a new allocation, from its checkpoint), for another partition, or"
    do += " by its name for the quality of service that lifts the limit (machine.qos)"
    return Problem(what, "machine.time_limit_min", do)
