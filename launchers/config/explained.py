"""What does a key mean, and what may it be? Read from the classes that the check reads, and their files' own words.

Nothing is composed here, and nothing checked. How an explanation is printed is show_keys.py's.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import json
import re
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from conf import schema, sweep_schema
from conf.bounds import Bound
from conf.document import to_document
from launchers.config.options import FOLDERS, kinds, options_of
from launchers.errors import Problem, SpecError
from launchers.folders import ROOT
from sweeps.names import nearest

SECTIONS: Mapping[str, Any] = {
    name: hint
    for name, hint in typing.get_type_hints(schema.Spec, include_extras=True).items()
    if dataclasses.is_dataclass(hint) and name not in schema.COMPONENTS
} | {
    **{name: typing.get_type_hints(schema.Pool)[name] for name in schema.POOL_GROUPS},
    "sweep": sweep_schema.Grid,
    "sweep.search": sweep_schema.Search,
    "pools": schema.Pool,
    "secrets": schema.Secret,
}
"""Name of a section -> what it is made of; components have a class for each kind."""
NAMES = "names, each with"
ALONE = ("name", "seed", "params")
"""Keys that are no sections."""
NAMED, NUMBERED = re.compile(r"^secrets\.[^.]+(?=\.)"), re.compile(r"^pools\.[0-9]+")
BEGIN = {"secrets": "secrets.NAME", "pools": "pools.0"}
"""What keys begin with that stand below a name or a number."""
PLAIN = {int: "a whole number", float: "a number", str: "text", bool: "true or false", Any: "anything"}


@dataclasses.dataclass(frozen=True)
class Key:
    """One key of a section."""

    name: str
    """With its section: train.accumulate."""
    takes: str
    """What may stand there, in words."""
    default: str
    """As YAML has it; empty where it has to be said. A file of conf/ may say another."""
    meaning: str
    below: tuple[Key, ...] = ()

    @property
    def is_open(self) -> bool:
        """Whether there are names of the user's own below it."""
        return self.takes.startswith(NAMES)


@dataclasses.dataclass(frozen=True)
class Explanation:
    """A section, or one of its keys."""

    name: str
    about: str
    keys: tuple[Key, ...]
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Files of conf/<name>/ that one chooses from, and the first sentence of each."""


def explained(wanted: str) -> list[Explanation]:
    """Of a section (`train`), a kind of component (`data.images`) or a key (`machine.mem_gb`): of one that several
    kinds have (`data.path`) as each has it. Raises SpecError where there is none."""
    wanted = NUMBERED.sub("pools.0", NAMED.sub("secrets.NAME", wanted.rstrip(".")))
    section, _, rest = wanted.partition(".")
    if section in FOLDERS:
        return _of_component(section, rest, wanted)
    if section in ALONE:
        return [Explanation(section, "", tuple(key for key in _keys("", schema.Spec) if key.name == section))]
    if section not in SECTIONS:
        raise _unknown(wanted, all_names())
    if wanted in SECTIONS:
        return [dataclasses.replace(_of(wanted, SECTIONS[wanted]), options=_options(wanted))]
    return _having(wanted, [_of(name, SECTIONS[name]) for name in SECTIONS if name.partition(".")[0] == section])


def _of_component(section: str, rest: str, wanted: str) -> list[Explanation]:
    there = kinds(section, ROOT)
    if not rest:
        return [Explanation(section, f"One of: {', '.join(there)}.", (), _options(section))]
    kind, _, below = rest.partition(".")
    asked = [kind] if kind in there else there
    among = [_of(f"{section}.{name}", options_of(section, name, ROOT)) for name in asked]
    if kind not in there:
        return _having(wanted, among)
    return among if not below else _having(f"{section}.{below}", among)


def all_names() -> list[str]:
    """Everything that can be asked for but single keys."""
    return sorted([*SECTIONS, *FOLDERS, *ALONE, *(f"{name}.{kind}" for name in FOLDERS for kind in kinds(name, ROOT))])


def _unknown(wanted: str, names: Sequence[str]) -> SpecError:
    return SpecError([Problem(f"there is no key {wanted!r}", "the command line", nearest(wanted, names))])


def _having(wanted: str, among: Sequence[Explanation]) -> list[Explanation]:
    """That key alone, of those that have it; of a name in a group of names the group's."""
    keys = {one.name: list(_all_of(one.keys)) for one in among}
    every = [(name, key) for name, all_of in keys.items() for key in all_of]
    is_it = [Explanation(name, "", (key,)) for name, key in every if key.name == wanted]
    above = [Explanation(name, "", (key,)) for name, key in every if wanted.startswith(f"{key.name}.") and key.is_open]
    found = is_it or above
    if not found:
        raise _unknown(wanted, sorted({key.name for all_of in keys.values() for key in all_of}))
    return found


def _all_of(keys: Sequence[Key]) -> Iterator[Key]:
    for key in keys:
        yield key
        yield from _all_of(key.below)


def _of(name: str, cls: Any) -> Explanation:
    begin = BEGIN.get(name, name.partition(".")[0])
    return Explanation(name, inspect.cleandoc(cls.__doc__ or ""), tuple(_keys(begin, cls)))


def _keys(section: str, cls: Any) -> Iterator[Key]:
    hints, meanings = typing.get_type_hints(cls, include_extras=True), _meanings(cls)
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        name = f"{section}.{field.name}".lstrip(".")
        inner = _group_of(hint)
        below = tuple(_keys(name, inner)) if inner is not None else ()
        yield Key(name, _words(hint), _default(field), meanings.get(field.name, ""), below)


def _group_of(hint: Any) -> Any:
    """The class of a group of keys, or of a list's or a union's; None where it is a value."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return hint
    return next((found for arg in typing.get_args(hint) if (found := _group_of(arg)) is not None), None)


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        value = field.default
    elif field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        return ""
    return "" if dataclasses.is_dataclass(value) else json.dumps(to_document(value))


def _meanings(cls: type) -> dict[str, str]:
    """The string below each field, of a class and those it is made from."""
    found: dict[str, str] = {}
    for one in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(one):
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(one))).body
        assert isinstance(tree, ast.ClassDef)
        for line, next_line in zip(tree.body, tree.body[1:], strict=False):
            if (
                isinstance(line, ast.AnnAssign)
                and isinstance(line.target, ast.Name)
                and isinstance(next_line, ast.Expr)
            ):
                found[line.target.id] = inspect.cleandoc(str(getattr(next_line.value, "value", "")))
    return found


def _words(hint: Any) -> str:
    """A type as people say it."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        limits = [_limit(bound) for bound in args[1:] if isinstance(bound, Bound)]
        return next((said for said in limits if said and args[0] is str), None) or " ".join([_words(args[0]), *limits])
    if origin is typing.Literal:
        return " | ".join(str(arg) for arg in args)
    if origin in (typing.Union, types.UnionType):
        return " | ".join("null" if arg is type(None) else _words(arg) for arg in args)
    if origin is tuple:
        return f"a list of: {_words(args[0])}"
    if origin is not None:
        return f"{NAMES}: {_words(args[1])}"
    return "a group of keys" if dataclasses.is_dataclass(hint) else PLAIN.get(hint, str(hint))


def _limit(bound: Bound) -> str:
    signs = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below", "min_length": "no shorter than"}
    said = [f"{word} {value:g}" for name, word in signs.items() if (value := getattr(bound, name)) is not None]
    return bound.words or " and ".join(said)


def _options(group: str) -> dict[str, str]:
    """What conf/<group>/ has to choose from: the first sentence of the comment that each file begins with."""
    found = {}
    for path in sorted(Path(ROOT, "conf", group).glob("*.yaml")):
        lines = itertools.takewhile(lambda line: line.startswith("#"), path.read_text(encoding="utf-8").splitlines())
        sentence, _, _ = " ".join(line.removeprefix("#").strip() for line in lines).partition(". ")
        found[path.stem] = sentence.rstrip(".")
    return found
