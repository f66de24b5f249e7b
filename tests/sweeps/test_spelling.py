"""Texts made safe, and numbers, durations and colours spelled."""

from __future__ import annotations

import html

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps.drawing import darkness, scaled
from sweeps.spelling import duration, escape, number, share


@given(st.text())
def test_escape_any_text_has_no_markup_and_reads_the_same(text: str) -> None:
    safe = escape(text)

    assert not set(safe) & set("<>\"'")
    assert [c for c in html.unescape(safe) if c != "?"] == [
        c for c, s in zip(text, html.unescape(safe), strict=True) if s != "?"
    ]
    safe.encode()


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(-1, "0.0 s"), (4.24, "4.2 s"), (59, "59 s"), (61, "1 min 01 s"), (3660, "1 h 01 min"), (90000, "1 d 1 h")],
)
def test_duration_two_largest_units(seconds: float, said: str) -> None:
    assert duration(seconds).replace("\u00a0", " ") == said


def test_scaled_ends_are_the_scale_s_ends() -> None:
    assert (scaled(-1), scaled(0), scaled(1), scaled(2)) == ("#9aa5b4", "#9aa5b4", "#e8590c", "#e8590c")


def test_scaled_middle_of_optuna_s_blues_is_between_the_ends() -> None:
    assert darkness("rgb(247, 251, 255)") == 0
    assert darkness("rgb(8, 48, 107)") == 1
    assert 0.4 < darkness("rgb(107, 174, 214)") < 0.7


@pytest.mark.parametrize(
    ("value", "said"), [(10000, "10,000"), (3.0, "3"), (0.123456, "0.1235"), (1e-9, "1e-09"), (float("nan"), "nan")]
)
def test_number_four_digits(value: float, said: str) -> None:
    assert number(value) == said


@pytest.mark.parametrize(("part", "said"), [(0.0, "0 %"), (0.004, "0.4 %"), (0.5, "50 %"), (1.0, "100 %")])
def test_share_small_ones_have_a_digit_more(part: float, said: str) -> None:
    assert share(part).replace("\u00a0", " ") == said
