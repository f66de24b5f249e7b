"""The points of a grid: every combination that the sweep names, in a stable order, each once.

Options of a group and leaf values are alike here; which key is which, and whether a value fits its key,
is the composition's and the check's work.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from conf.sweep_schema import Block, Grid, Subset
from sweeps.names import nearest
from sweeps.values import among, canonical, same, shown

Axes = Mapping[str, Sequence[Any]]
"""Key or group to the values it takes."""
Point = Mapping[str, Any]
"""Key or group to the one value that a member has."""
Mistake = tuple[str, str, str]
"""What is wrong with both values, the key that says it, what to do."""

MOST_POINTS = 1_000_000
"""More are not listed: even the ones that a subset takes are chosen from a list of all."""
NO_AXES: Axes = MappingProxyType({})


def product(axes: Axes) -> list[Point]:
    """All combinations, the last axis fastest (Hydra's own order); no axes give one empty point."""
    return _unique(_product(axes))


def points(grid: Grid | None, axes: Axes, seed: int) -> list[Point]:
    """(product x zip x blocks x `axes`) minus exclude, times repeats, of these the subset; each point once.

    `axes` are the command line's. What stands later changes faster: `axes` after the grid's own, and repeats
    fastest of all. More than one repeat adds `seed`, `seed` + 1, ... under the key `seed`. Two points are
    the same when their ids are. Expects a grid without `problems`.
    """
    if grid is None:
        return product(axes)
    found = _unique(_kept(grid, axes))
    if grid.repeats > 1:
        found = [{**point, "seed": seed + n} for point in found for n in range(grid.repeats)]
    return _subset(found, grid.subset)


def point_id(point: Point) -> str:
    """Eight hex digits that depend on the point's keys and values alone, not on their order or on other points."""
    return hashlib.sha256(canonical(point).encode()).hexdigest()[:8]


def problems(grid: Grid | None, axes: Axes = NO_AXES) -> list[Mistake]:
    """Everything that makes a grid ambiguous, empty, or not what was meant; `axes` are the command line's."""
    parts = [*(_parts(grid) if grid else ()), ("", NO_AXES, axes)]
    found = [*_empty_axes(parts), *_too_many(grid, axes)]
    if grid:
        found += [*_uneven(grid), *_said_twice(grid, axes), *_repeated(grid, parts), *_excluded(grid, parts)]
    if grid and not found and next(_kept(grid, axes), None) is None:
        do = "remove an entry of exclude, or give the axes more values"
        found.append((f"all {_size(grid, axes)} points are excluded, and none is left", "sweep.exclude", do))
    return found


def _product(axes: Axes) -> Iterator[Point]:
    return (dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values()))


def _zipped(axes: Axes) -> Iterator[Point]:
    rows: Iterable[tuple[Any, ...]] = zip(*axes.values(), strict=True) if axes else [()]
    return (dict(zip(axes, values, strict=True)) for values in rows)


def _joined(*factors: Iterable[Point]) -> Iterator[Point]:
    for parts in itertools.product(*factors):
        yield {key: value for part in parts for key, value in part.items()}


def _blocks(blocks: Sequence[Block]) -> Iterator[Point]:
    """One block after the other; no blocks change nothing."""
    for block in blocks or (Block(),):
        yield from _joined(_product(block.product), _zipped(block.zip))


def _kept(grid: Grid, axes: Axes) -> Iterator[Point]:
    for point in _joined(_product(grid.product), _zipped(grid.zip), _blocks(grid.blocks), _product(axes)):
        if not any(_matches(point, entry) for entry in grid.exclude):
            yield point


def _matches(point: Point, entry: Mapping[str, Any]) -> bool:
    return all(key in point and same(point[key], value) for key, value in entry.items())


def _unique(found: Iterable[Point]) -> list[Point]:
    first: dict[str, Point] = {}
    for point in found:
        first.setdefault(canonical(point), point)
    return list(first.values())


def _subset(found: list[Point], subset: Subset | None) -> list[Point]:
    if subset is None or subset.count >= len(found):
        return found
    chosen = random.Random(subset.seed).sample(range(len(found)), subset.count)
    return [found[index] for index in sorted(chosen)]


def _size(grid: Grid | None, axes: Axes) -> int:
    """Points before anything is left out."""

    def of(block: Block | Grid) -> int:
        rows = min((len(values) for values in block.zip.values()), default=1)
        return rows * math.prod(len(values) for values in block.product.values())

    blocks = sum(map(of, grid.blocks or (Block(),))) if grid else 1
    return blocks * (of(grid) if grid else 1) * math.prod(len(values) for values in axes.values())


_Part = tuple[str, Axes, Axes]
"""Key of a place where axes are said (empty: the command line), what is zipped there, what is multiplied."""


def _parts(grid: Grid) -> list[_Part]:
    blocks = [(f"sweep.blocks.{i}", block.zip, block.product) for i, block in enumerate(grid.blocks)]
    return [("sweep", grid.zip, grid.product), *blocks]


_Spoken = tuple[str, str, Sequence[Any]]
"""Key of an axis, where it is said (on the command line: the key itself), its values."""


def _spoken(part: _Part) -> Iterator[_Spoken]:
    place, zipped, multiplied = part
    for word, axes in (("product", multiplied), ("zip", zipped)):
        for key, values in axes.items():
            yield key, f"{place}.{word}.{key}" if place else key, values


def _empty_axes(parts: Sequence[_Part]) -> Iterator[Mistake]:
    for part in parts:
        for key, said, values in _spoken(part):
            if not values:
                yield f"{key} has no values, and so there are no points", said, "give it values, or remove it"


def _too_many(grid: Grid | None, axes: Axes) -> Iterator[Mistake]:
    if (size := _size(grid, axes)) > MOST_POINTS:
        do = "shorten its lists, or search the space: kind: search, algorithm: random"
        said = "sweep" if grid else max(axes, key=lambda key: len(axes[key]))
        yield f"the grid has {size} points, and at most {MOST_POINTS} can be listed", said, do


def _uneven(grid: Grid) -> Iterator[Mistake]:
    for place, zipped, _ in _parts(grid):
        lengths = {key: len(values) for key, values in zipped.items()}
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{key} has {length}" for key, length in lengths.items())
            do = "give every zipped list the same number of values, or move one to product"
            yield f"lists that step together differ in length: {listed}", f"{place}.zip", do


def _said_twice(grid: Grid, axes: Axes) -> Iterator[Mistake]:
    """A key in two factors of one point; two blocks may share keys, as they are alternatives."""
    beside, *blocks = _parts(grid)
    first: dict[str, _Spoken] = {}
    yield from _again([*_spoken(beside), *_spoken(("", NO_AXES, axes))], first)
    for block in blocks:
        yield from _again(_spoken(block), dict(first))


def _again(spoken: Iterable[_Spoken], first: dict[str, _Spoken]) -> Iterator[Mistake]:
    """Notes in `first` where each key is said, and yields those that are there already."""
    for axis in spoken:
        if axis[0] not in first:
            first[axis[0]] = axis
            continue
        one, other = (
            f"{shown(values)} {'on the command line' if said == key else f'in {said}'}"
            for key, said, values in (first[axis[0]], axis)
        )
        yield f"{axis[0]} takes {one}, and {other}", axis[1], "say it in one place only"


def _repeated(grid: Grid, parts: Sequence[_Part]) -> Iterator[Mistake]:
    if grid.repeats > 1:
        for key, said, values in itertools.chain.from_iterable(map(_spoken, parts)):
            if key == "seed":
                what = f"repeats is {grid.repeats}, which sets seed, and {said} sweeps seed over {shown(values)}"
                yield what, "sweep.repeats", "remove repeats, or do not sweep seed"


def _excluded(grid: Grid, parts: Sequence[_Part]) -> Iterator[Mistake]:
    taken: dict[str, list[Any]] = {}
    for key, _, values in itertools.chain.from_iterable(map(_spoken, parts)):
        taken.setdefault(key, []).extend(values)
    for i, entry in enumerate(grid.exclude):
        if not entry:
            yield "an entry that names nothing leaves out every point", f"sweep.exclude.{i}", "name keys and values"
        for key, value in entry.items():
            said = f"sweep.exclude.{i}.{key}"
            if key not in taken:
                yield f"exclude names {key}, and no axis has that key", said, nearest(key, list(taken))
            elif not among(value, taken[key]):
                do = "name one of the values, or remove the entry"
                yield f"exclude names {key} {shown(value)}, and {key} takes {shown(taken[key])}", said, do
