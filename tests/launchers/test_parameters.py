"""What stands below `params`, as words of a command line and as variables."""

from __future__ import annotations

from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as some

from conf.job_schema import Job
from launchers.config.command_rules import parameters_reach_a_command
from launchers.config.parameters import arguments, flat, overrides, variable, variables


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.001, "0.001"),
        (1e-05, "1e-05"),
        (3, "3"),
        (10**30, "1" + "0" * 30),
        (True, "true"),
        (False, "false"),
        ("true", "true"),
        ("", ""),
        ("a b, ü", "a b, ü"),
        ([1, 2.5, "x"], '[1,2.5,"x"]'),
        ([], "[]"),
        ([{"a": None}], '[{"a":null}]'),
    ],
)
def test_parameter_value_is_text_as_json_has_it(value: Any, text: str) -> None:
    assert arguments({"x": value}) == (f"--x={text}",)


def test_parameter_that_is_null_is_left_to_the_program() -> None:
    assert arguments({"a": None, "b": {"c": None}, "d": {}}) == ()


def test_parameters_below_each_other_have_dotted_names_in_order() -> None:
    params = {"z": 1, "model": {"width": 32, "head": {"size": 4}}, "a": 2}

    assert [name for name, _ in flat(params)] == ["z", "model.width", "model.head.size", "a"]


def test_variables_are_upper_case_and_without_signs() -> None:
    assert variables({"batch-size": 8, "model": {"width": 32}}) == {"BATCH_SIZE": "8", "MODEL_WIDTH": "32"}
    assert variable("a.b-c_d9") == "A_B_C_D9"


WORDS = some.text(max_size=8) | some.text("\\\\'\" a${},=:~", max_size=8)
VALUES = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats(allow_nan=False) | WORDS,
    lambda inside: some.lists(inside, max_size=3),
    max_leaves=4,
)


@settings(max_examples=300, deadline=None)
@given(VALUES)
def test_override_is_read_by_hydra_as_the_value_it_came_from(value: Any) -> None:
    (word,) = overrides({"x": value})

    read = OverridesParser.create().parse_override(word)

    assert not read.is_sweep_override()
    assert (read.value(), type(read.value())) == (value, type(value))


def test_overrides_of_an_option_and_of_keys_of_it_stand_side_by_side() -> None:
    params = {"optimizer": {"_self_": "adam", "lr": 1e-05}, "+new": "a b", "~old": None, "none": None, "empty": {}}

    words = overrides(params)

    assert words == ("optimizer=adam", "optimizer.lr=1e-05", "+new='a b'", "~old", "none=null", "empty={}")


def test_override_of_a_name_that_hydra_cannot_read_is_told() -> None:
    job = Job(kind="command", command=("app",), parameters="overrides")
    params = {"lr": 1, "+model/head@net": "x", "~old": "y", "a b": 1}

    said = [what for what, _, _ in parameters_reach_a_command(job, params)]

    assert len(said) == 1 and "'a b'" in said[0]
