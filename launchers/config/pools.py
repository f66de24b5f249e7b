"""The key `pools`: what each pool says differs from the top-level sections, and becomes sections of its own.

    pools:
      - {}                                          # 0, the chief: as the top-level sections say, one replica
      - machine: {base: gpu-8, nodes: 4}            # 1, workers: an option of the group, and what differs from it
        job: {command: [python3, worker.py]}        #   and its own program
      - {}                                          # 2, none of these; it keeps its place
      - machine: cpu-small                          # 3, an option as it stands

A name is looked up where Hydra looks; without one the top-level section is what differs. Interpolations stay
as they are. Nothing is checked here but what stands in the way: the sections' types and rules are check.py's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from omegaconf import OmegaConf

from conf.schema import POOL_GROUPS
from sweeps.names import nearest

Finding = tuple[str, str, str]
GROUPS = (*POOL_GROUPS, "job")
"""Sections that a pool may have of its own."""
BASE = "base"
LIFE = (
    "parameters", "metrics", "notice_s", "max_requeues", "restarts", "hang", "worker_restarts",
    "restart_job_on_worker_restart", "disable_retries", "silent_min",
    "log_gb", "max_processes", "max_disk_gb", "data_format",
)  # fmt: skip
"""Keys of `job` that are the whole job's, not a pool's program."""
MOST = 4
"""Pools; a position beyond is taken as it is typed, up to here twice, and told."""


class Options(Protocol):
    """The groups, as compose.py knows them."""

    def options(self, group: str) -> list[str]:
        """The names of a group's options."""

    def option(self, group: str, name: str) -> dict[str, Any]:
        """One of them, composed."""


def touched(key: str) -> bool:
    """Whether another value of this key changes what pools are made of."""
    return key.partition(".")[0] in ("pools", *GROUPS)


def with_values(raw: Any, values: Sequence[tuple[str, Any]]) -> tuple[Any, list[Finding]]:
    """The list with values such as (`pools.1.machine.nodes`, 4), in their order; it grows where it is too short. An
    option that was chosen by name keeps its name beside them."""
    pools, findings = list(raw or []) if isinstance(raw, list | None) else raw, list[Finding]()
    for key, value in values:
        place, *path = key.split(".")[1:]
        if not isinstance(pools, list) or not place.isdigit() or int(place) >= 2 * MOST:
            do = "give a position of the list: pools.1.machine.nodes=4 (0 chief, 1 workers, 2 reducers, 3 evaluators)"
            findings.append((f"pools has no position {place!r}", key, do))
            continue
        pools += [{}] * (int(place) + 1 - len(pools))
        pools[int(place)] = _set(pools[int(place)], path, value)
    return pools, findings


def _set(below: Any, path: Sequence[str], value: Any) -> Any:
    if not path:
        return value
    if not isinstance(below, Mapping):
        below = {BASE: below} if isinstance(below, str) else {}
    return {**below, path[0]: _set(below.get(path[0]), path[1:], value)}


def expanded(config: Mapping[str, Any], raw: Any, groups: Options) -> tuple[list[dict[str, Any]], list[Finding]]:
    """Every pool with all its sections ({} for one that is not there), and what is wrong. `config` has the top-level
    ones; what is wrong leaves the top-level section, so that all else is checked, too."""
    if not isinstance(raw, list):
        return [], [
            (f"pools is {raw!r}, and must be a list", "pools", "write one element for each pool, the chief's first")
        ]
    pools, findings = list[dict[str, Any]](), list[Finding]()
    for i, said in enumerate(raw):
        key = f"pools.{i}"
        if said is None or said == {}:
            pools.append({} if i else _sections(config, {}, key, groups, findings))
        elif not isinstance(said, Mapping):
            findings.append(
                (f"{key} is {said!r}, and must be a group of keys", key, f"write {', '.join(GROUPS)} below it")
            )
            pools.append({} if i else _sections(config, {}, key, groups, findings))
        else:
            pools.append(_sections(config, said, key, groups, findings))
    while pools and not pools[-1]:
        pools.pop()
    for i, pool in enumerate(pools):
        if i and pool and isinstance(raw[i], Mapping):
            findings += _one_limit(raw[i], pool, pools[0], f"pools.{i}.machine")
    return pools, findings


def _sections(
    config: Mapping[str, Any], said: Mapping[str, Any], key: str, groups: Options, findings: list[Finding]
) -> dict[str, Any]:
    for name in said:
        if name not in GROUPS:
            findings.append((f"{key} has no key {str(name)!r}", f"{key}.{name}", nearest(str(name), GROUPS)))
    for name in LIFE:
        if isinstance(said.get("job"), Mapping) and name in said["job"]:
            what = f"{key}.job has {name!r}, which is the whole job's"
            findings.append((what, f"{key}.job.{name}", f"write job.{name}, outside of pools"))
    return {g: _section(config.get(g), said.get(g), f"{key}.{g}", groups, findings) for g in GROUPS}


def _section(top: Any, said: Any, key: str, groups: Options, findings: list[Finding]) -> Any:
    """One section of a pool: the top-level one or an option, and what differs from it."""
    group = key.rpartition(".")[2]
    name = said.get(BASE) if isinstance(said, Mapping) else said
    own = {k: v for k, v in said.items() if k != BASE} if isinstance(said, Mapping) else {}
    below = top
    if isinstance(name, str) and name in groups.options(group):
        below = groups.option(group, name)
        if group == "job":  # how its life is guarded stays the job's
            below = {**below, **{k: v for k, v in (top or {}).items() if k in LIFE}}
    elif name is not None:
        findings.append((f"{group} has no option {name!r}", key, nearest(str(name), groups.options(group))))
    if not own or not isinstance(below, Mapping):
        return below
    return OmegaConf.to_container(OmegaConf.merge(dict(below), own), resolve=False)


def _one_limit(said: Any, pool: dict[str, Any], chief: Mapping[str, Any], key: str) -> list[Finding]:
    """The whole job has one time limit: the chief's, as it ends with the chief. An option's own does not count."""
    own = said.get("machine")
    limit, chiefs = pool["machine"], chief["machine"]
    if not isinstance(limit, Mapping) or not isinstance(chiefs, Mapping) or "time_limit_min" not in chiefs:
        return []
    pool["machine"] = {**limit, "time_limit_min": chiefs["time_limit_min"]}
    if isinstance(own, Mapping) and own.get("time_limit_min", chiefs["time_limit_min"]) != chiefs["time_limit_min"]:
        what = f"{key}.time_limit_min is {own['time_limit_min']}, but the job's is {chiefs['time_limit_min']}"
        return [(what, f"{key}.time_limit_min", "leave it out: all pools of a job have the chief's time limit")]
    return []
