"""Every rule: broken, it says the values, where they were said and what to do; else nothing."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from conf import schema
from conf.bounds import IN_WORDS
from launchers.config import rules
from launchers.config.check import RULES
from tests.conftest import ROOT
from tests.launchers.checked import problems, sound, write
from tests.launchers.pooled import make_pool
from tests.launchers.rule_cases.machines import OF_MACHINES
from tests.launchers.rule_cases.pools import OF_POOLS
from tests.launchers.rule_cases.programs import OF_PROGRAMS

RULE_CASES = {**OF_MACHINES, **OF_PROGRAMS, **OF_POOLS}
CASES = [(name, *case) for name, cases in RULE_CASES.items() for case in cases if case[1]]


@pytest.fixture(autouse=True)
def small_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "pools-state"))
    make_pool(tmp_path / "small")


@pytest.fixture(autouse=True)
def no_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without accelerators, whatever this one has."""
    monkeypatch.setattr(rules, "CARDS", {kind: ("/nowhere/at/all*",) for kind in rules.CARDS})


def test_check_every_rule_has_a_case() -> None:
    assert {rule.__name__ for rule, _ in RULES} == set(RULE_CASES)


def test_check_every_rule_names_sections_only() -> None:
    known = {f.name for f in schema.Spec.__dataclass_fields__.values()} | set(
        schema.POOL_GROUPS
    )  # `pools`: all of them

    for rule, wanted in RULES:
        assert set(wanted) <= known - {"name", "seed"}, rule.__name__


@pytest.mark.parametrize(
    ("rule", "overrides", "words", "where"), CASES, ids=lambda v: v if isinstance(v, str) else None
)
def test_check_rule_broken_says_values_and_where(
    rule: str, overrides: tuple[str, ...], words: tuple[str, ...], where: str
) -> None:
    found = problems(*overrides)

    assert any(all(w in p.what for w in words) and where in p.where and p.do for p in found), found


def test_check_tensorboard_that_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "find_spec", lambda name: None)

    (found,) = problems("tracking.tensorboard=true")

    assert found.what == "tracking.tensorboard is true, but the package tensorboard is not installed here"
    assert "fairlead[tensorboard]" in found.do
    assert sound("tracking.tensorboard=true", "site.python=/opt/python")  # which may have it


def test_check_card_of_this_machine_may_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr(rules, "CARDS", {"cuda": (f"{tmp_path}/nvidia[0-9]*",)})

    assert sound("machine=gpu-1", "accelerator=a100").pools[0].accelerator.kind == "cuda"


def test_check_model_and_data_of_the_users_own_are_not_judged(tmp_path: Path) -> None:
    """What they give and take is known when they are called."""
    write(tmp_path, "data/mine.yaml", "_target_: my.data\n")
    write(tmp_path, "model/mine.yaml", "_target_: my.Net\n")

    assert sound("data=mine", "model=gpt", folder=tmp_path).data.kind == "_target_"
    assert sound("model=mine", folder=tmp_path).model.kind == "_target_"


def test_check_every_pattern_is_told_in_words() -> None:
    """A regular expression is no answer."""
    patterns = re.findall(r'pattern=r"(.*?)"', "".join(p.read_text() for p in (ROOT / "conf").glob("*.py")))

    assert len(patterns) >= 9
    assert set(patterns) == set(IN_WORDS)


def test_check_rule_on_sound_values_is_silent(sif: Path) -> None:
    spec = sound(
        "machine=gpu-8",
        "accelerator=a100",
        "accelerator.count=8",
        "container=pytorch-cuda",
        f"container.image={sif}",
        "launcher=slurm",
        "launcher.sbatch.reservation=maint",
    )

    assert schema.precision(spec) == "bf16"
    assert schema.ranks_per_node(spec.pools[0]) == 8


def test_check_batch_size_suggestion_is_itself_sound() -> None:
    (found,) = problems("machine.ranks_per_node=3", "train.accumulate=5", "train.batch_size=14")

    suggested = int(found.do.removesuffix(" or more").rpartition(" ")[2])

    assert sound("machine.ranks_per_node=3", "train.accumulate=5", f"train.batch_size={suggested}")


def test_check_rules_change_nothing(workdir: Path) -> None:
    sound()

    assert list(workdir.iterdir()) == []


def test_check_rule_functions_are_public_generators() -> None:
    """A helper that is a generator would be run as a rule; it starts with an underscore."""
    for rule, _ in RULES:
        assert inspect.isgeneratorfunction(rule)
        assert vars(inspect.getmodule(rule))[rule.__name__] is rule
