"""Which samples train, which validate, and which are a final test's? One rule for every source: each sample is in at
most one part.

A source says what can be known of its samples (Rows), the user says how they are parted (`data.split`, Split).
The same split of the same samples is the same on every machine, whatever the run's own seed.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from conf.bounds import Fraction, NotNegative, Text, group
from trainer.data.expressions import RULES, parsed
from trainer.failure import UserError

if TYPE_CHECKING:
    import numpy as np

    from trainer.sources import RowTask

    Part: TypeAlias = range | np.ndarray
    """Numbers of samples, ascending. A range takes no memory, however long a row of tokens is."""

By = Literal["random", "stratified", "end", "column", "time", "filter"]
TRAINS, VALIDATES, TESTS = 1, 2, 3
Finding = tuple[str, str, str]
"""What is wrong, the key, what to do."""


@group
class Split:
    """How samples are parted."""

    by: By | None = None
    """random: a fraction of all. stratified: of each class, so that both parts have the same mix. end: the last ones.
    column: by a column's values. time: those of a column from a moment on. filter: those of which an expression over
    columns is true. None: stratified where samples have classes, random
    where numbers are predicted of them, else end."""
    fraction: Fraction = 0.1
    """Kept for validation by random, stratified and end; 0 keeps nothing."""
    test_fraction: Fraction = 0.0
    """Kept for a final test by random, stratified (both leave the validation part as it is without) and end (the very
    last samples; those before them validate); 0 declares no test."""
    seed: NotNegative = 0
    """Of random and stratified. Apart from the run's seed, so that members with different seeds are compared on the
    same samples."""
    column: Text | None = None
    train: Text | tuple[Text | int | float | bool, ...] = ()
    """Values of the column; () is all that no other key names. By filter, an expression such as `year < 2020 and
    kind != "x"`; what no filter takes is left out, but where `train` is () it takes what the others do not."""
    validation: Text | tuple[Text | int | float | bool, ...] = ()
    test: Text | tuple[Text | int | float | bool, ...] = ()
    """Of a final test, by column and filter; () declares none."""
    leave_out: tuple[Text | int | float | bool, ...] = ()
    """Values whose samples are in no part."""
    before: Text | int | float | None = None
    """By time: the first moment that validates, as the column has it: a number, or text such as 2026-01-31."""
    test_from: Text | int | float | None = None
    """By time: the first moment of a final test, likewise; None declares none."""


@dataclass(frozen=True)
class Labels:
    """A value for each sample, as a number into `names`."""

    codes: np.ndarray
    names: tuple[str, ...]


@dataclass(frozen=True)
class Rows:
    """What a source knows of its samples, as far as the split needs it."""

    count: int
    classes: np.ndarray | None = None
    """A number for each sample; None where samples have no class."""
    column: Labels | None = None
    """The split's column, for by=column."""
    moments: np.ndarray | None = None
    """The split's column, for by=time: float64, or datetime64 in UTC."""
    sides: np.ndarray | None = None
    """For by=filter: TRAINS, VALIDATES, TESTS, or 0 for a sample that is in no part."""


def own_way(task: RowTask) -> By:
    """How samples of a task are parted where nobody says."""
    return "stratified" if task == "classification" else "random"


def ways_of(task: RowTask, ways: tuple[By, ...]) -> tuple[By, ...]:
    """Those of a source's ways that a task leaves, the first its own."""
    return ways if task == "classification" else tuple(by for by in ways if by != "stratified")


def way(split: Split, own: By) -> By:
    """How a split parts, where a source's own way is `own`."""
    return split.by or own


def keeps(split: Split, own: By) -> bool:
    """Whether anything is meant to be kept for validation."""
    return way(split, own) in ("column", "time", "filter") or split.fraction > 0


def tests(split: Split) -> bool:
    """Whether a part for a final test is declared."""
    return split.test_fraction > 0 or bool(split.test) or split.test_from is not None


def mistakes(split: Split, ways: tuple[By, ...], columns: tuple[str, ...] | None = None) -> tuple[Finding, ...]:
    """What can be seen to be wrong before any data are read. `ways` are the source's, the first its own; `columns`
    are those it has, None if only the data say."""
    by = way(split, ways[0])
    if by == "stratified" and by not in ways:
        what = "data.split.by is stratified, which these data cannot do: it goes by classes, and they have none"
        return ((what, "data.split.by", f"use one of: {', '.join(ways)}; or null for {ways[0]}"),)
    if by not in ways:
        return (
            (f"data.split.by is {by}, which these data cannot do", "data.split.by", f"use one of: {', '.join(ways)}"),
        )
    if wrong := _of_test(split, by):
        return wrong
    if by == "filter" or any(isinstance(said, str) for said in (split.train, split.validation, split.test)):
        return _of_filters(split)
    if by in ("column", "time") and split.column is None:
        return ((f"data.split.by is {by}, but data.split.column is not given", "data.split.column", "name a column"),)
    if by in ("column", "time") and columns is not None and split.column not in columns:
        what = f"data.split.column is {split.column!r}, which these data do not have"
        return ((what, "data.split.column", f"use one of: {', '.join(columns)}"),)
    if by == "column" and not split.validation:
        what = "data.split.by is column, but data.split.validation names none of its values"
        return ((what, "data.split.validation", "write validation: [value, ...]"),)
    if by == "time" and split.before is None:
        return (("data.split.by is time, but data.split.before is not given", "data.split.before", "give a moment"),)
    return ()


TEST_KEYS = {
    "test_fraction": ("random", "stratified", "end"),
    "test": ("column", "filter"),
    "test_from": ("time",),
}
"""Which key declares a test, by the way of parting."""


def _of_test(split: Split, by: By) -> tuple[Finding, ...]:
    """What is wrong with a part for a test before any data are read."""
    for key, ways in TEST_KEYS.items():
        said = getattr(split, key)
        if said not in (None, ()) and (said or key == "test_from") and by not in ways:
            right = next(name for name, those in TEST_KEYS.items() if by in those)
            what = f"data.split.{key} is {said!r}, but data.split.by is {by}, which does not go by it"
            return ((what, f"data.split.{key}", f"use data.split.{right}, or leave it out"),)
    if by in TEST_KEYS["test_fraction"] and split.test_fraction and split.fraction + split.test_fraction >= 1:
        what = f"data.split.fraction is {split.fraction:g} and test_fraction {split.test_fraction:g}: nothing trains"
        return ((what, "data.split.test_fraction", "use fractions that are below 1 together"),)
    return ()


def _of_filters(split: Split) -> tuple[Finding, ...]:
    """What is wrong with a split by filter before any column is known."""
    if split.by != "filter":
        what = f"data.split.by is {split.by}, but data.split has a filter"
        return ((what, "data.split.by", "write by: filter, or values in brackets: validation: [value, ...]"),)
    if not split.validation or split.leave_out:
        what = "data.split.by is filter, but data.split.leave_out is given" if split.leave_out else ""
        what = what or "data.split.by is filter, but data.split.validation is not given"
        return (
            (what, "data.split.validation", 'write validation: "column >= value"; what no filter takes is left out'),
        )
    for key in ("train", "validation", "test"):
        text = getattr(split, key)
        if text and not isinstance(text, str):
            return ((f"data.split.{key} is {list(text)}, and a filter is a text", f"data.split.{key}", RULES),)
        try:
            parsed(text or "true")
        except ValueError as e:
            return ((f"data.split.{key} is {text!r}: {e}", f"data.split.{key}", RULES),)
    return ()


def parts(split: Split, rows: Rows, own: By) -> tuple[Part, ...]:
    """Samples for training, for validation and, where it is declared, for a final test; the parts share none.

    Raises UserError when a part comes out empty that was not meant to be, or when a value has no part.
    """
    import numpy as np

    by = way(split, own)
    if by == "end":
        tested = rows.count - round(rows.count * split.test_fraction)
        kept = max(0, tested - round(rows.count * split.fraction))
        cut: tuple[Part, ...] = (range(kept), range(kept, tested), range(tested, rows.count))
        return _not_empty(split, by, cut)
    sides = _sides(split, rows, by)
    return _not_empty(split, by, tuple(np.flatnonzero(sides == side) for side in (TRAINS, VALIDATES, TESTS)))


def _sides(split: Split, rows: Rows, by: By) -> np.ndarray:
    """For each sample the part it is in, or 0, as Rows.sides."""
    import numpy as np

    if by == "filter":
        assert rows.sides is not None  # a source that offers it looks at the columns
        return rows.sides
    if by == "column":
        return _by_value(split, rows)
    sides = np.full(rows.count, TRAINS, dtype="u1")
    if by == "time":
        sides[_since(split, rows, "before")] = VALIDATES
        if split.test_from is not None:
            sides[_since(split, rows, "test_from")] = TESTS
        return sides
    if by == "random":
        count, tested = (round(rows.count * fraction) for fraction in (split.fraction, split.test_fraction))
        chosen = _drawn(rows.count, count + tested, split.seed)
        drawn = [(chosen[:count], chosen[count:])]
    else:
        drawn = _of_each_class(split, rows)
    for kept, tested_too in drawn:
        sides[kept], sides[tested_too] = VALIDATES, TESTS
    return sides


def digest_of(content: str, part: Part) -> str:
    """Fingerprint of some samples of a content whose own fingerprint is known."""
    seen = hashlib.sha256(f"{content} {len(part)}".encode())
    seen.update(f"{part.start}".encode() if isinstance(part, range) else part.astype("<i8").tobytes())
    return seen.hexdigest()


def picked(part: Part, indices: np.ndarray) -> np.ndarray:
    """Numbers of the samples at some places of a part."""
    return part.start + indices if isinstance(part, range) else part[indices]


def _drawn(size: int, count: int, *seeds: int) -> np.ndarray:
    """The first few places of a shuffle."""
    import numpy as np

    from trainer.data.order import permuted, seed_of

    return permuted(np.arange(count), size, seed_of(*seeds))


def _of_each_class(split: Split, rows: Rows) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each class those that validate, and those of a test."""
    import numpy as np

    assert rows.classes is not None  # a source that offers it has classes
    labels, sizes = np.unique(rows.classes, return_counts=True)
    counts = _shares(sizes, split.fraction, sizes)
    tested = _shares(sizes, split.test_fraction, sizes - counts)
    of_class = np.split(np.argsort(rows.classes, kind="stable"), np.cumsum(sizes)[:-1])
    found = []
    for label, count, more, members in zip(labels, counts.tolist(), tested.tolist(), of_class, strict=True):
        chosen = members[_drawn(len(members), count + more, split.seed, int(label))]
        found.append((chosen[:count], chosen[count:]))
    return found


def _shares(sizes: np.ndarray, fraction: float, most: np.ndarray) -> np.ndarray:
    """Of each class its share, within one sample, and over all classes the very fraction (largest remainders first);
    of none more than `most`."""
    import numpy as np

    counts = np.minimum(np.floor(sizes * fraction).astype(np.int64), most)
    rest = round(int(sizes.sum()) * fraction) - int(counts.sum())
    order = np.argsort(counts - sizes * fraction, kind="stable")
    counts[order[(counts < most)[order]][:rest]] += 1
    return counts


def _by_value(split: Split, rows: Rows) -> np.ndarray:
    """For each sample its part. Every value must have a part, and every part its values."""
    import numpy as np

    assert rows.column is not None  # a source that offers it reads the column
    names = rows.column.names
    said = {name: tuple(map(word, getattr(split, name))) for name in ("train", "validation", "test", "leave_out")}
    for key, values in said.items():
        for value in values:
            if value not in names:
                what = f"data.split.{key} has {value!r}, but no sample has that in column {split.column}"
                raise UserError(what, f"data.split.{key}", f"there is: {few(names)}")
            if any(value in others for other, others in said.items() if other != key):
                raise UserError(f"data.split puts {value!r} into two parts", f"data.split.{key}", "name it once")
    named = {value for values in said.values() for value in values}
    if said["train"] and (stray := [name for name in names if name not in named]):
        what = f"column {split.column} has {few(stray)}, which data.split puts into no part"
        raise UserError(what, "data.split", "add it to train, validation, test or leave_out")
    sides = {name: side for key, side in SIDES_OF.items() for name in said[key]}
    return np.array([sides.get(name, TRAINS) for name in names], dtype="u1")[rows.column.codes]


SIDES_OF = {"validation": VALIDATES, "test": TESTS, "leave_out": 0}


def _since(split: Split, rows: Rows, key: str) -> np.ndarray:
    """Which samples are of the moment of `key`, or later."""
    import numpy as np

    moment = getattr(split, key)
    assert rows.moments is not None and moment is not None  # see `mistakes`
    if rows.moments.dtype.kind == "f":
        return ~(rows.moments < _number(moment, split, key))
    return ~(rows.moments < np.datetime64(_moment(moment, split, key), "us"))


def _number(said: str | float, split: Split, key: str) -> float:
    try:
        return float(said)
    except ValueError:
        what = f"data.split.{key} is {said!r}, but column {split.column} has numbers"
        raise UserError(what, f"data.split.{key}", "write a number") from None


def moment_of(text: str) -> str:
    """ISO 8601 in UTC without its zone; a time without a zone is UTC. Raises ValueError when it is none."""
    from datetime import UTC, datetime

    moment = datetime.fromisoformat(text)
    return (moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment).isoformat()


def _moment(said: str | float, split: Split, key: str) -> str:
    try:
        return moment_of(str(said))
    except ValueError:
        what = f"data.split.{key} is {said!r}, but column {split.column} has times"
        raise UserError(what, f"data.split.{key}", "write it as 2026-01-31 or 2026-01-31T12:00:00") from None


def _not_empty(split: Split, by: By, cut: tuple[Part, ...]) -> tuple[Part, ...]:
    """The parts that are declared. Raises UserError when one is empty that nobody meant to be."""
    wanted = {"training": True, "validation": keeps(split, by), "a final test": tests(split)}
    for (name, is_wanted), part in zip(wanted.items(), cut, strict=True):
        if is_wanted and not len(part):
            of = f"{sum(map(len, cut))} samples"
            how = f"column: {split.column}" if by in ("column", "time") else f"fraction: {split.fraction}"
            how = f"train: {split.train!r}, validation: {split.validation!r}" if by == "filter" else how
            do = "choose another split, more data, or smaller samples"
            raise UserError(f"the split leaves nothing of {of} for {name}", f"data.split: by: {by}, {how}", do)
    return cut if tests(split) else cut[:2]


def word(value: object) -> str:
    """A value as text, so that YAML's 1 and a column's 1 are the same."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def few(names: list[str] | tuple[str, ...]) -> str:
    """Some names in words, for a message."""
    shown = ", ".join(map(repr, names[:8]))
    return shown if len(names) <= 8 else f"{shown} and {len(names) - 8} more"
