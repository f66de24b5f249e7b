"""What a command must say of itself, which parameters it can be given, and which rules it is not held to."""

from __future__ import annotations

import pytest

from launchers.config import rules
from tests.launchers.checked import COMMAND, problems, sound


def test_check_event_files_without_what_reads_them_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "find_spec", lambda _: None)

    (found,) = problems(*COMMAND, "job.metrics.kind=tensorboard")

    assert found.what == "job.metrics.kind is 'tensorboard', but the package tensorboard is not installed here"
    assert sound(*COMMAND, "job.metrics.kind=tensorboard", "site.python=/opt/python")


def test_check_command_is_not_held_to_the_trainers_rules() -> None:
    spec = sound(*COMMAND, "machine.ranks_per_node=3", "train.batch_size=64", "train.epochs=null")

    assert spec.job.command == ("program",)


def test_check_command_that_is_not_given_is_asked_for() -> None:
    (found,) = problems("job=command")

    assert found.what.startswith("job.command names no program, and without a container")


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("+params={a b: 1}", "'a b' is no name"),
        ("+params={1: 1}", "'1' is no name"),
        ("params.x=.nan", ""),
        ("params.x=nan", "params.x is NaN, which cannot be handed"),
        ("params.x=[1, inf]", "params.x is [1, Infinity], which cannot be handed"),
        ("params.x=???", "params.x must be given"),
        ("params=3", "params is 3, and must be a group of keys"),
    ],
)
def test_check_parameter_that_no_program_can_be_given_is_told(override: str, what: str) -> None:
    if not what:
        assert sound(*COMMAND, override).params == {"x": ".nan"}
        return

    (found,) = problems(*COMMAND, override)

    assert what in found.what


@pytest.mark.parametrize("name", ["a", "A_b", "batch-size", "model.width", "_x9"])
def test_check_parameter_of_any_ordinary_name_is_sound(name: str) -> None:
    assert sound(*COMMAND, f"params.{name}=1").params
