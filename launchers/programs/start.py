"""How what was installed is started: which module or console script, and whether it is there.

Looked up among the files, without importing anything of the user's: that may want a card or data.
"""

from __future__ import annotations

import configparser
from collections.abc import Sequence
from pathlib import Path

from launchers.errors import Problem, SpecError
from sweeps.names import nearest

TASKS = ("__main__", "task")
"""Modules that are started where nobody says which: Python's own convention, and Vertex's."""
LOOK = """\
import importlib.machinery as m, json, pkgutil, sys
path, whole = [*sys.argv[2:], *sys.path[1:]], ""
for part in sys.argv[1].split("."):
    whole = f"{whole}.{part}" if whole else part
    known = sorted({i.name for i in pkgutil.iter_modules(path)})
    found = m.PathFinder.find_spec(whole, path) or (m.BuiltinImporter.find_spec(whole) if whole == part else None)
    if found is None:
        print(json.dumps({"missing": whole, "known": known[:2000]})); sys.exit()
    path = list(found.submodule_search_locations or [])
if found.submodule_search_locations is not None:
    if m.PathFinder.find_spec(whole + ".__main__", path) is None:
        inside = sorted(i.name for i in pkgutil.iter_modules(path))
        print(json.dumps({"missing": whole + ".__main__", "known": inside})); sys.exit()
print(json.dumps({"missing": None}))
"""
"""Walks to a module by its dotted name as the import system would, and says where it ends. Python 3.6 and newer."""


def start_of(layer: Path, files: Sequence[str], where: str) -> tuple[str, ...]:
    """What starts a distribution, of which `files` were installed into a layer: its only console script (or the one
    called as the project), else its only package with a `__main__` or `task`.

    Raises SpecError where that is none or several, with what there is.
    """
    scripts = _console_scripts(layer, files)
    project = next((name.partition("-")[0] for name in files if ".dist-info/" in name), "")
    alike = [name for name in scripts if name.replace("-", "_").lower() == project.lower()]
    one = scripts if len(scripts) == 1 else alike
    if len(one) == 1:
        return (str(layer / "bin" / one[0]),)
    for task in TASKS:
        packages = [name.partition("/")[0] for name in files if name.endswith(f"/{task}.py") and name.count("/") == 1]
        if len(packages) == 1 and not scripts:
            return ("-m", packages[0] if task == "__main__" else f"{packages[0]}.{task}")
    what = f"what {project or 'it'} starts with is not clear: its console scripts are {', '.join(scripts) or 'none'}"
    modules = [name[:-3].replace("/", ".") for name in files if name.endswith(".py") and "__init__" not in name]
    do = f"name one: job.module={modules[0] if modules else 'my_package.task'}"
    raise SpecError([Problem(f"{what}, its modules {', '.join(modules[:12]) or 'none'}", where, do)])


def _console_scripts(layer: Path, files: Sequence[str]) -> list[str]:
    path = next((layer / name for name in files if name.endswith(".dist-info/entry_points.txt")), None)
    if path is None:
        return []
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment]
    parser.read_string(path.read_text(encoding="utf-8"))
    return sorted(parser["console_scripts"]) if parser.has_section("console_scripts") else []


def missing(module: str, missing: str, known: Sequence[str], where: str) -> SpecError:
    """The error of a module that is not there."""
    above, _, last = missing.rpartition(".")
    inside = f"{above} has no {last}" if above else "there is no such module"
    do = nearest(last, list(known)) if known else "check the name"
    if last == "__main__" and above == module:
        modules = ", ".join(f"{above}.{name}" for name in known)
        inside, do = f"{above} is a package without __main__", f"name one of its modules: {modules or 'none'}"
    return SpecError([Problem(f"job.module is {module!r}, but {inside}", where, do)])
