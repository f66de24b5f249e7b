"""YAML and overrides become plain configurations: Hydra's work, and nothing checked but the grammar.

Hydra composes once per distinct choice of groups; values of single keys are patched into that (patch.py).
Which points there are is expand.py's. Unknown keys pass through here on purpose (check.py names them all
at once, with the nearest name).
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, Override, OverrideType, Sweep
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from conf.sweep_schema import Parameter
from launchers.config import pools
from launchers.config.patch import Base, Composed, Unresolved
from launchers.config.refusals import problem_of
from launchers.config.where import Places
from launchers.config.yaml_files import Files, folder_of_source
from launchers.errors import Problem, SpecError
from sweeps.names import nearest

WORDS_OF_A_PARAMETER = {f.name for f in dataclasses.fields(Parameter)}


@dataclass(frozen=True)
class Composition:
    """All members of a launch, and where things were said."""

    members: tuple[Composed, ...]
    overrides: tuple[str, ...]
    search_path: tuple[Path, ...]


class Composer:
    """The configurations of one command line, for any point."""

    def __init__(self, overrides: Sequence[str], files: Files) -> None:
        """Raises SpecError with every override that cannot be parsed or names no option."""
        self.overrides, self._files = tuple(overrides), files
        self._options: dict[str, list[str]] = {}
        self.search_path = tuple(f for source in files.sources if (f := folder_of_source(source)) is not None)
        self.said = parsed = self._parsed()
        """The overrides, read."""
        groups = {o.key_or_group for o in parsed if not isinstance(o.value(), dict) and self.is_group(o.key_or_group)}
        self._check_options([o for o in parsed if o.key_or_group in groups])
        self.swept = {o.key_or_group: o for o in parsed if o.is_sweep_override()}
        """Keys and groups that the command line sweeps (axes.py reads them)."""
        fixed = [o for o in parsed if not o.is_sweep_override()]
        self._fixed = [_as_text(o, groups) for o in fixed if not _is_of_a_pool(o)]
        self._of_pools = [(o.key_or_group, o.value()) for o in fixed if _is_of_a_pool(o)]
        self._bases: dict[tuple[str, ...], Base] = {}
        self._loaded: dict[tuple[str, str], dict[str, Any]] = {}

    def is_group(self, key: str) -> bool:
        """Whether a key chooses an option of a group."""
        return "." not in key and bool(self.options(key))

    def options(self, group: str) -> list[str]:
        """The options of a group; none of what is no group. Asked once: Hydra takes 8 ms to answer."""
        if group not in self._options:
            self._options[group] = sorted(self._files.get_group_options(group, ObjectType.CONFIG))
        return self._options[group]

    def base(self, point: Mapping[str, Any] | None = None) -> Base:
        """The composition with the point's choices of groups, made once.

        Raises SpecError with the first file that cannot be composed (one broken file hides the next: Hydra
        stops there).
        """
        chosen = tuple(f"{k}={'null' if v is None else v}" for k, v in (point or {}).items() if self.is_group(k))
        swept = [(k, v) for k, v in (point or {}).items() if pools.touched(k) and not self.is_group(k)]
        plain = self._plain(chosen)
        if not swept or not (plain.pools or any(k.startswith("pools.") for k, _ in swept)):
            return plain
        key = (*chosen, *(f"{k}={v!r}" for k, v in swept))
        if key not in self._bases:
            self._bases[key] = self._composed(chosen, swept)
        return self._bases[key]

    def _plain(self, chosen: tuple[str, ...]) -> Base:
        if chosen not in self._bases:
            self._bases[chosen] = self._composed(chosen)
        return self._bases[chosen]

    def option(self, group: str, name: str) -> dict[str, Any]:
        """An option of a group as its file says it, with its interpolations."""
        if (group, name) not in self._loaded:
            with open_dict(config := compose(config_name=f"{group}/{name}")):
                found = OmegaConf.to_container(config[group], resolve=False)
            self._loaded[group, name] = {str(k): v for k, v in dict(found).items()}  # type: ignore[arg-type]
        return self._loaded[group, name]

    def _composed(self, chosen: tuple[str, ...], swept: Sequence[tuple[str, Any]] = ()) -> Base:
        """The composition with these choices, and with swept values that its pools are made of."""
        config = self._compose([*self._fixed, *chosen])
        named = {str(k): str(v) for k, v in config.hydra.runtime.choices.items()}
        with open_dict(config):
            config.pop("hydra", None)
        choices = {k: v for k, v in named.items() if not k.startswith("hydra")}
        findings = self._set_pools(config, swept)
        with self._placed(Composed(dict(swept), {}, choices)):
            return Base(config, choices, findings)

    def _set_pools(self, config: DictConfig, swept: Sequence[tuple[str, Any]]) -> Sequence[pools.Finding]:
        """Give each pool all its sections; what is wrong with what they say is returned."""
        for key, value in swept:
            if not key.startswith("pools."):
                OmegaConf.update(config, key, value, force_add=True)
        document: Any = OmegaConf.to_container(config, resolve=False)
        own = [*self._of_pools, *((k, v) for k, v in swept if k.startswith("pools."))]
        raw, wrong = pools.with_values(document.get("pools"), own)
        if not raw and raw is not None:
            return wrong
        found, findings = pools.expanded(document, raw, self)
        with open_dict(config):
            config.pools = found
        return [*wrong, *findings]

    def member(self, point: Mapping[str, Any]) -> Composed:
        """The configuration of one point. Raises SpecError as `base` does."""
        leaves = {k: v for k, v in point.items() if not self.is_group(k) and not k.startswith("pools.")}
        base = self.base(point)
        with self._placed(Composed(point, {}, base.choices)):
            return base.member(point, leaves)

    def problems(self, group: str, values: Iterable[Any], where: str) -> Iterator[Problem]:
        """A problem for each value that is no option of the group (nor null, for none of them)."""
        options = self.options(group)
        for value in values:
            if value not in (*options, "null", None):
                yield Problem(f"{group} has no option {value!r}", where, nearest(str(value), options))

    def composition(self, points: Sequence[Mapping[str, Any]]) -> Composition:
        """The members of these points, in order."""
        return Composition(tuple(self.member(point) for point in points), self.overrides, self.search_path)

    def _check_options(self, chosen: Sequence[Override]) -> None:
        problems: list[Problem] = []
        for o in chosen:
            if not o.is_delete() and o.value() is None:
                do = f"choose one of: {', '.join(self.options(o.key_or_group))}; or leave it out"
                problems.append(
                    Problem(f"{o.key_or_group} is null, which is no option", f"override {o.input_line}", do)
                )
            elif not o.is_delete() and not isinstance(o.value(), Glob | Sweep):
                problems += self.problems(o.key_or_group, [o.get_value_element_as_str()], f"override {o.input_line}")
            elif isinstance(o.value(), ChoiceSweep):
                problems += self.problems(o.key_or_group, o.sweep_string_iterator(), f"override {o.input_line}")
        if problems:
            raise SpecError(problems)

    def _parsed(self) -> list[Override]:
        """Every override, or every one that the grammar refuses."""
        parser = OverridesParser.create()
        parsed: list[Override] = []
        problems: list[Problem] = []
        for text in self.overrides:
            try:
                parsed.append(parser.parse_override(text))
                problems += _dotted_parameter(parsed[-1])
            except HydraException as e:
                what = f"this override cannot be read: {str(e).splitlines()[0]}"
                do = "write key=value; quote a value with special characters inside: key='\"a, b\"'"
                if "=" not in text and text:
                    what, do = f"{text!r} is neither group=option nor key=value", self._meant(text)
                problems.append(Problem(what, f"override {text}", do))
        if problems:
            raise SpecError(problems)
        return parsed

    def _meant(self, word: str) -> str:
        """What somebody wanted who typed an option, or a group, and no =."""
        groups = sorted(self._files.groups(), key=lambda g: g != "experiment")
        if word in groups:
            return f"choose one of its options: {', '.join(f'{word}={o}' for o in self.options(word))}"
        *_, option = word.rpartition("/")
        named = {o for group in groups for o in self.options(group)}
        close = [option] if option in named else difflib.get_close_matches(option, sorted(named), n=1)
        first, *others = [f"{g}={o}" for o in close for g in groups if o in self.options(g)] or [""]
        if not first:
            return "write group=option or key=value; quote a value with spaces: 'key=\"a b\"'"
        return f"did you mean {first}?" + (f" (or {', '.join(others)})" if others else "")

    def _compose(self, overrides: list[str]) -> DictConfig:
        """Raises SpecError with what is wrong in the files that were read, or with what Hydra refuses."""
        try:
            composed = compose(config_name="config", overrides=overrides, return_hydra_config=True)
        except RecursionError:
            do = "remove one of the entries of `defaults:` that name each other"
            where = f"defaults: of what {' '.join(self.overrides) or 'config.yaml'} chooses"
            raise SpecError([Problem("the defaults lists include each other without end", where, do)]) from None
        except (HydraException, OmegaConfBaseException, OSError, ValueError) as e:
            problems = self._files.problems or [problem_of(e, self._files, self.overrides)]
            raise SpecError(problems) from e
        if self._files.problems:
            raise SpecError(self._files.problems)
        return composed

    @contextmanager
    def _placed(self, member: Composed) -> Iterator[None]:
        """An interpolation that leads nowhere is told with its place."""
        try:
            yield
        except Unresolved as e:
            if e.key is None:
                raise
            places = Places(Composition((), self.overrides, self.search_path), member)
            raise SpecError([Problem(e.what, places.of(e.key), e.do)]) from None


@contextmanager
def composer(overrides: Sequence[str], config_dirs: Sequence[Path] = ()) -> Iterator[Composer]:
    """A composer, for as long as the block lasts."""
    with _hydra(config_dirs) as files:
        yield Composer(overrides, files)


@contextmanager
def _hydra(config_dirs: Sequence[Path]) -> Iterator[Files]:
    """Hydra on our groups and then the user's: what `--config-dir` of a Hydra application does.

    Hydra's public `initialize_config_dir` takes one folder, and later additions to its search path are not
    seen; hence its own constructor (hydra-core is held below 1.4).
    """
    for folder in config_dirs:
        if not os.path.isdir(folder):  # noqa: PTH112 (Path.is_dir raises where a folder above is closed)
            do = "name a folder with groups in it, such as site/ or experiment/"
            raise SpecError([Problem(f"{folder} is not a folder", f"--config-dir {folder}", do)])
    search_path = create_config_search_path("pkg://conf")
    for folder in config_dirs:
        search_path.prepend("command-line", f"file://{folder.resolve()}", anchor="schema")
    GlobalHydra.instance().clear()
    try:
        loader: Any = Hydra.create_main_hydra2("fairlead", search_path).config_loader
        loader.repository = Files(loader.repository.sources)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Support for .yml files")  # refusals.py says it, with what to do
            yield loader.repository
    finally:
        GlobalHydra.instance().clear()


def _dotted_parameter(override: Override) -> Iterator[Problem]:
    """A searched key below sweep.parameters: its name has dots of its own, which Hydra takes for groups."""
    below = override.key_or_group.partition("sweep.parameters.")[2].split(".")
    if len(below) < 2 or below[1] in WORDS_OF_A_PARAMETER:
        return
    *name, last = below
    value = (override.input_line or "").partition("=")[2]
    said = f"{'.'.join(name)}: {{{last}: {value}}}" if last in WORDS_OF_A_PARAMETER else f"{'.'.join(below)}: {value}"
    what = f"{override.key_or_group} names a key with dots, which an override takes for groups"
    yield Problem(what, f"override {override.input_line}", f"write 'sweep.parameters={{{said}}}'")


def _is_of_a_pool(override: Override) -> bool:
    """Whether it says something of one pool: Hydra takes no place in a list."""
    return override.key_or_group.startswith("pools.") and not override.is_delete()


def _as_text(override: Override, groups: set[str]) -> str:
    """The override for Hydra: a changed value may also be a key that is not there yet."""
    text = override.input_line or ""
    if override.type == OverrideType.CHANGE and override.key_or_group not in groups:
        return f"++{text}"
    return text
