"""One section of the configuration as its dataclass, or everything that is wrong with it.

Types, units and ranges are conf/*schema.py's and each component's own; pydantic compares, and its words are
put into ours. Which sections there are and the rules between them are check.py's.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from conf import schema, train_schema
from conf.bounds import IN_WORDS, VariableName
from conf.locations import on_this_host
from conf.sweep_schema import Grid, Search
from launchers.config.options import kinds, options_of
from launchers.folders import ROOT, folder_of
from sweeps.names import nearest

Finding = tuple[str, str, str]
"""What is wrong with both values, the key, what to do."""
PARAMETER = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*(\.[A-Za-z_][A-Za-z0-9_-]*)*")
SWEEPS: Mapping[str, Any] = {"none": None, "grid": Grid, "search": Search}


class Section:
    """Reads one section and collects what is wrong."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []

    def say(self, what: str, key: str, do: str) -> None:
        self.findings.append((what, key, do))

    def read(self, name: str, raw: Any) -> Any:
        """The dataclass of a section; None when there are findings (or for `sweep=none`)."""
        if not isinstance(raw, Mapping):
            self.say(f"{name} is {raw!r}, and must be a group of keys", name, f"write {name}: ...")
            return None
        if name == "sweep":
            return self._sweep(raw)
        if name == "params":
            return self._params(raw)
        if name == "secrets":
            return self._secrets(raw)
        if name in schema.COMPONENTS:
            return self._component(name, raw)
        value = self.validated(getattr(schema, name.capitalize()), raw, name)
        if isinstance(value, train_schema.Train) and value.start_from is not None:
            value = dataclasses.replace(value, start_from=str(folder_of(value.start_from)))  # ranks start elsewhere
        return value

    def _component(self, name: str, raw: Mapping[str, Any]) -> schema.Component | None:
        options = {k: v for k, v in raw.items() if k != "kind"}
        if "_target_" in raw:
            return schema.Component(kind="_target_", options=options)
        kind, names = raw.get("kind"), _kinds(name)
        if kind not in names:
            self.say(f"{name}.kind is {kind!r}, which is none", f"{name}.kind", nearest(str(kind), names))
            return None
        if self.validated(_options(name, kind), options, name) is None:
            return None
        return schema.Component(kind=kind, options=_absolute(options))

    def _sweep(self, raw: Mapping[str, Any]) -> Grid | Search | None:
        kind = str(raw.get("kind"))
        if kind not in SWEEPS:
            self.say(f"sweep.kind is {kind!r}, which is none", "sweep.kind", nearest(kind, list(SWEEPS)))
            return None
        sweep: Grid | Search | None = self.validated(SWEEPS[kind], raw, "sweep") if SWEEPS[kind] else None
        return sweep

    def _params(self, raw: Mapping[str, Any]) -> Mapping[str, Any]:
        """Any names that an option of a command line can have, and any plain values."""
        self._say_missing(raw, "params")
        for key, value in _leaves(raw, "params"):
            name = key.removeprefix("params.")
            if not PARAMETER.fullmatch(str(name)):
                do = "use letters, digits, _ and -, beginning with a letter or _"
                self.say(f"{name!r} is no name that can be handed to a program", key, do)
            elif not _can_be_text(value):
                do = "write a finite number, true, false, null, or text without null bytes"
                self.say(f"{key} is {_shown(value)}, which cannot be handed to a program", key, do)
        return raw

    def _secrets(self, raw: Mapping[str, Any]) -> Mapping[str, schema.Secret] | None:
        """Where each comes from. What was written is not repeated: it may be the secret itself, in the wrong place."""
        found = {}
        for name, source in raw.items():
            key, reader = f"secrets.{name}", Section()
            if not isinstance(source, Mapping):
                do = f"write secrets.{name}.env=VARIABLE, .file=PATH or .command=[...]; no value stands in the YAML"
                self.say(f"{key} is no group of keys", key, do)
                continue
            reader.validated(VariableName, name, key)
            value = reader.validated(schema.Secret, source, key)
            self.findings += [
                (re.sub(r" is .*?, and must be", " must be", what), k, do) for what, k, do in reader.findings
            ]
            if value is not None:
                path = str(folder_of(value.file)) if value.file else value.file
                found[str(name)] = dataclasses.replace(value, file=path)
        return found

    def validated(self, hint: Any, value: Any, prefix: str) -> Any:
        """`value` as `hint` types it, or None after saying what is wrong with it."""
        before = len(self.findings)
        self._say_missing(value, prefix)
        if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
            value = self._known_only(hint, value, prefix)
        try:
            checked = _adapter(hint).validate_json(json.dumps(value, default=str), strict=True)
        except ValidationError as e:
            for error in _one_for_each_value(e.errors(include_url=False)):
                self._say_type_error(error, prefix, hint)
            return None
        return checked if len(self.findings) == before else None

    def _say_missing(self, value: Any, key: str) -> None:
        """Name every `???` below a key: a value that the YAML leaves to the user."""
        if value == "???":
            self.say(f"{key} must be given, and is not", key, f"add {key}=... to the command or to your YAML")
        elif isinstance(value, Mapping):
            for name, below in value.items():
                self._say_missing(below, f"{key}.{name}")

    def _known_only(self, cls: Any, value: Mapping[str, Any], prefix: str) -> Mapping[str, Any]:
        names = [f.name for f in dataclasses.fields(cls)]
        for key in value:
            if key not in names:
                self.say(f"{prefix} has no key {key!r}", f"{prefix}.{key}", nearest(key, names))
        return {k: v for k, v in value.items() if k in names}

    def _say_type_error(self, error: Any, prefix: str, hint: Any) -> None:
        path = _path_of(error)
        key = ".".join([prefix, *path])
        value = error["input"]
        if error["type"] == "missing":
            self.say(f"{key} is missing", key, "give it a value")
        elif error["type"] == "unexpected_keyword_argument":
            self.say(f"{prefix} has no key {'.'.join(path)!r}", key, _instead(hint, prefix, path))
        elif value != "???":
            must, do = _words(error)
            self.say(f"{key} is {_shown(value)}, and must be {must}", key, do)


def _instead(hint: Any, prefix: str, path: Sequence[str]) -> str:
    """What somebody meant who wrote a key that a group below a section does not have."""
    above = _keys(hint)
    if path[-1] in above:
        return f"it is {prefix}.{path[-1]}"
    group: Any = hint
    for name in path[:-1]:
        group = typing.get_type_hints(group).get(name) if dataclasses.is_dataclass(group) else None
    names = _keys(group)
    return nearest(path[-1], names) if names else "remove it, or see conf/*schema.py"


def _keys(hint: Any) -> list[str]:
    """The keys of a group; none where it is of several kinds."""
    return [field.name for field in dataclasses.fields(hint)] if dataclasses.is_dataclass(hint) else []


def _leaves(below: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """Every value that is no mapping, with its key."""
    for key, value in below.items():
        name = f"{prefix}.{key}"
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, name)
        else:
            yield name, value


def _can_be_text(value: Any) -> bool:
    try:
        return "\0" not in (value if isinstance(value, str) else json.dumps(value, allow_nan=False))
    except (TypeError, ValueError):
        return False


@functools.cache
def _adapter(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(hint)


@functools.cache
def _kinds(section: str) -> list[str]:
    return kinds(section, ROOT)


@functools.cache
def _options(section: str, kind: str) -> type:
    return options_of(section, kind, ROOT)


UNION_BRANCHES = {"str", "int", "float", "bool"}


def _path_of(error: Mapping[str, Any]) -> list[str]:
    """The user's key below the section. pydantic adds the branch of a union that it tried; that is no key."""
    path = [str(p) for p in error["loc"] if not str(p).startswith(("function-", "constrained-")) and "[" not in str(p)]
    return path[:-1] if len(path) > 1 and path[-1] in UNION_BRANCHES else path


def _one_for_each_value(errors: Sequence[Any]) -> list[Any]:
    """A value that fits no branch of a union is one mistake, not one for each branch."""
    by_path: dict[tuple[str, ...], list[Any]] = {}
    for error in errors:
        by_path.setdefault(tuple(_path_of(error)), []).append(error)
    return [found[0] if len(found) == 1 else {**found[0], "type": "union", "of": found} for found in by_path.values()]


def _absolute(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Options whose `path` no longer depends on where the command was given: ranks start elsewhere."""
    path = options.get("path")
    here = on_this_host(path) if isinstance(path, str) else ""
    return {**options, "path": str(folder_of(here))} if here and "://" not in here else options


WORDS = {
    "greater_than_equal": ("at least {ge}", "use {ge} or more"),
    "greater_than": ("more than {gt}", "use more than {gt}"),
    "less_than_equal": ("at most {le}", "use {le} or less"),
    "int_type": ("a whole number", "write a whole number, without quotes and without a unit"),
    "int_from_float": ("a whole number", "write a whole number, without quotes and without a unit"),
    "float_type": ("a number", "write a number, without quotes and without a unit"),
    "bool_type": ("true or false", "write true or false"),
    "string_type": ("text", "write text; quote what looks like a number: '\"12\"'"),
    "tuple_type": ("a list", "write [a, b]"),
    "dict_type": ("keys and values", "write {{key: value}}"),
    "dataclass_type": ("a group of keys", "write {{key: value}}"),
    "finite_number": ("a finite number", "write an ordinary number"),
    "union": ("text, a number, true or false", "write one plain value"),
}
"""pydantic's error type -> (what the value must be, what to do)."""
PLAIN = ("string_type", "int_type", "float_type", "bool_type", "int_from_float")
"""Branches of a union that takes any plain value."""


def _words(error: Mapping[str, Any]) -> tuple[str, str]:
    context = error.get("ctx", {})
    if error["type"] == "union" and any(one["type"] not in PLAIN for one in error["of"]):
        words = [_words(one) for one in error["of"]]
        return " or ".join(must for must, _ in words), words[0][1]
    if error["type"] == "literal_error":
        options = [word.strip("'") for word in str(context["expected"]).replace(" or ", ", ").split(", ")]
        return f"one of {', '.join(options)}", nearest(str(error["input"]), options)
    if "pattern" in context:
        return IN_WORDS.get(context["pattern"], f"of the form {context['pattern']}"), "change what does not fit"
    must, do = WORDS.get(error["type"], (error["msg"].removeprefix("Input should be "), "change it"))
    return must.format(**context), do.format(**context)


def _shown(value: Any) -> str:
    """A value as YAML has it, short enough for a line."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else f"{text[:77]}..."
