"""What a run keeps when it is told to leave, by the time there is."""

from __future__ import annotations

import pytest

from trainer.checkpoints.grace import Means, Parting, parting


@pytest.mark.parametrize(
    ("means", "how"),
    [
        (Means(left_s=None, save_s=100.0), "save"),  # nobody knows how long there is
        (Means(left_s=5.0, save_s=None), "save"),  # nobody knows what it takes
        (Means(left_s=30.0, save_s=20.0), "save"),
        (Means(left_s=25.0, save_s=20.0), "leave"),  # a quarter longer than lately, and a second to go
        (Means(left_s=60.0, save_s=20.0, under_way_s=15.0), "save"),  # one after the other
        (Means(left_s=30.0, save_s=20.0, under_way_s=15.0), "finish"),
        (Means(left_s=10.0, save_s=20.0, under_way_s=15.0), "leave"),
        (Means(left_s=0.0, save_s=0.1), "leave"),
    ],
)
def test_parting_is_what_fits(means: Means, how: Parting) -> None:
    assert parting(means) == how
