"""What a node says of its devices by the Container Device Interface: its specification files, read and checked.

Source: https://github.com/cncf-tags/container-device-interface/blob/main/SPEC.md, and pkg/cdi there for what it leaves
open: which files count, and whose device is taken where two files have one of the same name. JSON is read by the
standard library alone; YAML, which nvidia-ctk writes where nobody says otherwise, needs PyYAML.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SUFFIXES = (".json", ".yaml")
"""Of the files that count (pkg/cdi/spec-dirs.go)."""
KIND = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9.-]*/[a-zA-Z0-9]([a-zA-Z0-9._-]*[a-zA-Z0-9])?")
NAME = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9._:-]*[a-zA-Z0-9])?")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, kw_only=True)
class Node:
    """A device node: where the host has it, and where the container is to see it."""

    source: str
    target: str


@dataclass(frozen=True, kw_only=True)
class Mounted:
    """A file or folder of the host."""

    source: str
    target: str
    kind: str
    options: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Edits:
    """What is done for a device; of what else there may be cdi.py says why it is not."""

    nodes: tuple[Node, ...] = ()
    mounts: tuple[Mounted, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Device:
    """One device of one file."""

    file: Path
    own: Edits
    common: Edits
    """Those of the file, made once, whichever of its devices are asked for."""


@dataclass(frozen=True)
class Found:
    """What the folders have."""

    devices: Mapping[str, Sequence[Device]]
    """By its whole name; several where files of one folder contradict each other."""
    broken: Mapping[Path, str]
    """File and why it cannot be read. The others count all the same."""


def found_in(folders: Sequence[str]) -> Found:
    """All devices. A later folder's come before an earlier one's of the same name (pkg/cdi/cache.go); of two files in
    one folder neither does."""
    devices: dict[str, Sequence[Device]] = {}
    broken: dict[Path, str] = {}
    for folder in dict.fromkeys(folders):
        here: dict[str, list[Device]] = {}
        for file in _files(Path(folder), broken):
            try:
                for name, device in _devices(file):
                    here.setdefault(name, []).append(device)
            except (OSError, ValueError) as e:
                broken[file] = (e.strerror or str(e)) if isinstance(e, OSError) else " ".join(str(e).split())
        devices |= here
    return Found(devices, broken)


def _files(folder: Path, broken: dict[Path, str]) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES and not path.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as e:
        broken[folder] = e.strerror or str(e)
        return []


def _devices(file: Path) -> list[tuple[str, Device]]:
    """Raises ValueError where the file is no specification: all of it, as half of one is a device that half works."""
    document = _document(file)
    if not isinstance(document, Mapping):
        raise ValueError("it is no mapping of keys to values")
    kind, common = _word(document, "kind", KIND), _edits(document)
    found: dict[str, Device] = {}
    for each in _each(document, "devices"):
        name = _word(each, "name", NAME)
        if name in found:
            raise ValueError(f"device {name!r} is there twice")
        found[name] = Device(file=file, own=_edits(each), common=common)
    if not found:
        raise ValueError("it has no devices")
    return [(f"{kind}={name}", device) for name, device in found.items()]


def _document(file: Path) -> Any:
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".json":
        return json.loads(text)
    try:
        import yaml
    except ImportError:
        what = f"it is YAML, and {sys.executable} has no PyYAML: name a Python that has it in site.python"
        raise ValueError(f"{what}, or have the file written as JSON") from None
    try:
        return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as e:
        raise ValueError(f"it is no YAML: {e}") from None


def _edits(of: Mapping[str, Any]) -> Edits:
    edits = of.get("containerEdits") or {}
    if not isinstance(edits, Mapping):
        raise ValueError(f"containerEdits is {edits!r}, and must be a mapping")
    nodes = tuple(
        Node(source=_path(each, "hostPath" if each.get("hostPath") else "path"), target=_path(each, "path"))
        for each in _each(edits, "deviceNodes")
    )
    mounts = tuple(
        Mounted(
            source=_path(each, "hostPath"),
            target=_path(each, "containerPath"),
            kind=str(each.get("type") or ""),
            options=tuple(map(str, _list(each, "options"))),
        )
        for each in _each(edits, "mounts")
    )
    return Edits(nodes=nodes, mounts=mounts, env=dict(_variables(edits)))


def _variables(edits: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for said in _list(edits, "env"):
        name, equals, value = str(said).partition("=")
        if not equals or not VARIABLE.fullmatch(name) or "\0" in value:
            raise ValueError(f"env has {said!r}, and must have NAME=VALUE")
        yield name, value


def _each(of: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    for each in (found := _list(of, key)):
        if not isinstance(each, Mapping):
            raise ValueError(f"{key} has {each!r}, and must have mappings")
    return found


def _list(of: Mapping[str, Any], key: str) -> list[Any]:
    found = of.get(key)
    if not isinstance(found, list | None):
        raise ValueError(f"{key} is {found!r}, and must be a list")
    return found or []


def _path(of: Mapping[str, Any], key: str) -> str:
    found = of.get(key)
    if not isinstance(found, str) or not found.startswith("/") or "\0" in found:
        raise ValueError(f"{key} is {found!r}, and must be an absolute path")
    return found


def _word(of: Mapping[str, Any], key: str, pattern: re.Pattern[str]) -> str:
    """YAML takes a device that is called 0 for a number, unless it is quoted."""
    found = of.get(key)
    word = str(found) if isinstance(found, int) and not isinstance(found, bool) else found
    if not isinstance(word, str) or not pattern.fullmatch(word):
        raise ValueError(f"{key} is {found!r}, which is no {key} of the Container Device Interface")
    return word
