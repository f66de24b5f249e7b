"""Which members a launch has: its one, every point of a grid, or as many as a search may try.

Points of a grid are composed and checked here and now. Of a search, whose points are asked for when
members start, every corner of the space is checked instead, and what is needed to compose a point later,
without Hydra and without the YAML, is kept as templates (points.py uses them).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conf import schema
from conf.sweep_schema import Axes, Goal, Grid, Search
from launchers.config import axes
from launchers.config.check import check_all
from launchers.config.compose import Composer, Composition, composer
from launchers.config.section import Finding, Section
from launchers.config.where import Places
from launchers.errors import Problem, SpecError
from launchers.folders import folder_of
from sweeps import grid, legality, population, space

if TYPE_CHECKING:
    from launchers.search.warm_start import Earlier

LATE = ("data", "engine", "model", "optimizer", "train", "seed", "params")
"""What a search may vary: the rest is fixed when the allocation is asked for."""
MOST_TEMPLATES = 100


@dataclass(frozen=True, kw_only=True)
class Members:
    """The members of a launch, checked. A search has the specs of none but its first, as the YAML says it."""

    specs: tuple[schema.Spec, ...]
    points: tuple[Mapping[str, Any], ...]
    templates: tuple[Mapping[str, Any], ...] = ()
    """Of a search: a composition for each choice of groups (`patch.Base.document`)."""
    earlier: tuple[Earlier, ...] = ()
    """Of a search: what it begins with."""


def expand(overrides: Sequence[str], config_dirs: Sequence[Path] = ()) -> Members:
    """Every member of a launch, in order. Raises SpecError with all problems."""
    with composer(overrides, config_dirs) as made:
        sweep = _sweep(made)
        if isinstance(sweep, Search):
            return _search(made, sweep)
        composition = _grid(made, sweep)
    return Members(specs=tuple(check_all(composition)), points=tuple(m.point for m in composition.members))


def compose_all(overrides: Sequence[str], config_dirs: Sequence[Path] = ()) -> Composition:
    """Every member's configuration, in order, unchecked but for the sweep itself."""
    with composer(overrides, config_dirs) as made:
        sweep = _sweep(made)
        return _grid(made, sweep if isinstance(sweep, Grid) else None)


def _sweep(made: Composer) -> Grid | Search | None:
    """What the section `sweep` asks for, with the command line's dimensions where it is a search."""
    raw = _config(made).get("sweep")
    if isinstance(raw, Mapping) and raw.get("kind") == "search" and made.swept:
        raw = {**raw, "parameters": {**(raw.get("parameters") or {}), **axes.dimensions(made)}}
    reader = Section()
    sweep: Grid | Search | None = reader.read("sweep", raw)
    _refuse(made, reader.findings)
    return sweep


def _config(made: Composer) -> Mapping[str, Any]:
    return made.member({}).config


def _grid(made: Composer, sweep: Grid | None) -> Composition:
    swept = axes.enumerated(made)
    if sweep is not None:
        unknown = [each for part, named in _axes_of(sweep).items() for each in _unknown_options(made, part, named)]
        _refuse(made, [*grid.problems(sweep, swept), *unknown])
    seed = _config(made).get("seed")
    return made.composition(grid.points(sweep, swept, seed if isinstance(seed, int) else 0))


def _search(made: Composer, search: Search) -> Members:
    """Check what a search could ask for, and keep what it needs to compose it."""
    spec = check_all(made.composition([{}]))[0]
    own = Goal(metric=spec.objective.metric, goal=spec.objective.goal)
    values = {name: p.values for name, p in search.parameters.items() if p.values}
    _refuse(
        made,
        [
            *legality.problems(search, own),
            *_unknown_options(made, "parameters", values),
            *_too_early(search),
            *_of_population(search, spec),
        ],
    )
    choices = _choices(made, search)
    check_all(made.composition([*choices, *space.corners(search)]))
    templates = tuple({"groups": dict(c), **made.base(c).document()} for c in choices)
    whole = dataclasses.replace(spec, sweep=search)
    earlier = _earlier(made, whole) if search.warm_start else ()
    return Members(specs=(whole,) * search.trials, points=({},) * search.trials, templates=templates, earlier=earlier)


def _earlier(made: Composer, spec: schema.Spec) -> tuple[Earlier, ...]:
    """What the search begins with; nothing more when it goes on, since it has begun."""
    from launchers.search.resume import known  # with what reads a study, which other launches do without
    from launchers.search.warm_start import begun_with

    if known(spec, folder_of(spec.site.runs_dir)) is not None:
        return ()
    found, findings = begun_with(spec)
    _refuse(made, findings)
    return tuple(found)


def _choices(made: Composer, search: Search) -> list[dict[str, Any]]:
    """Every combination of options of groups that a point can have; a conditional one may be away."""
    groups = {name: p for name, p in search.parameters.items() if made.is_group(name)}
    values = ([*p.values, None] if p.when else list(p.values) for p in groups.values())
    combinations = itertools.islice(itertools.product(*values), MOST_TEMPLATES + 1)
    found = [{k: v for k, v in zip(groups, c, strict=True) if v is not None} for c in combinations]
    if len(found) > MOST_TEMPLATES:
        what = f"the choices of {', '.join(groups)} make more than {MOST_TEMPLATES} combinations"
        _refuse(made, [(what, "sweep.parameters", "search fewer groups at once")])
    return found


def _too_early(search: Search) -> Iterator[Finding]:
    for name in search.parameters:
        if name.partition(".")[0] not in LATE:
            what = f"{name} is decided before a trial starts: a search may vary {', '.join(LATE)}"
            yield what, f"sweep.parameters.{name}", "sweep it as a grid (kind: grid), or launch a search for each value"


def _of_population(search: Search, spec: schema.Spec) -> Iterator[Finding]:
    """What does not go together with members that go on from each other's checkpoints."""
    whole = population.of(search)
    if whole is None:
        return
    size, most = whole.size, spec.launcher.max_parallel
    if most is not None and most > size:
        what = f"launcher.max_parallel is {most}, and a population has {size} members: the others would wait"
        yield what, "launcher.max_parallel", f"at most {size}, or raise sweep.population.size"
    if spec.job.kind == "trainer" and spec.train.export == "best":
        what = "train.export is best, and members of a population go on from each other's last weights"
        yield what, "train.export", "leave it at last: the best member's model is registered"
    if spec.job.kind == "trainer" and spec.train.stop_after is not None:
        what = "train.stop_after ends a training early, and members of a population train as long as each other"
        yield what, "train.stop_after", "remove it"
    generations = population.generations(search)
    if spec.job.kind == "trainer" and spec.train.max_steps is not None and spec.train.max_steps < generations:
        what = f"train.max_steps is {spec.train.max_steps}, fewer than the {generations} generations of the population"
        yield what, "train.max_steps", "train longer, or in fewer generations"
    if spec.job.kind == "trainer" and spec.train.until != 1:
        what = f"train.until is {spec.train.until:g}, and a population ends each trial with its generation"
        yield what, "train.until", "remove it"


def _unknown_options(made: Composer, part: str, values: Mapping[str, Iterable[Any]]) -> Iterator[Finding]:
    """`part` of the section `sweep` gives these values."""
    for name, options in values.items():
        if made.is_group(name):
            for problem in made.problems(name, options, ""):
                yield problem.what, f"sweep.{part}.{name}", problem.do


def _axes_of(sweep: Grid) -> dict[str, Axes]:
    """Every part of a grid that names keys, and their values."""
    found: dict[str, Axes] = {"product": sweep.product, "zip": sweep.zip}
    for i, block in enumerate(sweep.blocks):
        found |= {f"blocks.{i}.product": block.product, f"blocks.{i}.zip": block.zip}
    return found


def _refuse(made: Composer, findings: Sequence[Finding]) -> None:
    """Raise what was found, with its places."""
    if findings:
        base = made.composition([{}])
        places = Places(base, base.members[0])
        raise SpecError([Problem(what, places.of(key), do) for what, key, do in findings])
