"""Workers are as many as keep the loop going, and go farther ahead where it still waits for them."""

from __future__ import annotations

import pytest

from trainer.data.readers import AHEAD, AHEAD_BYTES, FARTHER, Readers, more, readers_for

MB = 2**20


@pytest.mark.parametrize(
    ("reading_s", "loop_s", "cores", "workers"),
    [(0.001, 0.1, 8, 0), (0.1, 0.1, 8, 2), (0.3, 0.1, 8, 4), (0.3, 0.1, 2, 2), (0.3, 0.1, 0, 0), (1.0, 0.0, 4, 4)],
)
def test_workers_are_as_many_as_keep_the_loop_going(reading_s: float, loop_s: float, cores: int, workers: int) -> None:
    assert readers_for(reading_s, loop_s, cores) == Readers(workers, AHEAD)


@pytest.mark.parametrize(
    ("before", "waited", "cores", "batch_bytes", "after"),
    [
        pytest.param(Readers(2), 0.05, 8, MB, Readers(2), id="it hardly waits"),
        pytest.param(Readers(2), 0.5, 8, MB, Readers(3, 8), id="it does"),
        pytest.param(Readers(2), 0.5, 2, MB, Readers(2, 8), id="no core is left"),
        pytest.param(Readers(6), 0.5, 2, MB, Readers(6, 8), id="more than there are cores: as the user said"),
        pytest.param(Readers(2, 8), 0.5, 2, MB, Readers(2, 32), id="once more"),
        pytest.param(Readers(2, 32), 0.5, 2, MB, Readers(2, 32), id="and no more"),
        pytest.param(Readers(2), 0.5, 2, AHEAD_BYTES // 12, Readers(2, 6), id="what fits into memory"),
        pytest.param(Readers(2), 0.5, 2, AHEAD_BYTES, Readers(2), id="large ones"),
    ],
)
def test_they_are_more_where_the_loop_waits_for_them(
    before: Readers, waited: float, cores: int, batch_bytes: int, after: Readers
) -> None:
    assert more(before, waited, cores, batch_bytes) == after


def test_they_are_not_more_for_ever() -> None:
    readers, times = Readers(1), 0
    while (next_ones := more(readers, 0.9, 4, 1)) != readers:
        readers, times = next_ones, times + 1

    assert readers == Readers(4, FARTHER**2 * AHEAD) and times == 3
