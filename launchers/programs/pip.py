"""pip of a job's Python: called where the job is launched, with a log of what it says; and what it resolved.

A wheelhouse is all that it asks where there is one. Variables that requirements name are handed to it, and masked in
what it said.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conf.masking import MASK, masked, pattern_of
from launchers.apptainer.container import Mount
from launchers.errors import SiteError
from launchers.programs.interpreter import Interpreter, pips_own, run_logged
from launchers.programs.requirements import VARIABLE, Requirements, plain

INSTALL_S = 3600


@dataclass(frozen=True)
class Asked:
    """What is to be installed, for messages."""

    what: str
    key: str
    """Or keys, that say so."""
    variables: Mapping[str, str]
    """Those that it names, handed to pip."""


@dataclass(frozen=True)
class Pip:
    """A call is one command of pip; raises SiteError with its last lines when it fails."""

    interpreter: Interpreter
    wheelhouse: Path | None
    bench: Path
    """A folder that it may write to, made by make_bench."""
    log: Path
    asked: Asked

    def __call__(self, *words: str) -> None:
        names, mounts = self._told()
        argv = self.interpreter.argv(["-m", "pip", *words], self.bench, mounts)
        why = run_logged(argv, self.log, self.interpreter.environment(names), INSTALL_S)
        if (hidden := pattern_of(self.asked.variables.values())) is not None:
            self.log.write_bytes(hidden.sub(MASK.encode(), self.log.read_bytes()))
        if why:
            do = "see its last lines above; "
            do += (
                f"everything that it needs, and is built with, has to be in {self.wheelhouse}"
                if self.wheelhouse is not None
                else "where no package index can be reached from here, give a folder of wheels: job.wheelhouse=DIR"
            )
            why = masked(why, self.asked.variables.values())
            what = f"{self.asked.what} cannot be installed for {self.interpreter.name}: pip {words[0]} said\n{why}"
            raise SiteError(what, f"{self.asked.key}; the whole log: {self.log}", do)

    def _told(self) -> tuple[dict[str, str], list[Mount]]:
        """Variables, and what an image has to be shown."""
        house = self.wheelhouse.resolve() if self.wheelhouse else None
        asks_here = house is None and self.interpreter.image is not None
        names, mounts = pips_own(self.bench) if asks_here else ({}, [])
        names |= {"PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_ROOT_USER_ACTION": "ignore"}
        names |= {"PIP_BREAK_SYSTEM_PACKAGES": "1", **self.asked.variables}
        if house is not None:
            names |= {"PIP_CONFIG_FILE": "/dev/null", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": house.as_uri()}
            mounts = [Mount(source=str(house), target=str(house))]
        return names, mounts


def lacking(report: Mapping[str, Any], made: str, asked: Requirements | None) -> Iterator[str]:
    """Lines of requirements, as exactly as pip resolved them, of what is not there yet and is not at `made`, the wheel
    of the source itself. In a report no address has its password: such a line is as it was written."""
    written = asked.direct if asked else {}
    for item in report["install"]:
        found = item["download_info"]
        if found["url"] == made:
            continue
        line = written.get(plain(item["metadata"]["name"]), "")
        if not (item.get("is_direct") and VARIABLE.search(line)):
            line = _exactly(item) + (_hash(found) if asked and asked.hashed else "")
        yield line


def _exactly(item: Mapping[str, Any]) -> str:
    info, found = item["metadata"], item["download_info"]
    if not item.get("is_direct"):
        return f"{info['name']}=={info['version']}"
    url = found["url"]
    if version := found.get("vcs_info"):
        url = f"{version['vcs']}+{url}@{version['commit_id']}"
    return f"{url}#subdirectory={found['subdirectory']}" if found.get("subdirectory") else str(url)


def _hash(found: Mapping[str, Any]) -> str:
    """Of the file that was looked at: what is installed is the same. (pip before 22.3 says it as name=value.)"""
    told = found.get("archive_info", {})
    known = told.get("hashes") or dict([told["hash"].split("=", 1)] if told.get("hash") else [])
    return "".join(f" --hash={name}:{value}" for name, value in known.items())
