"""Which code does a part of the spec name? A `kind` is a file in a folder here, `_target_` is the user's own.

The folders are the registry: there is no list to keep in step.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib
import re
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from conf.schema import Component
from trainer.failure import UserError

FOLDERS = {"data": "sources", "engine": "engines", "model": "models", "optimizer": "optimizers"}
TARGET = "_target_"


def part(section: str, component: Component) -> tuple[ModuleType, Any]:
    """The module of a `kind`, and its `Options` filled with what the spec says.

    Raises UserError when there is no such kind, or when an option is unknown or missing.
    """
    module = _module(section, component.kind)
    return module, _filled(section, component, module.Options)


def kinds(section: str) -> list[str]:
    """The kinds there are of a section."""
    folder = Path(__file__).parent / FOLDERS[section]
    return sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__")


def target(section: str, component: Component) -> tuple[Callable[..., Any], dict[str, Any]] | None:
    """The user's class or function and the arguments for it, or None when the spec names a kind.

    Raises UserError when the name leads nowhere. An error inside the user's module is left as it is.
    """
    if component.kind != TARGET:
        return None
    arguments = dict(component.options)
    path = str(arguments.pop(TARGET, ""))
    module_name, _, attribute = path.rpartition(".")
    try:
        module = importlib.import_module(module_name) if module_name else None
    except ModuleNotFoundError as e:
        if e.name is None or not f"{module_name}.".startswith(f"{e.name}."):
            raise
        module = None
    found = getattr(module, attribute, None)
    if not callable(found):
        raise _not_found(f"{section}.{TARGET}", path, module, found)
    return found, arguments


def call_of(section: str, said: Mapping[str, Any]) -> Callable[..., Any]:
    """What a part of the spec that is code of the user's own is called by: a function with the arguments beside its
    name, or an object that a class made with them. Raises UserError as `target`, and when it cannot be called."""
    found = target(section, Component(kind=TARGET, options=said))
    assert found is not None
    made, arguments = found
    call = made(**arguments) if isinstance(made, type) else functools.partial(made, **arguments)
    if not callable(call):
        what = f"{section} is a {type(call).__name__}, which cannot be called"
        raise UserError(what, section, "name a function, or a class with __call__")
    return call


def _not_found(key: str, path: str, module: ModuleType | None, found: object) -> UserError:
    """Why a dotted path leads nowhere."""
    module_name, _, name = path.rpartition(".")
    if not module_name:
        return UserError(f"{key} is {path!r}, which names no module", key, "write package.module.Class")
    if module is None:
        do = f"check the name; {module_name.partition('.')[0]} must be in the folder where you launch, or be installed"
        return UserError(f"{key} is {path}, but there is no module {module_name}", key, do)
    if found is not None:
        what = f"{key} is {path}, which is a {type(found).__name__}, not a class or a function"
        return UserError(what, key, "name what makes it")
    known = difflib.get_close_matches(name, dir(module), n=1)
    do = f"did you mean {module_name}.{known[0]}?" if known else "check the name"
    return UserError(f"{key} is {path}, but the module {module_name} has no {name}", key, do)


def _module(section: str, kind: str) -> ModuleType:
    if kind not in kinds(section) or not re.fullmatch(r"\w+", kind):
        raise UserError(
            f"{section}.kind is {kind}, which is not there", f"{section}.kind", f"choose: {', '.join(kinds(section))}"
        )
    return importlib.import_module(f"trainer.{FOLDERS[section]}.{kind}")


def _filled(section: str, component: Component, options: type) -> Any:
    fields = {f.name: f for f in dataclasses.fields(options)}
    for name in component.options:
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1)
            raise UserError(
                f"{section} {component.kind} has no option {name}",
                f"{section}.{name}",
                f"did you mean {near[0]}?" if near else f"choose: {', '.join(fields) or '(it has none)'}",
            )
    missing = [n for n, f in fields.items() if _required(f) and n not in component.options]
    if missing:
        raise UserError(f"{section} {component.kind} needs {', '.join(missing)}", section, "give it a value")
    return options(**_typed(component.options, typing.get_type_hints(options)))


def _required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _typed(given: Mapping[str, Any], hints: Mapping[str, Any]) -> dict[str, Any]:
    """JSON knows no tuples and writes 1.0 as 1; the rest was checked before the spec was frozen."""

    def typed(value: Any, hint: Any) -> Any:
        if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
            return typing.cast(type, hint)(**_typed(value, typing.get_type_hints(hint)))
        if isinstance(value, list):
            return tuple(value)
        return float(value) if hint is float and isinstance(value, int) else value

    return {name: typed(value, hints[name]) for name, value in given.items()}
