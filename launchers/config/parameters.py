"""How a command is given what stands below `params`: as arguments, as Hydra's overrides, or as variables.

Pure, standard library only: the supervisor on a node and the check of the YAML both ask. Which way a job
wants it is its `job.parameters`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

PLAIN = re.compile(r"[A-Za-z_][\w-]*(?:[./][\w-]+)*", re.ASCII)
"""A word that Hydra's grammar needs no quotes around, unless it is one of RESERVED."""
RESERVED = ("true", "false", "null", "nan", "inf")
SELF = "_self_"
"""Names the value of a key that has others below it: an option of a group, beside keys of that option."""


def flat(params: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Each parameter's dotted name and its value as text: true and false, numbers and lists as JSON has them, words
    as they are. One that is null is left out: the program has a default of its own.
    """
    for name, value in _leaves(params, above):
        if isinstance(value, str):
            yield name, value
        elif value is not None and not isinstance(value, Mapping):
            yield name, json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def arguments(params: Mapping[str, Any]) -> tuple[str, ...]:
    """`--lr=0.1 --model.width=32`, in the order of the YAML. (Vertex AI appends those of a trial likewise.)"""
    return tuple(f"--{name}={text}" for name, text in flat(params))


def overrides(params: Mapping[str, Any]) -> tuple[str, ...]:
    """`lr=0.1 model.width=32`, each a word that Hydra reads as this very value. `optimizer: {_self_: adam, lr: 1}` is
    optimizer=adam optimizer.lr=1; a name may begin with Hydra's +, ++ or ~.
    """
    return tuple(_override(name.removesuffix(f".{SELF}"), value) for name, value in _leaves(params))


def quoted(value: Any) -> str:
    """A value in Hydra's grammar of overrides."""
    if isinstance(value, str):
        return value if PLAIN.fullmatch(value) and value.lower() not in RESERVED else _in_quotes(value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{name}:{quoted(below)}" for name, below in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(quoted(each) for each in value) + "]"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return repr(value)


def variables(params: Mapping[str, Any]) -> dict[str, str]:
    """`LR=0.1 MODEL_WIDTH=32`."""
    return {variable(name): text for name, text in flat(params)}


def variable(name: str) -> str:
    """A parameter's name as that of an environment variable."""
    return re.sub(r"[^A-Z0-9]", "_", name.upper())


def _leaves(params: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Each value that is no mapping with something in it, with its dotted name."""
    for key, value in params.items():
        name = f"{above}{key}"
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{name}.")
        else:
            yield name, value


def _override(name: str, value: Any) -> str:
    return name if name.startswith("~") and value is None else f"{name}={quoted(value)}"


def _in_quotes(text: str) -> str:
    """As Hydra's lexer reads it: a backslash counts only in front of a quote, where it is doubled."""
    return "'" + re.sub(r"(\\*)('|\Z)", lambda m: m[1] * 2 + (m[2] and "\\'"), text) + "'"
