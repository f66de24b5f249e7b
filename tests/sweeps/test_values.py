"""When two values are the same, and how they are written."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps.values import among, canonical, same, shown

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
VALUES = st.recursive(SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=2), v, max_size=3))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0),
        (0.01, "1e-2"),
        ("100", 100),
        ("-3.", -3),
        (10**20 + 1, str(10**20 + 1)),
        ([1, "0.5"], (1.0, 0.5)),
        ({"a": 1}, {"a": 1.0}),
        (None, None),
    ],
)
def test_same_said_differently_is_the_same_either_way_round(one: Any, other: Any) -> None:
    assert same(one, other)
    assert same(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, True),
        (0, False),
        ("true", True),
        ("1.1", "1.10"),
        ("1", "1.0"),
        ("1_000", 1000),
        ("0x10", 16),
        ("nan", float("nan")),
        ("inf", float("inf")),
        ("", 0),
        (None, "null"),
        ([1], 1),
        ([1], [1, 2]),
        ({"a": 1}, {"b": 1}),
        ({"a": 1}, {"a": True}),
        (10**20 + 1, 10**20),
        ("9" * 5000, 9),
        ("٣", 3),
    ],
)
def test_same_what_only_looks_alike_differs_either_way_round(one: Any, other: Any) -> None:
    assert not same(one, other)
    assert not same(other, one)


@given(VALUES)
def test_same_a_value_after_the_record_is_itself(value: Any) -> None:
    assert same(json.loads(json.dumps(value)), value)


@given(VALUES, st.lists(VALUES, max_size=4))
def test_among_finds_a_value_wherever_it_is(value: Any, others: list[Any]) -> None:
    assert among(value, [*others, value])
    assert among(value, others) == any(same(value, other) for other in others)


@given(VALUES)
def test_canonical_is_json_that_reads_back(value: Any) -> None:
    assert json.loads(canonical(value)) == value
    assert canonical(json.loads(canonical(value))) == canonical(value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("sgd", "sgd"),
        ("", "''"),
        (3, "3"),
        (3.0, "3"),
        (0.1, "0.1"),
        (1e-05, "1e-05"),
        (1e300, "1e+300"),
        (True, "true"),
        (None, "null"),
        ((1.0, "a"), "[1, a]"),
        ({"a": 1}, '{"a":1}'),
        (list(range(8)), "[0, 1, 2, 3, 4, 5, ... (8 in all)]"),
    ],
)
def test_shown_is_what_a_person_would_write(value: Any, text: str) -> None:
    assert shown(value) == text
