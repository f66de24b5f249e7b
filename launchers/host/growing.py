"""Files below folders of a member, to which its program adds while they are read: which there are, and what stood in
them before this attempt.

A member's later attempts find the files of the earlier ones. How much those had said is noted when an attempt begins,
so that also a supervisor that comes after a killed one knows what was said by whom. Standard library only.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from launchers.run_folder.record import Attempt, read_json, write_json

MOST_FILES = 1000
"""A program that makes a file for each step has nobody who reads all of them."""
DEEPEST = 8
"""Folders below the one that is looked through."""


class Growing:
    """The files of one attempt."""

    def __init__(self, attempt: Attempt, pattern: str, named: str) -> None:
        """`pattern` names folders below the member's, each with what stands below it; `named` is in each file's name,
        and what they held by now is not this attempt's. Raises OSError where that cannot be noted."""
        self.member = attempt.path.parent
        self.trouble = ""
        """What a person should know; empty where there is nothing."""
        self._pattern, self._named = pattern, named
        note = attempt.path / "said_before.json"
        known = read_json(note)
        if known is None:
            known = {str(path.relative_to(self.member)): size for path, _, size in self.files()}
            write_json(note, known)
        self._before: dict[str, int] = known

    def files(self) -> Iterator[tuple[Path, str, int]]:
        """Each file that is there, what it stands below (`train/` for train/x in a folder of the pattern, or nothing)
        and its size; in the order of their names."""
        count = 0
        for folder in sorted(self.member.glob(self._pattern)):
            for path in _below(folder):
                if self._named not in path.name:
                    continue
                count += 1
                if count > MOST_FILES:
                    self.trouble = f"of more than {MOST_FILES} files below {folder} the others are not read"
                    return
                inside = path.parent.relative_to(folder).as_posix()
                yield path, "" if inside == "." else f"{inside}/", path.stat().st_size

    def begin(self, path: Path) -> int:
        """Where what this attempt says begins in a file."""
        return self._before.get(str(path.relative_to(self.member)), 0)


def _below(folder: Path) -> Iterator[Path]:
    """Files below a folder, without following links out of it."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(folders) if len(Path(place).relative_to(folder).parts) < DEEPEST else []
        yield from (path for name in sorted(names) if (path := Path(place, name)).is_file() and not path.is_symlink())
