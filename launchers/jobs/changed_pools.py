"""What `retry` may change of a job with several worker pools: each pool's own sections, by pools.K.machine and its kin.

A frozen spec has every pool whole, so that a top-level machine=... would be nobody's. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from conf import schema
from launchers.config import pools
from launchers.errors import Problem

Values = Sequence[tuple[str, Any]]
Section = Mapping[str, Any]
WHOLE_JOBS = "time_limit_min"
"""Key of a machine that is the chief's alone: the other pools have it from there."""


def is_of_a_pool(key: str) -> bool:
    """Whether a key is of those sections: pools.1.machine.nodes, pools.1.container."""
    words = key.split(".")
    return len(words) > 2 and words[0] == "pools" and words[2] in schema.POOL_GROUPS


def refusals(keys: Sequence[str], frozen: Sequence[Section]) -> Iterator[Problem]:
    """Of a job with these pools: keys of a pool that is not there, and of no pool where there are several."""
    there, several = [pool["number"] for pool in frozen], len(frozen) > 1
    for key in keys:
        group, number = key.partition(".")[0], key.split(".")[1] if key.startswith("pools.") else ""
        if several and group in schema.POOL_GROUPS:
            what = f"{key} is of no pool, and the job has {len(there)} worker pools"
            do = " or ".join(f"pools.{k}.{key}=..." for k in there)
            yield Problem(what, f"override {key}", do)
        elif is_of_a_pool(key) and not (several and number.isdigit() and int(number) in there):
            what = f"the job has no pool {number}" if several else "the job has one worker pool alone"
            do = f"its pools are {', '.join(map(str, there))}" if several else f"leave out pools.{number}."
            yield Problem(what, f"override {key}", do)


def as_launched(document: Section) -> list[dict[str, Any]]:
    """The pools of a frozen spec by their places, each with all its sections; {} for one that is not there."""
    frozen = document["pools"]
    found: list[dict[str, Any]] = [{} for _ in range(frozen[-1]["number"] + 1)]
    for pool in frozen:
        sections = {name: pool[name] for name in schema.POOL_GROUPS}
        found[pool["number"]] = {**sections, "job": pool["job"] or document["job"]}
    return found


def changed(
    before: Sequence[Section], values: Values, job: Section, options: pools.Options
) -> tuple[list[dict[str, Any]], list[pools.Finding]]:
    """The pools with these values, and what is wrong. `job` says how the life of the whole is guarded."""
    own = [{name: pool[name] for name in schema.POOL_GROUPS} if pool else {} for pool in before]
    for pool in own[1:]:
        if pool:
            pool["machine"] = {k: v for k, v in pool["machine"].items() if k != WHOLE_JOBS}
    raw, wrong = pools.with_values(own, values)
    now, findings = pools.expanded({name: {} for name in pools.GROUPS}, raw, options)
    life = {name: job[name] for name in pools.LIFE if name in job}
    found = [{**pool, "job": {**before[i]["job"], **life}} if pool else {} for i, pool in enumerate(now)]
    return found, [*wrong, *findings]
