"""The YAML files of a composition on their way into Hydra: which were read, and what is wrong with one by itself.

A mistake is told here with its file and line, before it becomes something else. What the files say together
is compose.py's, what Hydra then refuses refusals.py's.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml
from hydra._internal.config_repository import ConfigRepository
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import OmegaConf
from omegaconf.errors import GrammarParseError, OmegaConfBaseException
from omegaconf.grammar_parser import parse

from launchers.errors import Problem, SpecError
from launchers.folders import ROOT, short

SIXTIES = re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?")
"""YAML 1.1 reads 1:30 as 90."""
EIGHTS = re.compile(r"[-+]?0[0-7_]+")
"""And 010 as 8."""
SUSPECT = re.compile(r"[0-9]:[0-9]|\b0[0-9]|\$\{")
"""What a text must have for any of its values to be looked at."""
INT, FLOAT, STR = (f"tag:yaml.org,2002:{name}" for name in ("int", "float", "str"))
GLOBAL = "# @package _global_"


class Files(ConfigRepository):
    """Hydra's own reader of files, which remembers them and says what is wrong."""

    def __init__(self, sources: list[ConfigSource]) -> None:
        self.sources = sources
        self.read: dict[str, Path] = {}
        """Hydra's name for a file (`machine/cpu-small`) and the file, in the order of reading."""
        self.problems: list[Problem] = []
        """What Hydra would take, and should not."""

    def __deepcopy__(self, memo: object) -> Files:
        """Hydra copies it for each composition, to add sources; what was read is known to all."""
        copied = Files(list(self.sources))
        copied.read, copied.problems = self.read, self.problems
        return copied

    def load_config(self, config_path: str) -> ConfigResult | None:
        """Raises SpecError for a file that is not keys and values in YAML."""
        path = self.path_of(config_path)
        if path is None:
            return super().load_config(config_path)
        try:
            found = super().load_config(config_path)
        except (yaml.YAMLError, OmegaConfBaseException, OSError, ValueError) as e:
            raise SpecError(list(_misleading(path, "")) or [_unreadable(path, e)]) from None
        if found is not None and not OmegaConf.is_dict(found.config):
            what = "this file is a list, and must be keys and values"
            raise SpecError([Problem(what, short(path), "write lines of the form key: value, without a leading -")])
        if found is not None and config_path not in self.read:
            self.read[config_path] = path
            group, package = config_path.rpartition("/")[0], found.header.get("package")
            self.problems += _misleading(path, "" if package == "_global_" else group.replace("/", "."))
            if group == "experiment" and not package:
                self.problems.append(_not_global(path))
        return found

    def groups(self) -> list[str]:
        """Every group that has options, but Hydra's own."""
        return [g for g in self.get_group_options("", ObjectType.GROUP) if g != "hydra"]

    def misnamed(self, group: str, option: str) -> Path | None:
        """The file that would be this option, were it not called .yml, which Hydra lists and does not read."""
        folders = (folder_of_source(source) for source in self.sources)
        paths = (folder / group / f"{option}.yml" for folder in folders if folder)
        return next((path for path in paths if path.is_file()), None)

    def path_of(self, config_path: str) -> Path | None:
        """The file of that name; None for Hydra's own."""
        source = self._find_object_source(config_path, ObjectType.CONFIG)
        folder = folder_of_source(source) if source is not None else None
        return folder / f"{config_path.removesuffix('.yaml')}.yaml" if folder else None


@dataclass(frozen=True)
class Entry:
    """One entry of a defaults list."""

    where: str
    group: str
    option: str
    override: bool = False
    """Whether it changes a choice, and makes none of its own."""


def folder_of_source(source: ConfigSource) -> Path | None:
    """The folder that one of our sources or the user's reads; None for Hydra's own."""
    if source.provider not in ("main", "command-line"):
        return None
    return Path(source.path) if source.scheme() == "file" else ROOT / "conf"


def entries(path: Path) -> Iterator[Entry]:
    """The defaults list of a file, whatever state it is in; nothing of one that cannot be read."""
    found = _root(path)
    pairs = found.value if isinstance(found, yaml.MappingNode) else []
    for item in next((v.value for k, v in pairs if k.value == "defaults" and isinstance(v.value, list)), []):
        where = f"{short(path)}:{item.start_mark.line + 1}"
        if isinstance(item, yaml.ScalarNode):
            yield Entry(where, "", str(item.value))
        elif isinstance(item, yaml.MappingNode):
            for key, value in item.value:
                *words, group = str(key.value).split()
                yield Entry(where, group.partition("@")[0].lstrip("/"), str(value.value), "override" in words)


def _root(path: Path) -> yaml.Node | None:
    try:
        return yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (OSError, UnicodeError, yaml.YAMLError):
        return None


def _misleading(path: Path, package: str) -> Iterator[Problem]:
    """Values that YAML reads as something else than they look like, and interpolations that have no end."""
    root = _root(path) if SUSPECT.search(path.read_text(encoding="utf-8", errors="replace")) else None
    for key, node in _scalars(root, f"{package}." if package else ""):
        where = f"{short(path)}:{node.start_mark.line + 1} {key}"
        if node.tag in (INT, FLOAT) and not node.style:
            if SIXTIES.fullmatch(node.value):
                what = f"{key} is {node.value}, which YAML reads as {_number(node)}: a number in base 60"
                yield Problem(what, where, "write one plain number, in the key's unit (_min is minutes); or quote it")
            elif EIGHTS.fullmatch(node.value) and node.value.strip("+-0_"):
                what = f"{key} is {node.value}, which YAML reads as {_number(node)}: a number in base 8"
                yield Problem(what, where, "write it without the leading 0, or quote it")
        elif node.tag == STR and "${" in node.value:
            try:
                parse(node.value)
            except GrammarParseError as e:
                do = "close what begins with ${; write \\${ for these two characters themselves"
                yield Problem(f"{key} is {node.value!r}, which cannot be read: {_first_line(e)}", where, do)


def _not_global(path: Path) -> Problem:
    """An experiment whose first line Hydra does not take for its package; of an empty one, too, it makes a key."""
    if path.read_bytes().startswith(codecs.BOM_UTF8):
        what = "this file begins with a byte order mark (U+FEFF), behind which its first line is not seen"
        return Problem(what, f"{short(path)}:1", "save the file as UTF-8 without a byte order mark (BOM)")
    what = f"the first line of this experiment is not `{GLOBAL}`, so that it cannot set what is outside it"
    return Problem(what, f"{short(path)}:1", f"write {GLOBAL} as its first line")


def _number(node: yaml.ScalarNode) -> object:
    return yaml.safe_load(node.value)


def _scalars(node: yaml.Node | None, prefix: str) -> Iterator[tuple[str, yaml.ScalarNode]]:
    if isinstance(node, yaml.ScalarNode):
        yield prefix.rstrip("."), node
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _scalars(value, f"{prefix}{key.value}.")
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            yield from _scalars(value, f"{prefix}{i}.")


# --- what YAML's own parser refuses -------------------------------------------------------------------

UNCLOSED = {
    "while scanning a quoted scalar": (
        "a quote is opened in this line and never closed",
        "close it with the same quote",
    ),
    "while scanning a simple key": ("this line is no `key: value`", "add a colon and a value, or remove it"),
    "while parsing a flow mapping": ("a { is opened in this line, and not closed where it should be", "close it"),
    "while parsing a flow sequence": ("a [ is opened in this line, and not closed where it should be", "close it"),
}
"""PyYAML's context -> what is wrong in the line where that begins (it notices further down), what to do."""
REMEDIES = (
    (r"found character '\t'", "indent with spaces, not with tabs"),
    ("that cannot start any token", "put the value in quotes"),
    ("mapping values are not allowed", "put a value with a colon in quotes, and check the indentation"),
    ("expected <block end>", "check the indentation: keys of one group begin in the same column"),
    ("found undefined alias", "put the value in quotes: a * in front means an alias of YAML's"),
    ("found duplicate key", "remove one of them"),
    ("could not determine a constructor", "write plain values, without tags (!...)"),
)
"""Words of PyYAML's problem -> what to do."""


def _unreadable(path: Path, error: Exception) -> Problem:
    if isinstance(error, yaml.reader.ReaderError | UnicodeDecodeError):
        place = error.position if isinstance(error, yaml.reader.ReaderError) else error.start
        what = f"this is not text that YAML can hold: {error.reason} at character {place}"
        return Problem(what, short(path), "save the file as plain UTF-8 text")
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return _marked(path, error)
    if isinstance(error, OSError):
        return Problem(f"this file cannot be read: {error.strerror or error}", short(path), "check its permissions")
    if "Invalid defaults list" in str(error):
        return Problem(
            "defaults is not a list", short(path), "write `defaults:` and below it lines such as - group: option"
        )
    return Problem(_first_line(error), short(path), "mend the file")


def _marked(path: Path, error: yaml.MarkedYAMLError) -> Problem:
    if error.context in UNCLOSED and error.context_mark is not None:
        what, do = UNCLOSED[error.context]
        return Problem(f"this is not valid YAML: {what}", f"{short(path)}:{error.context_mark.line + 1}", do)
    problem = str(error.problem)
    do = next((do for words, do in REMEDIES if words in problem), "mend the file")
    line = error.problem_mark.line + 1 if error.problem_mark else 1
    return Problem(f"this is not valid YAML: {problem}", f"{short(path)}:{line}", do)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
