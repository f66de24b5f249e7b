"""Where a key got its value: the override, or the YAML file and line. For error messages only.

OmegaConf keeps no line numbers, so the files that took part are read again as marked nodes.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from conf.locations import masked
from launchers.folders import short

if TYPE_CHECKING:
    from launchers.config.compose import Composition
    from launchers.config.patch import Composed


@dataclass(frozen=True)
class Places:
    """Answers «where was this said» for one member."""

    composition: Composition
    member: Composed

    def of(self, key: str) -> str:
        """`override k=v`, or `file:line key (chosen by group=option)`, or the file that should say it."""
        if key.startswith("pools."):
            return self._of_a_pool(key)
        for text in reversed(self.composition.overrides):
            said = text.lstrip("+~").partition("=")[0].partition("@")[0]
            above = key.startswith(f"{said}.") and ("." in said or "={" in text)
            if key == said or above or said.startswith(f"{key}."):
                return f"override {masked(text)}"
        if key in self.member.point and (said_in_sweep := self._swept(key)) is not None:
            return said_in_sweep
        for group, path in self._files():
            line = _line_of(path, key if group is None else _below(key, group))
            if line is not None:
                return f"{short(path)}:{line} {key}{self._chosen_by(group)}"
        return self._nowhere(key)

    def _of_a_pool(self, key: str) -> str:
        """What says a key of a pool, or the nearest above it: the rest is an option's or the top-level section's."""
        first = key
        while key:
            for text in reversed(self.composition.overrides):
                said = text.lstrip("+~").partition("=")[0]
                if said == key or said.startswith(f"{first}."):
                    return f"override {masked(text)}"
            for group, path in self._files():
                if group is None and (line := _line_of(path, key)) is not None:
                    return f"{short(path)}:{line} {key}"
            key = key.rpartition(".")[0]
        return self._nowhere("pools")

    def _swept(self, key: str) -> str | None:
        """Where the section `sweep` gives a key its values."""
        there = (self.member.config.get("sweep") or {}).get("blocks") or ()
        blocks = [f"blocks.{i}.{part}" for i in range(len(there)) for part in ("product", "zip")]
        for group, path in self._files():
            if group not in (None, "sweep"):
                continue
            for part in ("parameters", "product", "zip", *blocks):
                whole = f"sweep.{part}.{key}"
                line = _line_of(path, whole if group is None else _below(whole, group))
                if line is not None:
                    return f"{short(path)}:{line} {whole}{self._chosen_by(group)}"
        return None

    def _files(self) -> Iterator[tuple[str | None, Path]]:
        """(group, file) in the order in which a later one loses: experiment, groups, root."""
        experiment = self.member.choices.get("experiment")
        for folder in self.composition.search_path:
            if experiment and experiment != "None":
                yield None, folder / "experiment" / f"{experiment}.yaml"
        for group, option in self.member.choices.items():
            for folder in self.composition.search_path:
                if group != "experiment":
                    yield group, folder / group / f"{option}.yaml"
        for folder in self.composition.search_path:
            yield None, folder / "config.yaml"

    def _chosen_by(self, group: str | None) -> str:
        return f"   (chosen by: {group}={self.member.choices[group]})" if group else ""

    def _nowhere(self, key: str) -> str:
        group = key.partition(".")[0]
        for candidate, path in self._files():
            if candidate == group and path.exists():
                return f"{short(path)} {key}{self._chosen_by(group)}"
        return f"config.yaml {key}"


def _below(key: str, group: str) -> str:
    """The key as the group's own file says it; «» when the key is not the group's."""
    return key.removeprefix(f"{group}.") if key.startswith(f"{group}.") else ""


def _line_of(path: Path, key: str) -> int | None:
    """The 1-based line at which a YAML file gives `key` (dotted) a value."""
    if not key:
        return None
    try:
        node = _nodes(path, path.stat().st_mtime_ns)
    except (OSError, UnicodeError, yaml.YAMLError):
        return None
    return _line_in(node, key.split("."))


@functools.lru_cache(maxsize=64)
def _nodes(path: Path, _changed_ns: int) -> yaml.Node | None:
    """A file is looked into for every part of a sweep that may hold a key, and read once."""
    node: yaml.Node | None = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    return node


def _line_in(node: yaml.Node | None, parts: list[str]) -> int | None:
    """A key of a mapping may have dots of its own, as `optimizer.lr` in a sweep."""
    for length in range(len(parts), 0, -1):
        found = _entries(node).get(".".join(parts[:length]))
        if found is not None:
            line, below = found
            return line if length == len(parts) else _line_in(below, parts[length:])
    return None


def _entries(node: yaml.Node | None) -> Mapping[str, tuple[int, yaml.Node]]:
    if isinstance(node, yaml.MappingNode):
        return {str(k.value): (k.start_mark.line + 1, v) for k, v in node.value}
    if isinstance(node, yaml.SequenceNode):
        return {str(i): (v.start_mark.line + 1, v) for i, v in enumerate(node.value)}
    return {}
