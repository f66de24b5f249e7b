"""Each sample is in exactly one part, the same part for the same seed; what cannot be parted is said."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.data.splits import Labels, Rows, Split, digest_of, keeps, mistakes, parts, picked, way
from trainer.failure import UserError

FRACTIONS = st.floats(0, 1)
CLASSES = st.lists(st.integers(0, 6), min_size=1, max_size=200)


def parted(split: Split, rows: Rows) -> tuple[list[int], list[int]] | None:
    """Both parts as lists; None where the split refuses."""
    try:
        train, validation = parts(split, rows, "stratified")
    except UserError as e:
        assert "leaves nothing" in str(e)
        return None
    return list(train), list(validation)


@given(
    classes=CLASSES, fraction=FRACTIONS, seed=st.integers(0, 2**31), by=st.sampled_from(["random", "stratified", "end"])
)
def test_split_parts_share_nothing_and_cover_all(classes: list[int], fraction: float, seed: int, by: Any) -> None:
    split = Split(by=by, fraction=fraction, seed=seed)
    rows = Rows(len(classes), np.array(classes))

    first, again = parted(split, rows), parted(split, rows)

    assert first == again
    kept = round(len(classes) * fraction)
    if first is None:
        assert kept in (0, len(classes))
        return
    assert sorted(first[0] + first[1]) == list(range(len(classes)))
    assert first == (sorted(first[0]), sorted(first[1]))
    assert len(first[1]) == kept


@given(classes=CLASSES, fraction=FRACTIONS, seed=st.integers(0, 2**31))
def test_split_stratified_keeps_of_each_class_its_share_within_one_sample(
    classes: list[int], fraction: float, seed: int
) -> None:
    made = parted(Split(fraction=fraction, seed=seed), Rows(len(classes), np.array(classes)))

    for label in set(classes) if made else ():
        kept = sum(classes[i] == label for i in made[1])  # type: ignore[index]
        assert abs(kept - classes.count(label) * fraction) < 1


def test_split_another_seed_is_another_choice() -> None:
    made = [
        parted(Split(by=by, seed=seed), Rows(500, np.arange(500) % 3))
        for by in ("random", "stratified")
        for seed in (0, 1)
    ]  # type: ignore[arg-type]

    assert len({str(one) for one in made}) == 4


@given(
    folds=st.lists(st.integers(0, 4), min_size=1, max_size=60),
    validation=st.sets(st.integers(0, 4), min_size=1),
    left_out=st.sets(st.integers(0, 4)),
)
def test_split_by_column_follows_the_values(folds: list[int], validation: set[int], left_out: set[int]) -> None:
    names = sorted(set(folds))
    validation, left_out = validation & set(names), (left_out & set(names)) - validation
    labels = Labels(np.array([names.index(fold) for fold in folds]), tuple(map(str, names)))
    split = Split(by="column", column="fold", validation=tuple(validation), leave_out=tuple(left_out))

    made = parted(split, Rows(len(folds), column=labels))

    wanted = (
        [i for i, f in enumerate(folds) if f not in validation | left_out],
        [i for i, f in enumerate(folds) if f in validation],
    )
    assert made == (wanted if all(wanted) else None)


@given(moments=st.lists(st.integers(-50, 50), min_size=1, max_size=60), before=st.integers(-60, 60))
def test_split_by_time_validates_the_later_ones(moments: list[int], before: int) -> None:
    made = parted(Split(by="time", column="t", before=before), Rows(len(moments), moments=np.array(moments, float)))

    wanted = ([i for i, m in enumerate(moments) if m < before], [i for i, m in enumerate(moments) if m >= before])
    assert made == (wanted if all(wanted) else None)


FOLDS = Labels(np.array([0, 1, 2, 1]), ("a", "b", "true"))


@pytest.mark.parametrize(
    ("split", "words"),
    [
        (Split(by="random", fraction=0.01), "leaves nothing of 4 samples for validation"),
        (Split(by="random", fraction=1.0), "leaves nothing of 4 samples for training"),
        (Split(by="column", column="c", validation=("z",)), "has 'z', but no sample has that in column c"),
        (Split(by="column", column="c", validation=("a", "b", True)), "nothing of 4 samples for training"),
        (
            Split(by="column", column="c", validation=("a",), train=("b",)),
            "has 'true', which data.split puts into no part",
        ),
        (Split(by="column", column="c", validation=("a",), train=("a",)), "puts 'a' into two parts"),
        (Split(by="time", column="c", before="soon"), "'soon', but column c has numbers"),
        (Split(by="time", column="c", before=9), "nothing of 4 samples for validation"),
    ],
)
def test_split_that_cannot_be_is_refused_in_words(split: Split, words: str) -> None:
    rows = Rows(4, np.zeros(4, int), FOLDS, np.arange(4.0))

    with pytest.raises(UserError, match=words):
        parts(split, rows, "stratified")


@pytest.mark.parametrize(
    ("split", "words"),
    [
        (Split(by="time", column="c", before=1), "cannot do"),
        (Split(by="column", validation=("x",)), "data.split.column is not given"),
        (Split(by="column", column="fold", validation=("x",)), "'fold', which these data do not have"),
        (Split(by="column", column="file"), "validation names none"),
    ],
)
def test_split_mistakes_are_seen_without_data(split: Split, words: str) -> None:
    ((what, key, do),) = mistakes(split, ("end", "column"), ("file",))

    assert words in what and key.startswith("data.split") and do


def test_split_fraction_of_nothing_is_meant() -> None:
    train, validation = parts(Split(fraction=0.0), Rows(5), "end")

    assert (list(train), list(validation)) == ([0, 1, 2, 3, 4], [])
    assert not keeps(Split(fraction=0.0), "end")
    assert keeps(Split(by="time", fraction=0.0), "end")
    assert (way(Split(), "end"), way(Split(by="random"), "end")) == ("end", "random")


def test_split_part_is_picked_alike_as_range_and_as_array() -> None:
    wanted = np.array([3, 0, 4])

    assert picked(range(10, 20), wanted).tolist() == picked(np.arange(10, 20), wanted).tolist() == [13, 10, 14]
    assert len({digest_of("x", range(5)), digest_of("y", range(5)), digest_of("x", range(1, 6))}) == 3


@given(
    classes=CLASSES,
    fraction=st.floats(0, 0.6),
    test_fraction=st.floats(0.01, 0.39),
    seed=st.integers(0, 2**31),
    by=st.sampled_from(["random", "stratified"]),
)
def test_split_test_part_is_taken_from_training_alone_and_shares_nothing(
    classes: list[int], fraction: float, test_fraction: float, seed: int, by: Any
) -> None:
    rows = Rows(len(classes), np.array(classes))
    without = Split(by=by, fraction=fraction, seed=seed)
    try:
        train, validation = parts(without, rows, "end")
        less, same, test = parts(replace(without, test_fraction=test_fraction), rows, "end")
    except UserError as e:
        assert "leaves nothing" in str(e)
        return

    assert same.tolist() == validation.tolist()
    assert sorted([*less, *test]) == train.tolist()
    # A class of which all validate has none left for a test.
    assert len(test) <= round(len(classes) * test_fraction) and abs(len(test) - len(classes) * test_fraction) <= 7


def test_split_by_end_tests_on_the_very_last_and_validates_on_those_before() -> None:
    cut = parts(Split(by="end", fraction=0.2, test_fraction=0.1), Rows(20), "end")

    assert cut == (range(14), range(14, 18), range(18, 20))


@pytest.mark.parametrize(
    ("split", "key", "do"),
    [
        (Split(by="random", test=("a",)), "data.split.test", "use data.split.test_fraction"),
        (
            Split(by="column", column="c", validation=("a",), test_from=3),
            "data.split.test_from",
            "use data.split.test,",
        ),
        (Split(by="random", test_from=0), "data.split.test_from", "use data.split.test_fraction"),
        (Split(by="filter", validation="x", test_fraction=0.1), "data.split.test_fraction", "use data.split.test,"),
        (Split(by="end", fraction=0.5, test_fraction=0.5), "data.split.test_fraction", "below 1 together"),
        (Split(by="filter", validation="x > 1", test="x <"), "data.split.test", "<"),
    ],
)
def test_split_mistake_about_a_test_says_which_key_is_meant(split: Split, key: str, do: str) -> None:
    ((_, where, said),) = mistakes(split, ("random", "end", "column", "time", "filter"))

    assert where == key and do in said
