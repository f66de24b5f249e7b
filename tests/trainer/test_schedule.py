"""The learning rate's shape, at the steps where it could be off by one."""

from __future__ import annotations

import pytest

from trainer.schedule import factor


@pytest.mark.parametrize("kind", ["constant", "linear", "cosine"])
def test_factor_warm_up_rises_in_equal_steps_and_then_is_one(kind: str) -> None:
    assert [factor(kind, step, 100, warmup_steps=4) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_factor_constant_stays() -> None:
    assert {factor("constant", step, 10) for step in range(10)} == {1.0}


def test_factor_linear_falls_in_equal_steps_and_its_last_step_still_learns() -> None:
    assert [factor("linear", step, 4) for step in range(4)] == [1.0, 0.75, 0.5, 0.25]


def test_factor_cosine_is_half_way_in_the_middle_and_never_rises() -> None:
    values = [factor("cosine", step, 100, warmup_steps=20) for step in range(20, 100)]

    assert values[40] == pytest.approx(0.5)
    assert values == sorted(values, reverse=True)
    assert 0 < values[-1] < 0.001


def test_factor_warm_up_longer_than_the_run_only_rises() -> None:
    values = [factor("cosine", step, 5, warmup_steps=10) for step in range(5)]

    assert values == sorted(values)
    assert max(values) < 1


def test_factor_unknown_schedule_is_named() -> None:
    with pytest.raises(ValueError, match="schedule is square"):
        factor("square", 0, 1)
