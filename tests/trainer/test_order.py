"""Properties of the order of samples: nothing is lost or seen twice, whatever the layout."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.data.order import PADDING, Order, covering, permuted, seed_of
from trainer.failure import UserError

SIZES = st.integers(1, 700)
KEYS = st.integers(0, 2**63 - 1)


def micro_batches(order: Order, step: int) -> np.ndarray:
    """This rank's part of a step, one row per forward pass."""
    return np.array([indices for _, indices in order.passes(step, step + 1)])


@given(SIZES, KEYS)
def test_permuted_is_a_permutation(size: int, key: int) -> None:
    assert sorted(permuted(np.arange(size), size, key)) == list(range(size))


@given(SIZES, KEYS, st.data())
def test_permuted_some_positions_alone_go_where_they_go_among_all(size: int, key: int, data: st.DataObject) -> None:
    some = np.array(data.draw(st.lists(st.integers(0, size - 1), min_size=1)))

    assert (permuted(some, size, key) == permuted(np.arange(size), size, key)[some]).all()


@given(SIZES, st.lists(KEYS, min_size=1, max_size=5))
def test_permuted_several_keys_are_each_rows_own(size: int, keys: list[int]) -> None:
    rows = np.tile(np.arange(size), (len(keys), 1))

    together = permuted(rows, size, np.array(keys, np.uint64))

    assert (together == [permuted(row, size, key) for row, key in zip(rows, keys, strict=True)]).all()


def test_permuted_reads_a_position_among_billions_at_once() -> None:
    values = permuted(np.arange(1000) + 10**11, 10**12, 7)

    assert len(np.unique(values)) == 1000
    assert values.min() >= 0
    assert values.max() < 10**12


def test_permuted_does_not_change_with_versions() -> None:
    # A checkpoint of today must meet the same samples tomorrow.
    assert permuted(np.arange(10), 10, seed_of(1, 0)).tolist() == [6, 9, 7, 4, 0, 1, 5, 3, 8, 2]


def test_permuted_leaves_no_trace_of_the_original_order() -> None:
    values = permuted(np.arange(10_000), 10_000, 1)

    assert abs(np.corrcoef(np.arange(10_000), values)[0, 1]) < 0.05
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.05


@given(
    size=SIZES, more=st.integers(0, 70), world=st.integers(1, 4), accumulate=st.integers(1, 3), epoch=st.integers(0, 3)
)
def test_order_an_epoch_shows_all_ranks_each_sample_once(
    size: int, more: int, world: int, accumulate: int, epoch: int
) -> None:
    batch_size = world * accumulate + more
    ranks = [Order(size, batch_size, 5, world, rank, accumulate) for rank in range(world)]
    steps = range(epoch * ranks[0].steps_per_epoch, (epoch + 1) * ranks[0].steps_per_epoch)

    shares = [share for order in ranks for step in steps for share in micro_batches(order, step)]

    assert {len(share) for share in shares} == {-(-batch_size // (world * accumulate))}
    assert sorted(i for share in shares for i in share if i != PADDING) == list(range(size))
    assert sum(ranks[0].samples_in(step) for step in steps) == size


@given(size=SIZES, step=st.integers(0, 40))
def test_order_another_layout_sees_the_same_global_batch(size: int, step: int) -> None:
    alone = Order(size, 24, 5)
    for world, accumulate in ((4, 2), (5, 1), (3, 3)):
        shared = [Order(size, 24, 5, world=world, rank=rank, accumulate=accumulate) for rank in range(world)]

        parts = np.concatenate([np.concatenate(micro_batches(order, step)) for order in shared])

        assert sorted(parts[parts != PADDING]) == sorted(i for i in micro_batches(alone, step)[0] if i != PADDING)


def test_order_batch_that_ranks_cannot_share_evenly_gives_some_one_sample_less() -> None:
    shared = [Order(1000, 64, 5, world=3, rank=rank, accumulate=2) for rank in range(3)]

    counts = [[int((share != PADDING).sum()) for share in micro_batches(order, 2)] for order in shared]

    assert counts == [[11, 11], [11, 10], [11, 10]]


@pytest.mark.parametrize("at_once", [1, 7, 100, 10_000])
def test_order_does_not_depend_on_how_many_steps_are_computed_together(
    monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    ranks = [Order(31, 8, 5, world=2, rank=rank, accumulate=2) for rank in range(2)]
    expected = [micro_batches(order, step).tolist() for step in range(30) for order in ranks]
    monkeypatch.setattr("trainer.data.order.AT_ONCE", at_once)

    assert [micro_batches(order, step).tolist() for step in range(30) for order in ranks] == expected


def test_order_epochs_and_seeds_differ() -> None:
    order, other = Order(100, 50, seed=1), Order(100, 50, seed=2)

    assert not (micro_batches(order, 0) == micro_batches(order, 2)).all()
    assert not (micro_batches(order, 0) == micro_batches(other, 0)).all()


def test_order_passes_begin_and_end_in_any_step_and_say_their_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.data.order.AT_ONCE", 56)  # seven steps
    order = Order(31, 8, seed=1, accumulate=2)

    whole = [(epoch, indices.tolist()) for epoch, indices in order.passes(0, 30)]

    assert [epoch for epoch, _ in whole] == [step // 4 for step in range(30) for _ in range(2)]
    for first, last in ((0, 0), (5, 6), (6, 22), (29, 30)):
        assert [(epoch, part.tolist()) for epoch, part in order.passes(first, last)] == whole[2 * first : 2 * last]


def test_order_batch_without_a_sample_for_each_rank_names_the_numbers() -> None:
    with pytest.raises(UserError, match=r"batch_size is 5.*3 ranks.*accumulate=2[\s\S]*6 or more"):
        Order(100, 5, 1, world=3, accumulate=2)


@given(size=st.integers(0, 300), micro=st.integers(1, 40), world=st.integers(1, 5))
def test_covering_shows_each_sample_once_in_equally_many_batches(size: int, micro: int, world: int) -> None:
    ranks = [list(covering(size, micro, world, rank)) for rank in range(world)]

    assert len({len(batches) for batches in ranks}) == 1
    assert sorted(i for batches in ranks for b in batches for i in b if i != PADDING) == list(range(size))
