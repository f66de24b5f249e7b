"""What the sources give: two parts that share nothing, the same on every machine."""

from __future__ import annotations

import importlib
import random
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from trainer.data import datasets
from trainer.data.splits import Split
from trainer.failure import UserError
from trainer.sources import TensorSamples, bytes, sklearn

ALL = np.arange


@pytest.fixture
def texts(tmp_path: Path, node: Path) -> Path:
    """A folder of files."""
    folder = tmp_path / "texts"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.txt").write_bytes(b"a" * 100)
    (folder / "deep" / "b.txt").write_bytes(b"b" * 50)
    (folder / "c.md").write_bytes(b"c" * 50)
    return folder


def text_options(folder: Path, **changes: object) -> bytes.Options:
    known = {"path": str(folder), "glob": "**/*.txt", "context_length": 10, "split": Split(fraction=0.2)}
    return bytes.Options(**{**known, **changes})  # type: ignore[arg-type]


def test_digits_parts_have_the_same_mix_of_classes_and_share_no_sample() -> None:
    data = sklearn.load(sklearn.Options())
    train, validation = data.train, data.validation
    assert isinstance(train, TensorSamples) and isinstance(validation, TensorSamples)

    shares = torch.bincount(validation.targets) / (torch.bincount(train.targets) + torch.bincount(validation.targets))

    assert len(train) + len(validation) == 1797
    assert torch.allclose(shares, torch.full((10,), 0.2), atol=0.01)
    assert data.shape.input_shape == (1, 8, 8)
    assert train.inputs.min() == 0
    assert train.inputs.max() == 1


def test_digits_split_follows_its_own_seed_and_so_does_the_digest() -> None:
    first, again, other = (sklearn.load(sklearn.Options(split=Split(fraction=0.2, seed=seed))) for seed in (0, 0, 1))

    assert first.train_card == again.train_card
    assert first.train_card.digest != other.train_card.digest
    assert first.train_card.digest != first.validation_card.digest


@pytest.mark.parametrize(("name", "columns", "classes"), [("wine", 13, 3), ("breast_cancer", 30, 2), ("iris", 4, 3)])
def test_sklearn_columns_are_standardised_by_the_training_part(name: str, columns: int, classes: int) -> None:
    data = sklearn.load(sklearn.Options(set=name))  # type: ignore[arg-type]
    inputs, _ = data.train.batch(ALL(len(data.train)))

    assert (data.shape.input_shape, data.shape.outputs) == ((columns,), classes)
    assert torch.allclose(inputs.mean(0), torch.zeros(columns), atol=1e-5)
    assert torch.allclose(inputs.std(0, correction=0), torch.ones(columns), atol=1e-3)


@pytest.mark.parametrize("name", ["digits", "wine", "breast_cancer", "iris"])
def test_sklearn_preview_says_what_load_gives(name: str) -> None:
    options = sklearn.Options(set=name)  # type: ignore[arg-type]

    assert sklearn.preview(options).form == sklearn.load(options).shape.form


def test_sklearn_preview_knows_whether_anything_is_kept() -> None:
    options = sklearn.Options(split=Split(fraction=0.0))

    assert sklearn.preview(options).validation == bool(len(sklearn.load(options).validation)) == False  # noqa: E712


def test_bytes_preview_says_what_load_gives(texts: Path) -> None:
    data, whole = (bytes.load(text_options(texts, split=Split(fraction=f))) for f in (0.2, 0.0))

    assert bytes.preview(text_options(texts)).form == data.shape.form == "tokens"
    assert bytes.preview(text_options(texts)).validation and len(data.validation)
    assert bytes.preview(text_options(texts, split=Split(fraction=0.0))).validation == bool(len(whole.validation))


def test_bytes_targets_are_the_bytes_that_follow(texts: Path) -> None:
    (texts / "a.txt").write_bytes(b"".join(b"%02d" % i for i in range(50)))
    data = bytes.load(text_options(texts / "a.txt"))

    inputs, targets = data.train.batch(np.array([1]))

    assert b"".join(b"%c" % i for i in inputs[0].tolist()) == b"0506070809"
    assert b"".join(b"%c" % i for i in targets[0].tolist()) == b"5060708091"


def test_bytes_parts_cover_the_files_and_share_no_window(texts: Path) -> None:
    data = bytes.load(text_options(texts))
    train, validation = data.train, data.validation

    seen = torch.cat([part.batch(ALL(len(part)))[0].flatten() for part in (train, validation)])

    assert (len(train), len(validation)) == (11, 3)
    assert sorted(seen.tolist()) == sorted(seen[:140].tolist())
    assert set(seen.tolist()) == {ord("a"), ord("b")}


def test_bytes_max_mb_takes_no_more(texts: Path) -> None:
    data = bytes.load(text_options(texts, max_mb=60 / 1e6))

    assert len(data.train) + len(data.validation) == 5


def test_bytes_digest_follows_the_content_and_not_the_place(texts: Path, tmp_path: Path) -> None:
    before = bytes.load(text_options(texts)).train_card
    moved = texts.rename(tmp_path / "moved")

    assert bytes.load(text_options(moved)).train_card.digest == before.digest
    (moved / "a.txt").write_bytes(b"x" + b"a" * 99)
    assert bytes.load(text_options(moved)).train_card.digest != before.digest


def test_bytes_cache_that_was_swept_away_is_made_again(texts: Path) -> None:
    bytes.load(text_options(texts))
    (store,) = Path(tempfile.gettempdir()).glob("*/*/*.bin")
    store.unlink()

    assert len(bytes.load(text_options(texts)).train) == 11


def test_bytes_is_the_standard_library_unless_told() -> None:
    data = bytes.load(bytes.Options(max_mb=0.1))

    assert data.train_card.name == "stdlib"
    assert data.shape.outputs == 256


@pytest.mark.parametrize(
    ("changes", "words"), [({"glob": "*.none"}, "no file matches"), ({"context_length": 90}, "too few")]
)
def test_bytes_that_are_not_there_or_too_few_are_an_error(texts: Path, changes: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        bytes.load(text_options(texts, **changes))


@pytest.mark.parametrize("number", [lambda: torch.rand(1).item(), random.random, np.random.rand, lambda: 0.5])
def test_own_data_set_that_draws_random_numbers_is_known_by_it(number: Callable[[], float]) -> None:
    class Own:
        def __len__(self) -> int:
            return 30

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            return torch.full((2,), index + number()), index % 3

    torch.manual_seed(7), random.seed(7), np.random.seed(7)
    data = datasets.data_of("own", Own(), Own())
    left = datasets.data_of("own", Own(), Own())

    assert isinstance(data.train, datasets.Mapped)
    assert data.train.draws == (number() != number())
    assert data.train_card.digest == left.train_card.digest  # whatever was drawn before


@pytest.mark.parametrize(("last", "said"), [(7, [7.0]), (2.5, [2.5])])
def test_own_data_set_of_numbers_is_known_by_any_sample_that_is_read(last: float, said: list[float]) -> None:
    rows = [(torch.zeros(2), 3), (torch.zeros(2), 0.5), (torch.zeros(2), last)]

    data = datasets.data_of("own", rows, rows)

    assert (data.shape.task, data.train.batch(np.array([2]))[1].tolist()) == ("regression", said)


def test_own_data_set_of_classes_with_a_fraction_that_was_not_read_says_so() -> None:
    rows = [(torch.zeros(2), 1)] * 1000 + [(torch.zeros(2), 0.5)] + [(torch.zeros(2), 1)] * 1000

    data = datasets.data_of("own", rows, rows)

    with pytest.raises(UserError, match="some targets of your data set are floats"):
        data.train.batch(np.array([1000]))


def test_own_data_sets_become_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent / "project")
    own = importlib.import_module("own")

    data = datasets.data_of("own.blobs", *own.blobs(60))
    inputs, targets = data.train.batch(np.array([3, 14]))

    assert (len(data.train), len(data.validation)) == (60, 40)
    assert (data.shape.task, data.shape.input_shape, data.shape.outputs) == ("classification", (10,), 10)
    assert (inputs.shape, targets.tolist()) == ((2, 10), [3, 4])
    assert data.train_card.digest != data.validation_card.digest
