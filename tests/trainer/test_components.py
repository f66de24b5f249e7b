"""The folders are the registry: what every file in them must offer, and how a name finds it."""

from __future__ import annotations

import dataclasses
import importlib
import os
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import pytest
import yaml

from conf.document import to_document
from conf.schema import Component
from tests.trainer.ranks import PROJECT, ROOT
from trainer.components import FOLDERS, kinds, part, target
from trainer.failure import UserError
from trainer.sources import Form

FUNCTION = {"data": "load", "engine": "start", "model": "build", "optimizer": "build"}
FILES = [(section, kind) for section in FOLDERS for kind in kinds(section)]
YAML = [(section, path) for section in FOLDERS for path in sorted((ROOT / "conf" / section).glob("*.yaml"))]


@pytest.mark.parametrize(("section", "kind"), FILES)
def test_kind_has_options_and_its_function(section: str, kind: str) -> None:
    module = importlib.import_module(f"trainer.{FOLDERS[section]}.{kind}")

    assert dataclasses.is_dataclass(module.Options)
    assert module.Options.__dataclass_params__.frozen
    assert module.Options.__pydantic_config__ == {"extra": "forbid"}
    assert callable(getattr(module, FUNCTION[section]))
    assert module.__doc__


@pytest.mark.parametrize("name", [*(f"{FOLDERS[section]}.{kind}" for section, kind in FILES), "score"])
def test_file_that_the_login_node_reads_needs_the_standard_library_alone(name: str) -> None:
    script = f"""
import importlib.abc, sys
class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] not in {{*sys.stdlib_module_names, "trainer", "conf"}}:
            raise ImportError(f"{{name}} is not the standard library")
sys.meta_path.insert(0, Blocked())
import trainer.{name}
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", kinds("data"))
def test_source_says_before_it_reads_what_it_gives(kind: str) -> None:
    """So that a model that cannot take it is refused before anything is queued."""
    module = importlib.import_module(f"trainer.sources.{kind}")
    needed = [f.name for f in dataclasses.fields(module.Options) if f.default is dataclasses.MISSING]

    given = module.preview(module.Options(**dict.fromkeys(needed, "x")))

    assert given.form in typing.get_args(Form)
    assert given.mistakes == ()


@pytest.mark.parametrize("kind", kinds("model"))
def test_model_says_what_it_takes(kind: str) -> None:
    takes = importlib.import_module(f"trainer.models.{kind}").TAKES

    assert takes and set(takes) <= set(typing.get_args(Form))


@pytest.mark.parametrize(("section", "path"), YAML, ids=lambda value: getattr(value, "stem", value))
def test_yaml_of_a_group_fills_the_options_of_its_kind(section: str, path: Path) -> None:
    document = yaml.safe_load(path.read_text())
    component = Component(kind=document.pop("kind"), options=document)

    _, options = part(section, component)

    filled = to_document(options)
    assert {**filled, **document, **_below(filled, document)} == filled


def _below(filled: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    """Groups within the options, of which the YAML may name a few keys."""
    return {name: {**filled[name], **value} for name, value in document.items() if isinstance(value, dict)}


def test_part_json_lists_and_whole_numbers_take_the_type_of_the_field() -> None:
    _, options = part("optimizer", Component(kind="adamw", options={"lr": 1, "betas": [0.5, 0.6]}))

    assert isinstance(options.lr, float)
    assert options.betas == (0.5, 0.6)


@pytest.mark.parametrize(
    ("component", "words"),
    [
        (Component(kind="rnn"), ["model.kind is rnn", "cnn, gpt, mlp"]),
        (Component(kind="../cnn"), ["model.kind is ../cnn"]),
        (Component(kind="__init__"), ["model.kind is __init__"]),
        (Component(kind="cnn", options={"witdh": 3}), ["no option witdh", "did you mean width?"]),
    ],
)
def test_part_wrong_name_is_an_error_that_says_what_there_is(component: Component, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        part("model", component)

    assert all(word in str(caught.value) for word in words)


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(PROJECT)


def own_component(path: str, **options: Any) -> Component:
    return Component(kind="_target_", options={"_target_": path, **options})


def test_target_finds_the_users_class_and_the_other_options(own: None) -> None:
    found = target("model", own_component("own.Net", width=3))

    assert found is not None
    assert (found[0].__name__, found[1]) == ("Net", {"width": 3})


def test_target_of_a_kind_is_none() -> None:
    assert target("model", Component(kind="cnn")) is None


@pytest.mark.parametrize(
    ("path", "what", "do"),
    [
        ("nowhere.Net", "is nowhere.Net, but there is no module nowhere", "in the folder where you launch"),
        ("own.Ned", "is own.Ned, but the module own has no Ned", "did you mean own.Net?"),
        ("own.not_callable", "is own.not_callable, which is a int, not a class or a function", "name what makes it"),
        ("Net", "is 'Net', which names no module", "write package.module.Class"),
        ("", "is '', which names no module", "write package.module.Class"),
    ],
)
def test_target_that_leads_nowhere_is_told_in_plain_words(own: None, path: str, what: str, do: str) -> None:
    with pytest.raises(UserError) as caught:
        target("model", own_component(path))

    assert str(caught.value).splitlines()[0] == f"model._target_ {what}"
    assert do in str(caught.value)


def test_target_import_that_fails_inside_the_users_module_keeps_its_own_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_own.py").write_text("import module_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(ModuleNotFoundError, match="module_that_is_not_there"):
        target("model", own_component("broken_own.Net"))
