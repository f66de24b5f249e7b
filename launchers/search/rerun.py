"""A member of a sweep as an experiment of its own: the YAML file and the command that run its point again.

The file says what is trained: the experiment of the launch, the options and values that its command line
fixed, and over them the point. Where it runs (machine, launcher, site, container, ...) stays on the command
line, as it was said. Which member that is comes from best.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException

from conf.document import to_document
from launchers.arguments import launch_words
from launchers.errors import SpecError
from launchers.search.expand import LATE, expand

TRAINED = tuple(dict.fromkeys((*LATE, "params")))
"""Sections that say what is trained; where it runs is said by the others."""
PLAIN = ("seed", "name")
"""Keys at the top that are no sections: elsewhere a word without dots chooses an option of a group."""


@dataclass(frozen=True, kw_only=True)
class Said:
    """What a command line said besides the sweep."""

    experiment: str | None = None
    groups: Mapping[str, str | None] = field(default_factory=dict)
    """Options of groups that decide what is trained."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """Dotted keys of the same kind."""
    rest: tuple[str, ...] = ()
    """Overrides that stay on the command line."""
    config_dirs: tuple[Path, ...] = ()


def said_by(command: Sequence[str], cwd: Path, point: Mapping[str, Any]) -> Said:
    """The command of a launch taken apart; what `point` decides, and the sweep itself, are left out.

    A relative `--config-dir` is one of `cwd`. What Hydra cannot read stays on the command line.
    """
    arguments = launch_words(command)
    parsed = [(text, _parsed(text)) for text in arguments.overrides]
    kept = [(text, o) for text, o in parsed if o is None or not _is_swept(o, point)]
    experiment, groups, values, rest = None, dict[str, str | None](), dict[str, Any](), list[str]()
    for text, o in kept:
        if o is None or o.type == OverrideType.DEL:
            rest.append(text)
        elif o.key_or_group == "experiment":
            experiment = None if o.value() is None else str(o.value())
        elif o.key_or_group.partition(".")[0] not in TRAINED:
            rest.append(text)
        elif is_choice(o.key_or_group, o.value()):
            groups[o.key_or_group] = None if o.value() is None else str(o.value())
        else:
            values[o.key_or_group] = o.value()
    folders = tuple((cwd / folder).resolve() for folder in arguments.config_dir)
    return Said(experiment=experiment, groups=groups, values=values, rest=tuple(rest), config_dirs=folders)


def is_choice(key: str, value: Any) -> bool:
    """Whether a key with this value chooses an option of a group."""
    return "." not in key and key not in PLAIN and (value is None or isinstance(value, str))


def experiment_text(said: Said, point: Mapping[str, Any], spec: Mapping[str, Any], head: Sequence[str]) -> str:
    """The experiment's YAML. `spec` is the member's; `head` are lines of comment."""
    chosen = {k: v for k, v in point.items() if is_choice(k, v)}
    experiment = chosen.pop("experiment", said.experiment)
    defaults: list[Any] = [*([experiment] if experiment else []), "_self_"]
    defaults += [{f"override /{group}": option} for group, option in {**said.groups, **chosen}.items()]
    body: dict[str, Any] = {"defaults": defaults}
    values = {**said.values, **{k: v for k, v in point.items() if not is_choice(k, v)}, "sweep.kind": "none"}
    for key, value in values.items():
        _put(body, key.split("."), value, _as_yaml(spec))
    comments = "".join(f"# {_line(text)}\n" for text in head)
    return f"# @package _global_\n{comments}{_dumped(body)}"


def differences(overrides: Sequence[str], config_dirs: Sequence[Path], spec: Mapping[str, Any]) -> list[str]:
    """In what a run of this command line would train or ask for something else than `spec`; empty when it would not.

    Composed here and now, so that it also tells of YAML files that were changed or are gone since.
    """
    try:
        specs = expand(overrides, config_dirs).specs
    except SpecError as e:
        return [f"{problem.what} ({problem.where})" for problem in e.problems]
    if len(specs) != 1:
        return [f"it makes {len(specs)} members"]
    now, was = (dict(_leaves("", {**_as_yaml(d), "pools": d["pools"]})) for d in (to_document(specs[0]), spec))
    keys = [key for key in {**was, **now} if was.get(key) != now.get(key)]
    return [f"{key} is now {now.get(key)!r}, and was {was.get(key)!r}" for key in keys]


def _parsed(text: str) -> Override | None:
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException:
        return None


def _is_swept(override: Override, point: Mapping[str, Any]) -> bool:
    key = override.key_or_group
    return override.is_sweep_override() or key in point or key.partition(".")[0] == "sweep"


def _put(body: dict[str, Any], path: Sequence[str], value: Any, known: Any) -> None:
    """Set a key below others. YAML cannot say one entry of a list: then it is the whole list of `known`."""
    head, *below = path
    known = known.get(head) if isinstance(known, Mapping) else None
    if below and isinstance(known, list):
        body[head] = known
    elif below or isinstance(value, Mapping):
        inside = body[head] = body[head] if isinstance(body.get(head), dict) else {}
        for name, each in [(None, value)] if below else value.items():
            _put(inside, below or [str(name)], each, known)
    else:
        body[head] = value


def _as_yaml(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The sections that decide what is trained, as YAML has them: a component's options beside its kind."""
    return {name: _flat(spec.get(name)) for name in TRAINED}


def _flat(section: Any) -> Any:
    if not isinstance(section, Mapping):
        return section
    return {**{k: v for k, v in section.items() if k != "options"}, **section.get("options", {})}


def _leaves(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, below in value.items():
            yield from _leaves(f"{prefix}.{key}" if prefix else str(key), below)
    elif isinstance(value, list) and any(isinstance(below, Mapping) for below in value):
        yield from _leaves(prefix, {str(i): below for i, below in enumerate(value)})
    else:
        yield prefix, value


class _Dumper(yaml.SafeDumper):
    """Quotes every text that begins like a number: OmegaConf reads `1e-2` as one, YAML 1.1 does not."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="'" if text[:1] in "+-.0123456789" else None)


_Dumper.add_representer(str, _text)


def _dumped(body: Mapping[str, Any]) -> str:
    return yaml.dump(body, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False, width=110)


def _line(text: str) -> str:
    """A comment on one line, of what YAML takes in one."""
    return "".join(c if c.isprintable() else " " for c in text)
