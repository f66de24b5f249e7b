"""What a Hydra application is to be run with, in our words: the points of its jobs, or the space of its search.

The application's own keys stand below `params`, as those of any command. Pure but for Hydra's grammar.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from launchers.config.axes import dimension
from launchers.config.parameters import SELF, overrides, quoted
from launchers.errors import Problem, SpecError

WORDS = (
    (r"^  where  override sweep=\{.*", "  where  hydra.sweeper.sweep, and what the command line searches"),
    (rf"\bparams\.([\w./@-]+?)(?:\.{SELF})?(?=[\s:,]|$)", r"\1"),
    (r"\boverride (launcher|machine|accelerator|container|site)=", r"override hydra.launcher.\1="),
    (r"(?<![\w./])sweep\.(\w+)=", r"+hydra.sweeper.sweep.\1="),
    (r"(?<![\w./])sweep\.(\w+)", r"hydra.sweeper.sweep.\1"),
)
"""Our way to say something -> that of a user of the plugin."""
DEFAULTS = {"kind": "search", "algorithm": "tpe"}


def varying(jobs: Sequence[Sequence[str]], first: int = 0) -> tuple[tuple[str, ...], list[dict[str, Any]]]:
    """Overrides that all jobs have, as they are, and of each job the others, as names and values.

    `first` is Hydra's number of the first job; where it is not 0, each is told its own.
    Raises SpecError for an override that would not be the same after that.
    """
    everywhere = set(jobs[0]).intersection(*map(set, jobs)) if jobs else set()
    common = tuple(text for text in (jobs[0] if jobs else ()) if text in everywhere)
    points = []
    for number, job in enumerate(jobs, first):
        point = dict(_named(text) for text in job if text not in everywhere)
        points.append(point | ({"hydra.job.num": number} if first else {}))
    return common, points


@cache
def _named(text: str) -> tuple[str, Any]:
    """An override as a name (with Hydra's + or ~) and a value, which make the same override again."""
    override = _parsed(text)
    name, value = override.get_key_element(), override.value()
    again = overrides({name: value})
    if len(again) != 1 or _parsed(again[0]).value() != value:
        what = f"the override {text} cannot be handed to a member of its own"
        raise SpecError([Problem(what, f"override {text}", "write its keys one by one: key.below=value")])
    return name, value


def _parsed(text: str) -> Override:
    return OverridesParser.create().parse_override(text)


def search_words(search: Mapping[str, Any]) -> list[str]:
    """Fairlead's overrides for a search that the plugin describes.

    sweep: a mapping as in conf/sweep whose keys are the application's, or the name of an option (whose keys are
    ours: params.lr). swept: `key=interval(...)` of the command line. trials, algorithm: None leaves them to
    `sweep`. goals: minimize or maximize for each value that the application returns; empty leaves them to `sweep`.
    Raises SpecError where it is no search.
    """
    said = search["sweep"] or {}
    own = {} if isinstance(said, str) else said
    swept = dict(_dimension(text) for text in search["swept"])
    names = _names([*(own.get("parameters") or {}), *swept])
    given = {key: search[key] for key in ("trials", "algorithm") if search[key] is not None}
    goals = _goals(search["goals"])
    added = {**given, **goals, "parameters": {names[key]: each for key, each in swept.items()}}
    if isinstance(said, str):
        words = [f"sweep={said}", *(f"sweep.{key}={quoted(value)}" for key, value in added.items() if value)]
    else:
        words = [f"sweep={quoted(_merged(_renamed(own, names), added))}"]
        _refuse_nonsense(own, given)
    if len(search["goals"]) == 1:
        words.append(f"objective.goal={search['goals'][0]}")
    return words


def _dimension(text: str) -> tuple[str, Mapping[str, Any]]:
    """A swept key of the command line as a parameter of a search."""
    override = _parsed(text)
    name = override.get_key_element()
    if name != override.key_or_group:
        what = f"{name} is searched, but a search varies what the application has already"
        raise SpecError([Problem(what, f"override {text}", f"give {override.key_or_group} a value in its YAML")])

    def values() -> list[Any]:
        try:
            return [_parsed(f"x={each}").value() for each in override.sweep_string_iterator()]
        except HydraException as e:
            raise SpecError([Problem(str(e), f"override {text}", "list the values: key=a,b")]) from None

    return name, dimension(override, values)


def _names(keys: Sequence[str]) -> dict[str, str]:
    """Our name of each of the application's keys."""
    return {k: f"params.{k}" + (f".{SELF}" if any(o.startswith(f"{k}.") for o in keys) else "") for k in keys}


def _goals(goals: Sequence[str]) -> dict[str, Any]:
    if len(goals) < 2:
        return {}
    return {"objectives": [{"metric": f"objective_{i}", "goal": goal} for i, goal in enumerate(goals)]}


def _renamed(own: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """A search in the application's keys, in ours."""

    def keys(of: Mapping[str, Any]) -> dict[str, Any]:
        return {names.get(key, f"params.{key}"): value for key, value in of.items()}

    found = {**DEFAULTS, **own}
    if "start_points" in own:
        found["start_points"] = [keys(point) for point in own["start_points"]]
    parameters = own.get("parameters") or {}
    found["parameters"] = keys(
        {k: {**p, "when": keys(p["when"])} if p.get("when") else p for k, p in parameters.items()}
    )
    return found


def _merged(found: dict[str, Any], added: Mapping[str, Any]) -> dict[str, Any]:
    return {**found, **added, "parameters": {**found["parameters"], **added["parameters"]}}


def _refuse_nonsense(own: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    problems = []
    if own.get("kind", "search") != "search":
        what = f"hydra.sweeper.sweep has kind: {own['kind']}, and a grid of an application is made by Hydra's grammar"
        problems.append(Problem(what, "hydra.sweeper.sweep", "sweep its keys: key=1,2,3 or key=range(1,4)"))
    elif "trials" not in {**own, **given}:
        what = "this is a search, and nothing says how many trials it may make"
        problems.append(Problem(what, "hydra.sweeper.trials", "add hydra.sweeper.trials=20"))
    if problems:
        raise SpecError(problems)


def shown(point: Mapping[str, Any]) -> dict[str, Any]:
    """A point of a search in the application's own keys."""
    return {name.removeprefix("params.").removesuffix(f".{SELF}"): value for name, value in point.items()}


def in_hydras_words(error: str) -> str:
    """What is said of our keys, as the user of the plugin wrote it."""
    for ours, theirs in WORDS:
        error = re.sub(ours, theirs, error, flags=re.MULTILINE)
    return error
