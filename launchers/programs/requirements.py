"""Files of requirements, read as pip reads them, and as what pip is handed in their place: one text without includes.

What would not be the same for whoever launches is refused: a folder or file of this host, which no digest covers, and
a password, which would travel with the code. A variable may hold one, `${NAME}`, as pip itself has it: it is read where
the job is launched, and stands in nothing that is kept.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from conf.job_schema import Job
from conf.locations import has_secrets, masked
from launchers.errors import Problem, SpecError
from launchers.folders import short
from launchers.programs.source import DISTRIBUTIONS
from launchers.programs.words import OURS
from launchers.run_folder import snapshot

NAME = "requirements.txt"
KEY = "job.requirements"
VARIABLE = re.compile(r"\$\{([A-Z0-9_]+)\}")
NAMED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\s*(\[[^]]*\]\s*)?($|[<>(]|===?|!=|~=)")
DIRECT = re.compile(r"([A-Za-z0-9._-]+)\s*(?:\[[^]]*\])?\s*@\s*\S")
COMMENT = re.compile(r"(^|\s+)#.*$")
WHO_ASKS = re.compile(r"(?<=://)([^/\s]*)@")
PLACES = ("--index-url", "--extra-index-url", "--find-links", "--no-index", "--trusted-host")
"""Options of where pip looks, which a wheelhouse is in place of."""
OTHERS = ("--no-binary", "--only-binary", "--prefer-binary", "--require-hashes", "--pre", "--use-feature")
FLAGS = ("--no-index", "--prefer-binary", "--require-hashes", "--pre")


@dataclass(frozen=True, kw_only=True)
class Requirements:
    """What a file and those that it includes ask for."""

    path: Path
    options: tuple[tuple[str, ...], ...] = ()
    """Of pip, each by its whole name."""
    lines: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Of what is asked for: a comment changes nothing, nor does in which file a line stands."""
        said = repr((self.options, self.lines, self.constraints))
        return f"sha256:{hashlib.sha256(said.encode('utf-8', 'surrogateescape')).hexdigest()}"

    @property
    def hashed(self) -> bool:
        """Whether pip asks for a hash of everything."""
        return ("--require-hashes",) in self.options or any("--hash" in line for line in self._all())

    @property
    def variables(self) -> dict[str, str]:
        """Those of who launches that are named, most likely with a password."""
        said = [*self._all(), *(word for option in self.options for word in option)]
        names = dict.fromkeys(name for text in said for name in VARIABLE.findall(text))
        return {name: os.environ[name] for name in names if name in os.environ}

    @property
    def direct(self) -> dict[str, str]:
        """Lines with an address, by the names of their packages."""
        found = ((DIRECT.match(line), line) for line in self.lines)
        return {plain(match[1]): line for match, line in found if match}

    def text(self, lines: Sequence[str], *, offline: bool) -> str:
        """These lines as a file for pip, below the options."""
        kept = (option for option in self.options if not (offline and option[0] in PLACES))
        return "".join(f"{line}\n" for line in (*(shlex.join(option) for option in kept), *lines))

    def _all(self) -> tuple[str, ...]:
        return (*self.lines, *self.constraints)


def plain(name: str) -> str:
    """A package's name as names are compared (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def of(job: Job) -> Requirements | None:
    """What a job asks for. Raises SpecError as `read` does."""
    if job.requirements is None:
        return None
    return read(Path(job.requirements).expanduser().absolute(), offline=job.wheelhouse is not None)


def beside(script: str, here: Path) -> str | None:
    """A file of requirements beside a script, or where the job is launched, by its path from there."""
    if script.startswith(OURS):
        return None
    found = (os.path.normpath(folder / NAME) for folder in (Path(script).parent, Path()))
    return next((name for name in found if (here / name).is_file()), None)


def read(path: Path, *, offline: bool) -> Requirements:
    """A file with all that it includes; `offline` where a wheelhouse is all that pip may ask. Raises SpecError with
    everything in it that cannot be handed to pip."""
    reader = _Reader(path, offline)
    reader.file(path, reader.lines)
    if not reader.lines and not reader.problems:
        reader.refuse(f"{short(path)} names no package", "write one on a line of its own, or leave the key out")
    if reader.problems:
        raise SpecError(reader.problems)
    options = tuple(dict.fromkeys(reader.options))
    return Requirements(path=path, options=options, lines=tuple(reader.lines), constraints=tuple(reader.constraints))


class _Options(argparse.ArgumentParser):
    """The options that pip knows in such a file; raises ValueError for any other."""

    def __init__(self) -> None:
        super().__init__(add_help=False, allow_abbrev=False)
        names = {"--index-url": ("-i", "--pypi-url"), "--find-links": ("-f",)}
        for name in (*PLACES, *OTHERS):
            kind = "store_true" if name in FLAGS else "append"
            self.add_argument(*names.get(name, ()), name, dest=name, action=kind)
        self.add_argument("-r", "--requirement", dest="-r", action="append", default=[])
        self.add_argument("-c", "--constraint", dest="-c", action="append", default=[])

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


class _Reader:
    """Goes through a file and its includes."""

    def __init__(self, first: Path, offline: bool) -> None:
        self.offline = offline
        self.problems = list[Problem]()
        self.options, self.lines, self.constraints = list[tuple[str, ...]](), list[str](), list[str]()
        folders = [snapshot.roots(first.parent)[-1], snapshot.roots(Path.cwd())[-1]]
        self.inside = [f for f in folders if first.resolve().is_relative_to(f)]
        self.seen = set[tuple[Path, bool]]()

    def refuse(self, what: str, do: str) -> None:
        self.problems.append(Problem(what, KEY, do))

    def file(self, path: Path, lines: list[str]) -> None:
        """Add what a file says; each once, as it may include itself."""
        key = (path.resolve(), lines is self.constraints)
        if key in self.seen:
            return
        self.seen.add(key)
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, ValueError) as e:
            why = e.strerror if isinstance(e, OSError) else "it is not UTF-8"
            return self.refuse(f"{short(path)} cannot be read: {why}", "give a file of requirements, as pip takes it")
        for number, line in _joined(text):
            self._line(line, path, number, lines)

    def _line(self, line: str, path: Path, number: int, lines: list[str]) -> None:
        place, count = f"{short(path)}:{number}", len(self.problems)
        for what, do in _why_secret(line):
            self.refuse(f"{place} {what}", do)
        if line.startswith("-"):
            self._option(line, path, place)
        elif why := _why_not(line, self.offline):
            self.refuse(f"{place} is {masked(line)!r}, {why[0]}", why[1])
        elif count == len(self.problems):
            lines.append(line)

    def _option(self, line: str, path: Path, place: str) -> None:
        if re.match(r"-e|--editable", line):
            what = "an editable package: a folder that changes while a job waits"
            do = "install a folder by job=module job.source=FOLDER; what is at an address: name @ git+https://..."
            return self.refuse(f"{place} is {masked(line)!r}, {what}", do)
        try:
            said = vars(_Options().parse_args(shlex.split(line)))
        except ValueError as e:
            do = f"use what pip knows there, by its whole name: -r, -c, {', '.join((*PLACES, *OTHERS))}"
            return self.refuse(f"{place} is {masked(line)!r}: {masked(str(e))}", do)
        for name, value in said.items():
            if name not in ("-r", "-c") and value:
                self.options += [(name,)] if value is True else [(name, word) for word in value]
        for word in said["--find-links"] or ():
            if "://" not in word or word.startswith("file:"):
                do = "take it out, and give the folder by job.wheelhouse=FOLDER"
                self.refuse(f"{place} has --find-links {word!r}, a folder of this host", do)
        for name, into in (("-r", self.lines), ("-c", self.constraints)):
            for word in said[name]:
                self._include(word, path, place, into)

    def _include(self, word: str, path: Path, place: str, into: list[str]) -> None:
        target = path.parent / word
        if "://" in word or not any(target.resolve().is_relative_to(folder) for folder in self.inside):
            outside = ", ".join(str(folder) for folder in dict.fromkeys(self.inside))
            what = f"{place} includes {masked(word)!r}, which is not in the project, {outside}"
            return self.refuse(what, "copy it into the project, and name the copy")
        self.file(target, into)


def _joined(text: str) -> Iterator[tuple[int, str]]:
    """Lines without comments, each with its number; what ends in a backslash goes on, as pip has it."""
    begun, first = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        first = first or number
        comment = re.match(r"\s*#", line)
        if line.endswith("\\") and not comment:
            begun += line[:-1]
            continue
        whole = COMMENT.sub("", begun + (" " if comment else "") + line).strip()
        if whole:
            yield first, whole
        begun, first = "", 0
    if left := COMMENT.sub("", begun).strip():
        yield first, left


def _why_not(line: str, offline: bool) -> tuple[str, str] | None:
    """Why a requirement cannot be handed to pip, and what to do."""
    asked, dash, options = (line if " -" in line else f"{line} ").partition(" -")
    if dash and any(not word.startswith("--hash=") for word in re.sub("--hash +", "--hash=", f"-{options}").split()):
        return "with an option that is not --hash", "build its wheel, and give it in a folder: job.wheelhouse=FOLDER"
    package = asked.partition(";")[0].strip()
    address = package.partition("@")[2].strip() if DIRECT.match(package) else package
    if "://" not in address or address.startswith("file:"):
        if address != package or "/" in package or package.startswith((".", "~")) or package.endswith(DISTRIBUTIONS):
            do = "install a folder by job=module job.source=FOLDER, and a wheel from a folder: job.wheelhouse=FOLDER"
            return "a file or folder of this host", do
        if not NAMED.match(package):
            return "no requirement", "write it as pip takes it: name, name[extra]==1.0 or name @ https://..."
    elif offline:
        return "an address, but job.wheelhouse is all that may be asked", "put its wheel there, and write its name here"
    return None


def _why_secret(line: str) -> Iterator[tuple[str, str]]:
    """What in a line must not be kept, or is not known: each with what to do."""
    addresses = (_without_variables(word) for word in re.split(r"[\s=]+(?=[a-z+]+://)|\s+", line) if "://" in word)
    if any(has_secrets(address) for address in addresses):
        do = "take it out, and write ${NAME} there: pip is given that variable of where you launch"
        yield f"is {masked(line)!r}: its password or signature would travel with your code", do
    for name in dict.fromkeys(VARIABLE.findall(line)):
        if name not in os.environ:
            yield f"names ${{{name}}}, which is not set here", f"set it where you launch: export {name}=..."


def _without_variables(address: str) -> str:
    """An address without what may stand in it: variables in place of secrets, and the user of whom ssh asks for."""
    user, colon, password = who[1].partition(":") if (who := WHO_ASKS.search(address)) else ("", "", "")
    hidden = VARIABLE.fullmatch(password) if colon else VARIABLE.fullmatch(user) or user == "git" or "ssh://" in address
    address = WHO_ASKS.sub("", address, count=1) if hidden else address
    return re.sub(r"[^?&]*=\$\{[A-Z0-9_]+\}", "", address)
