"""What was changed of members after their launch: `retry` with other machines writes it, `status` and costs read it.

A line of changes.jsonl for each plan that was added to plan.json, written before the members name that plan in
members.jsonl: a line whose plan no member names, now or by a later change, never came to be.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from conf.document import from_document
from launchers.run_folder.record import Run, append_line, read_lines


@dataclass(frozen=True, kw_only=True)
class Change:
    """Members that were given another plan."""

    shape: int
    """Number of the plan that they have since."""
    before: int
    """And of the one that they had."""
    t: float
    """Seconds since the epoch."""
    command: tuple[str, ...]
    overrides: tuple[str, ...]
    members: str
    """Ranges, as 0-3,7."""
    tried: Mapping[str, int]
    """Attempts that each had made under the plan before, by its index."""
    was: Mapping[str, Any]
    """The sections of their spec that are others now, as they were."""
    now: Mapping[str, Any]

    def document(self) -> dict[str, Any]:
        """For JSON: each key that has another value, with both."""
        said = {"t": self.t, "members": self.members, "command": list(self.command), "overrides": list(self.overrides)}
        was, now = dict(_leaves("", self.was)), dict(_leaves("", self.now))
        differ = [key for key in {**was, **now} if was.get(key) != now.get(key)]
        return {**said, "keys": {key: {"was": was.get(key), "now": now.get(key)} for key in differ}}


def write_change(run: Run, change: Change) -> None:
    """Add it to the run's, and wait until it is on disk."""
    append_line(_file(run), asdict(change))


def changes_of(run: Run, shapes: Collection[int]) -> list[Change]:
    """Those that led to the plans which members name now, oldest first."""
    known, found, todo = _known(run), dict[int, Change](), set(shapes)
    while todo:
        change = known.get(todo.pop())
        if change is not None and change.shape not in found:
            found[change.shape] = change
            todo.add(change.before)
    return [found[shape] for shape in sorted(found)]


class History:
    """What members asked for in earlier attempts."""

    def __init__(self, run: Run) -> None:
        self._known = _known(run)

    def section(self, name: str, row: Mapping[str, Any], attempt: int) -> Any:
        """A section of a member's spec in this attempt, or None where it was that of the launch's first member. `row`
        is the member's line of members.jsonl."""
        found, shape = row["sections"].get(name), row.get("shape", 0)
        while (change := self._known.get(shape)) and attempt < change.tried.get(str(row["index"]), 0):
            found, shape = change.was.get(name, found), change.before
        return found


def _known(run: Run) -> dict[int, Change]:
    """By plan; of two lines for one plan the first never came to be."""
    return {row["shape"]: from_document(Change, row) for row in read_lines(_file(run))}


def _file(run: Run) -> Path:
    return run.path / "changes.jsonl"


def _leaves(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    below = value if isinstance(value, Mapping) else dict(enumerate(value)) if isinstance(value, list | tuple) else {}
    for key, each in below.items():
        yield from _leaves(f"{prefix}.{key}" if prefix else str(key), each)
    if not below:
        yield prefix, value
