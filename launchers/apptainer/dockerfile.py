"""A Dockerfile as an Apptainer definition: the instructions whose meaning a definition has, in their order.

Pure but for the parser, which is dockerfile-parse (extra `dockerfile`). What is COPYed goes into the image first,
aside, and is put in its place by %post when its turn comes: a RUN before that does not find it, one after it does.
Source: Dockerfile reference; Apptainer user guide, «Definition Files».
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launchers.errors import Problem, SiteError, SpecError

SUBSET = ("FROM", "ARG", "ENV", "RUN", "COPY", "WORKDIR", "LABEL", "ENTRYPOINT", "CMD", "USER", "EXPOSE", "MAINTAINER")
ASIDE = "/.copied"
WITH_FLAG = re.compile(r"--[a-z]")


@dataclass
class Definition:
    """The parts of a definition while a Dockerfile is read."""

    base: str = ""
    files: tuple[str, ...] = ()
    """Paths that are copied, relative to the Dockerfile's folder, in order."""
    post: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    entrypoint: str = ""
    command: str = ""
    workdir: str = "/"
    arguments: tuple[str, ...] = ()

    def text(self) -> str:
        """The definition. Its paths are relative to the folder that the build runs in."""
        run = " ".join(word for word in (self.entrypoint, self.command) if word)
        only = f'exec {self.entrypoint} "$@"' if self.entrypoint else 'exec "$@"'
        sections = {
            "files": [f'"{name}" {ASIDE}/{i}' for i, name in enumerate(self.files)],
            "environment": [f"export {line}" for line in self.environment],
            "labels": list(self.labels),
            "post": ["set -eu", *self.post, f"rm -rf {ASIDE}"],
            "runscript": [f"cd {self.workdir}", f"[ $# = 0 ] && exec {run or '/bin/sh'}", only],
        }
        blocks = (
            f"%{name}\n" + "".join(f"    {line}\n" for line in lines) for name, lines in sections.items() if lines
        )
        return f"Bootstrap: docker\nFrom: {self.base}\n\n" + "\n".join(blocks)


def definition_of(text: str, path: str) -> Definition:
    """Read a Dockerfile; `path` is where it stands.

    Raises SpecError with everything in it that has no counterpart, SiteError where the parser is not installed.
    """
    made, problems = Definition(), []
    for step in _instructions(text):
        name, value, line = step["instruction"], step["value"].strip(), step["startline"] + 1
        try:
            if "{{" in value:
                raise ValueError("{{ stands for a build argument in a definition, and cannot be written there")
            if name not in SUBSET:
                raise ValueError(f"{name} has no counterpart in an image that Apptainer builds")
            _READERS.get(name, _ignored)(made, value)
        except ValueError as e:
            do = f"use {', '.join(SUBSET[:10])}; or build it with docker, push it, and give docker://host/name:tag"
            problems.append(Problem(str(e), f"{path}:{line}", do))
    if not made.base and not problems:
        problems.append(Problem("there is no FROM", path, "begin with FROM image:tag"))
    if problems:
        raise SpecError(problems)
    return made


def content_of(path: Path) -> str:
    """A hash over a file, or over all files of a folder with their names and modes. Raises OSError."""
    found = hashlib.sha256()
    for each in sorted(path.rglob("*")) if path.is_dir() else [path]:
        found.update(f"{each.relative_to(path)} {each.lstat().st_mode:o}\n".encode(errors="surrogateescape"))
        if each.is_symlink():
            found.update(str(each.readlink()).encode(errors="surrogateescape"))
        elif each.is_file() or not each.exists():
            with each.open("rb") as f:
                found.update(hashlib.file_digest(f, "sha256").digest())
    return found.hexdigest()


def _instructions(text: str) -> Iterator[Mapping[str, Any]]:
    try:
        from dockerfile_parse import DockerfileParser
    except ImportError:
        do = "pip install 'fairlead[dockerfile]'"
        raise SiteError("a Dockerfile is read by the package dockerfile-parse, which is not here", do=do) from None
    found = DockerfileParser(fileobj=io.BytesIO(text.encode())).structure
    return (step for step in found if step["instruction"] != "COMMENT")


def _from(made: Definition, value: str) -> None:
    if made.base:
        raise ValueError("a second FROM: builds of several stages have no counterpart here")
    words = _words(value)
    if len(words) != 1 or words[0] == "scratch":
        raise ValueError(f"FROM {value}: one image is expected, without --platform, AS or scratch")
    made.base = re.sub(r"\$\{(\w+)\}|\$(\w+)", lambda m: _argument(made, m[1] or m[2]), words[0])


def _argument(made: Definition, name: str) -> str:
    values = dict(line.partition("=")[::2] for line in made.arguments)
    if name not in values:
        raise ValueError(f"FROM uses ${name}, which no ARG before it gives a value")
    return shlex.split(values[name])[0]


def _arg(made: Definition, value: str) -> None:
    name, separator, text = value.partition("=")
    if not separator or not name.isidentifier():
        raise ValueError(f"ARG {value}: there is no --build-arg here, so that it needs a value: ARG NAME=value")
    line = f"{name}={_double(text)}"
    made.arguments = (*made.arguments, line)
    made.post = (*made.post, f"export {line}") if made.base else made.post


def _env(made: Definition, value: str) -> None:
    pairs = re.findall(r"""([A-Za-z_]\w*)=((?:"(?:[^"\\]|\\.)*"|'[^']*'|\\.|[^\s"'\\])*)\s*""", value)
    name, _, rest = value.partition(" ")
    if not pairs or "".join(f"{k}={v}" for k, v in pairs) != re.sub(r"\s+(?=[A-Za-z_]\w*=)", "", value):
        if not name.isidentifier() or not rest:
            raise ValueError(f"ENV {value}: NAME=value is expected")
        pairs = [(name, rest.strip())]
    lines = tuple(f"{k}={_double(v)}" for k, v in pairs)
    made.environment = (*made.environment, *lines)
    made.post = (*made.post, *(f"export {line}" for line in lines))


def _run(made: Definition, value: str) -> None:
    if WITH_FLAG.match(value) or value.startswith("<<"):
        raise ValueError(f"RUN {value.split()[0]}: mounts, networks and here-documents have no counterpart")
    made.post = (*made.post, f"( {_shell(value)}\n    )" if not value.startswith("[") else _shell(value))


def _copy(made: Definition, value: str) -> None:
    words = json.loads(value) if value.startswith("[") else _words(value)
    if any(WITH_FLAG.match(word) for word in words) or len(words) < 2:
        raise ValueError(f"COPY {value}: sources and a target are expected, without --from, --chown or other flags")
    if strange := [word for word in words[:-1] if re.search(r"[*?\[$\"]", word) or ".." in word.split("/")]:
        raise ValueError(f"COPY {strange[0]}: patterns, variables and what is outside the folder have no counterpart")
    *sources, target = words
    if len(sources) > 1 and not target.endswith("/"):
        raise ValueError(f"COPY {value}: several sources need a target that ends in /")
    for source in sources:
        aside, place = f"{ASIDE}/{len(made.files)}", _double(target)
        named = place if not target.endswith("/") else f"{place}/{shlex.quote(source.rstrip('/').rpartition('/')[2])}"
        made.files = (*made.files, source.removeprefix("/") or ".")
        made.post = (
            *made.post,
            f"if [ -d {aside} ]; then mkdir -p {place}; cp -a {aside}/. {place}/; "
            f'else mkdir -p "$(dirname {named})"; cp -a {aside} {named}; fi',
        )


def _workdir(made: Definition, value: str) -> None:
    made.workdir = _double(value)
    made.post = (*made.post, f"mkdir -p {made.workdir}; cd {made.workdir}")


def _label(made: Definition, value: str) -> None:
    pairs = (word.partition("=") for word in shlex.split(value))
    made.labels = (*made.labels, *(f"{name} {text}" for name, _, text in pairs))


def _entrypoint(made: Definition, value: str) -> None:
    made.entrypoint, made.command = _started(value), ""


def _command(made: Definition, value: str) -> None:
    made.command = _started(value)


def _user(made: Definition, value: str) -> None:
    if value.partition(":")[0] not in ("root", "0"):
        raise ValueError(f"USER {value}: Apptainer runs a program as whoever starts it, and builds as root")


def _ignored(made: Definition, value: str) -> None:
    """EXPOSE and MAINTAINER: nothing follows from them."""


_READERS = {
    "FROM": _from, "ARG": _arg, "ENV": _env, "RUN": _run, "COPY": _copy, "WORKDIR": _workdir, "LABEL": _label,
    "ENTRYPOINT": _entrypoint, "CMD": _command, "USER": _user,
}  # fmt: skip


def _words(value: str) -> list[str]:
    return value.split()


def _shell(value: str) -> str:
    """What a shell runs: a text as it stands, a list of words quoted."""
    return shlex.join(json.loads(value)) if value.startswith("[") else value


def _started(value: str) -> str:
    return _shell(value) if value.startswith("[") else f"/bin/sh -c {shlex.quote(value)}"


def _double(value: str) -> str:
    """A value whose $NAMEs the shell fills in, as Docker does, and in which it runs nothing."""
    plain = value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value
    if len(value) > 1 and value[0] == value[-1] == "'":
        return value
    plain = plain.replace('\\"', '"')
    return '"' + re.sub(r'([`"])|\$(?=\()', lambda m: "\\" + m[0], plain) + '"'
