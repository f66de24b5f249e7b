"""Configurations become frozen specs, or every problem they have at once.

What one section must be is section.py's; the rules here need more than one section. A rule is a function of
rules.py, or of its neighbours *_rules.py, whose parameters name the sections it looks at, so that it still
runs when others are broken.
Files are looked at, never changed; the cluster is not asked (probe.py does that).
"""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from conf import job_schema, schema
from launchers.config import (
    command_rules,
    container_rules,
    export_rules,
    held_rules,
    location_rules,
    pool_rules,
    program_rules,
    rules,
    secret_rules,
    trainer_rules,
)
from launchers.config.pools import GROUPS
from launchers.config.section import Finding, Section
from launchers.config.where import Places
from launchers.errors import Problem, SpecError
from sweeps.names import nearest

if TYPE_CHECKING:
    from launchers.config.compose import Composition

Rule = Callable[..., Iterator[Finding]]
PoolSections = tuple[int, Mapping[str, Any]]
"""A pool's number, and its sections that are sound."""
TOP_LEVEL = ("name", "seed")
HINTS = typing.get_type_hints(schema.Spec, include_extras=True)
MODULES = (
    rules,
    command_rules,
    container_rules,
    program_rules,
    trainer_rules,
    export_rules,
    location_rules,
    pool_rules,
    held_rules,
    secret_rules,
)
SECTIONS = (
    *(f.name for f in dataclasses.fields(schema.Spec) if f.name not in (*TOP_LEVEL, "pools")),
    *schema.POOL_GROUPS,
)


def check_all(composition: Composition) -> list[schema.Spec]:
    """The frozen spec of every member, in order.

    Raises SpecError with all problems of all members, each once.
    """
    checker, specs, problems = Checker(RULES), [], {}
    for member in composition.members:
        spec, findings = checker.spec(member.config)
        findings = [*member.findings, *findings]
        if findings:
            places = Places(composition, member)
            found = (Problem(what, places.of(key), do) for what, key, do in findings)
            problems.update({(p.what, p.where): p for p in found})
        elif spec is not None:
            specs.append(spec)
    if problems:
        raise SpecError(list(problems.values()))
    return specs


class Checker:
    """Checks one configuration after the other; what they share is looked at once.

    Members of a sweep share the dictionaries of the sections that no swept value touches (patch.py), so a
    section is known by its identity, and its dataclass is shared by their specs likewise.
    """

    def __init__(self, rules: Sequence[tuple[Rule, tuple[str, ...]]] | None = None) -> None:
        self._wanted = ON_A_NODE if rules is None else rules
        self._sections: dict[tuple[str, int], tuple[Any, Any, list[Finding]]] = {}
        self._ruled: dict[tuple[Any, ...], list[Finding]] = {}
        self._pools: dict[tuple[int, ...], tuple[schema.Pool, ...]] = {}
        self._several: dict[int, tuple[Any, list[PoolSections], list[Finding]]] = {}

    def spec(self, config: Mapping[str, Any]) -> tuple[schema.Spec | None, list[Finding]]:
        """The frozen spec, or what is wrong: (what, key, what to do)."""
        sections, findings = {}, self._top_level(config)
        for name in SECTIONS:
            value, said = self.section(name, config)
            findings += said
            if not said:
                sections[name] = value
        own, said = self.pools(config)
        findings += said
        if own:
            findings += self._rules_of_pools(sections, own)
        else:
            if all(name in sections for name in schema.POOL_GROUPS):
                sections["pools"] = self._pools_of(sections)
            findings += self._rules(sections)
        if findings:
            return None, list(dict.fromkeys(findings))
        pools = self._pools_from(own, sections["job"]) if own else sections.pop("pools")
        rest = {k: v for k, v in sections.items() if k not in schema.POOL_GROUPS}
        return schema.Spec(name=config["name"], seed=config["seed"], pools=pools, **rest), []

    def section(self, name: str, config: Mapping[str, Any]) -> tuple[Any, list[Finding]]:
        """One section as its dataclass, or None and what is wrong with it."""
        raw = config.get(name)
        key = (name, id(raw))
        if key not in self._sections:
            reader = Section()
            value = reader.read(name, raw)
            self._sections[key] = (raw, value, reader.findings)  # `raw` is kept, so that its id stays its own
        return self._sections[key][1:]

    def pools(self, config: Mapping[str, Any]) -> tuple[list[PoolSections], list[Finding]]:
        """The sections of each pool that is there, by its number, and what is wrong with them where they are not the
        top-level ones."""
        raw = config.get("pools") or []
        if id(raw) not in self._several:
            read, findings = list[PoolSections](), list[Finding]()
            for number, pool in enumerate(raw):
                sections = {}
                for name in GROUPS if pool else ():
                    value, said = self.section(name, pool)
                    if not said:
                        sections[name] = value
                    elif pool[name] != config.get(name):
                        place = f"pools.{number}."
                        told = ((place + what, place + key, do, key) for what, key, do in said)
                        findings += [
                            (what, key, do.replace(f"add {own}=", f"add {key}=")) for what, key, do, own in told
                        ]
                if pool:
                    read.append((number, sections))
            self._several[id(raw)] = (raw, read, findings)
        return self._several[id(raw)][1:]

    def _rules_of_pools(self, sections: Mapping[str, Any], own: Sequence[PoolSections]) -> list[Finding]:
        """The rules, of each pool with its sections; what is wrong with a section of its own is told of the pool."""
        sound = all(set(GROUPS) <= set(of_pool) for _, of_pool in own)
        whole = {"pools": self._pools_from(own, sections.get("job"))} if sound else {}
        found: list[Finding] = []
        for number, of_pool in own:
            rest = {k: v for k, v in sections.items() if k not in GROUPS}
            for what, key, do in self._rules({**rest, **of_pool, **whole}):
                group = key.partition(".")[0]
                if group in GROUPS and of_pool.get(group) != sections.get(group):
                    what, key = f"pools.{number}: {what}", f"pools.{number}.{key}"
                found.append((what, key, do))
        return found

    def _pools_from(self, own: Sequence[PoolSections], job: job_schema.Job | None) -> tuple[schema.Pool, ...]:
        key = tuple(id(value) for _, sections in own for value in sections.values())
        if key not in self._pools:
            parts = [(n, {k: v for k, v in s.items() if k != "job" or v != job}) for n, s in own]
            self._pools[key] = tuple(schema.Pool(**sections, number=number) for number, sections in parts)
        return self._pools[key]

    def _pools_of(self, sections: Mapping[str, Any]) -> tuple[schema.Pool, ...]:
        key = tuple(id(sections[name]) for name in schema.POOL_GROUPS)
        if key not in self._pools:
            self._pools[key] = (schema.Pool(**{name: sections[name] for name in schema.POOL_GROUPS}),)
        return self._pools[key]

    def _top_level(self, config: Mapping[str, Any]) -> list[Finding]:
        reader, known = Section(), [*SECTIONS, "name", "seed", "pools"]
        for key in config:
            if key not in known:
                reader.say(f"there is no key {key!r}", key, nearest(key, [*known, "experiment"]))
        for key in TOP_LEVEL:
            reader.validated(HINTS[key], config.get(key), key)
        return reader.findings

    def _rules(self, sections: Mapping[str, Any]) -> list[Finding]:
        found: list[Finding] = []
        for rule, wanted in self._wanted:
            if all(name in sections for name in wanted):
                key = (rule, *(id(sections[name]) for name in wanted))
                if key not in self._ruled:
                    self._ruled[key] = list(rule(**{name: sections[name] for name in wanted}))
                found += self._ruled[key]
        return found


def _all_rules() -> Iterator[tuple[Rule, tuple[str, ...]]]:
    for name, function in {name: rule for module in MODULES for name, rule in vars(module).items()}.items():
        if not name.startswith("_") and inspect.isgeneratorfunction(function):
            yield function, tuple(inspect.signature(function).parameters)


RULES = tuple(_all_rules())
ON_A_NODE = tuple(pair for pair in RULES if not pair[0].__name__.startswith("at_launch_"))
"""Without those that look at what only the one who launches has: a point of a search is checked on a node."""
