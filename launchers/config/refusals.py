"""What Hydra refuses to compose, in our words: which line of which file, and what may have been meant.

Its messages are read by their text (hydra-core is held below 1.4); one that is not known is passed on whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from launchers.config.yaml_files import GLOBAL, Entry, Files, entries
from launchers.errors import Problem
from launchers.folders import short
from sweeps.names import nearest

CANNOT_OVERRIDE = re.compile(r"In '(?P<file>[^']+)': Could not override '(?P<group>[^'@]+)(?:@(?P<package>[^']*))?'")
CANNOT_FIND = re.compile(r"In '(?P<file>[^']+)': Could not (?:find|load) '(?:(?P<group>[^']*)/)?(?P<option>[^'/]+)'")
CANNOT_DELETE = re.compile(r"Could not delete(?: from config)?\.? .*?'(?P<key>[^']+)'")
AGAIN = re.compile(r"(?P<group>\S+) appears more than once in the final defaults list")
TWICE = re.compile(r"Multiple values for (?P<group>[^.]+)\.")


def problem_of(error: Exception, files: Files, overrides: Sequence[str]) -> Problem:
    """The problem that an error of Hydra's tells."""
    said = [line.strip() for line in str(error).split("Config search path")[0].splitlines() if line.strip()]
    text = " ".join(said) or type(error).__name__
    kinds: tuple[tuple[re.Pattern[str], Callable[[re.Match[str], Files, str], Problem]], ...] = (
        (CANNOT_OVERRIDE, _cannot_override),
        (CANNOT_FIND, _cannot_find),
        (CANNOT_DELETE, _cannot_delete),
        (TWICE, _twice),
        (AGAIN, _again),
    )
    typed = f"override {' '.join(overrides)}" if overrides else "config.yaml"
    for pattern, tell in kinds:
        if found := pattern.search(text):
            return tell(found, files, typed)
    do = " ".join(said[1:]) or "mend the file or the override it names"
    return Problem(f"Hydra cannot compose this: {said[0] if said else text}", typed, do)


def _cannot_override(found: re.Match[str], files: Files, typed: str) -> Problem:
    """An `override` of a group that is not chosen anywhere before."""
    group = found["group"]
    entry = _entry(files, lambda e: e.group == group, found["file"])
    where = entry.where if entry else typed
    own = found["file"].rpartition("/")[0].replace("/", ".")
    if own and (found["package"] or "").startswith(f"{own}."):
        what = f"`override /{group}` changes nothing outside {own}: the first line of this file is not `{GLOBAL}`"
        return Problem(what, where, f"write {GLOBAL} as its first line")
    return Problem(f"there is no group {group!r} to override", where, nearest(group, files.groups()))


def _cannot_find(found: re.Match[str], files: Files, typed: str) -> Problem:
    """An option that is not there, named in a file or on the command line."""
    group, option = found["group"] or "", found["option"]
    options = files.get_group_options(group)
    last = group.rpartition("/")[2]
    entry = _entry(files, lambda e: e.option.rpartition("/")[2] == option and e.group in ("", group, last))
    where = entry.where if entry else typed
    if not options:
        return Problem(f"there is no group {group!r}", where, nearest(group, files.groups()))
    if path := files.misnamed(group, option):
        what = f"{group} has no option {option!r}: only files that end in .yaml are read"
        return Problem(what, short(path), f"rename it to {option}.yaml")
    return Problem(f"{group} has no option {option!r}", where, nearest(option, options))


def _cannot_delete(found: re.Match[str], files: Files, typed: str) -> Problem:
    do = "leave that override out, or name a key that is there (see `fairlead plan`)"
    return Problem(f"~{found['key']} would remove a key that is not there", typed, do)


def _twice(found: re.Match[str], files: Files, typed: str) -> Problem:
    group = found["group"]
    entry = _entry(files, lambda e: e.group == group and not e.where.startswith("config.yaml"))
    do = f"write {group}=... without the +, or `override /{group}: ...` in a file"
    return Problem(f"{group} is chosen twice", typed if f"+{group}" in typed or not entry else entry.where, do)


def _again(found: re.Match[str], files: Files, typed: str) -> Problem:
    """A group that has a choice already, and that a file chooses without the word `override`."""
    group = found["group"].partition("@")[0]
    entry = _entry(files, lambda e: e.group == group and not e.override and not e.where.startswith("config.yaml"))
    option = entry.option if entry else "OPTION"
    what = f"{group} has a choice before this file, which chooses it without the word override"
    return Problem(what, entry.where if entry else typed, f"write `- override /{group}: {option}`")


def _entry(files: Files, fits: Callable[[Entry], bool], first: str = "") -> Entry | None:
    """The entry of a defaults list that fits: in the file of this name, or in any that was read, the last first."""
    paths = [*([files.read[first]] if first in files.read else []), *reversed(files.read.values())]
    return next((e for path in paths for e in entries(path) if fits(e)), None)
