"""Augmented images are drawn anew for each sample and epoch, the same whoever reads them; validation is left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset as wds
from datasets import ClassLabel, Dataset, Features
from datasets import Image as Pictured
from PIL import Image

from conf.schema import Component
from tests.trainer.ranks import PROJECT
from tests.trainer.samples import everything, png
from trainer.components import part
from trainer.data import augment
from trainer.data.augment import Augment, box_of
from trainer.data.feed import Feed
from trainer.data.order import Order
from trainer.data.splits import Split
from trainer.failure import UserError
from trainer.sources import Data, huggingface, images, webdataset

pytestmark = pytest.mark.usefixtures("node")
CPU = torch.device("cpu")
EVERYTHING = Augment(flip=True, crop=0.3, colour=0.4, own={"_target_": "own.Noisy", "most": 0.1})
COUNT, SIZE = 24, 8


@pytest.fixture(autouse=True)
def project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(PROJECT)


def pictures() -> list[Image.Image]:
    pixels = np.random.default_rng(0).integers(0, 256, (COUNT, 12, 16, 3), dtype=np.uint8)
    return [Image.fromarray(one) for one in pixels]


def folder(root: Path) -> Path:
    for number, image in enumerate(pictures()):
        (root / f"c{number % 2}").mkdir(parents=True, exist_ok=True)
        image.save(root / f"c{number % 2}" / f"{number:02}.png")
    return root


def of_folder(root: Path, **options: Any) -> Data:
    return images.load(images.Options(path=str(folder(root / "in")), size=SIZE, split=HALF, **options))


def of_shards(root: Path, **options: Any) -> Data:
    (root / "in").mkdir(parents=True)
    with wds.ShardWriter(f"{root}/in/%d.tar", maxcount=7, verbose=0) as writer:
        for number, image in enumerate(pictures()):
            writer.write({"__key__": f"{number:02}", "png": png(image), "cls": number % 2})
    return webdataset.load(webdataset.Options(path=str(root / "in"), size=SIZE, split=HALF, **options))


def of_saved(root: Path, **options: Any) -> Data:
    columns = {"image": pictures(), "label": [i % 2 for i in range(COUNT)]}
    kinds = Features(image=Pictured(), label=ClassLabel(names=["a", "b"]))
    Dataset.from_dict(columns, features=kinds).save_to_disk(str(root / "in"))
    said = {"path": str(root / "in"), "form": "images", "size": SIZE, "split": HALF, **options}
    return huggingface.load(huggingface.Options(**said))


HALF = Split(by="end", fraction=0.5)
every_source = pytest.mark.parametrize("of", [of_folder, of_shards, of_saved])


def seen(samples: Any, layout: tuple[int, int], epoch: int = 0, seed: int = 3) -> dict[int, torch.Tensor]:
    """What some ranks with some workers each see of the first samples: sample -> image."""
    world, workers = layout
    orders = [Order(len(samples), 4, seed, world, rank) for rank in range(world)]
    found: dict[int, torch.Tensor] = {}
    for order in orders:
        places = [(epoch, batch) for _, batch in order.passes(0, 3)]
        batches = Feed(samples, CPU, workers, seed=seed).batches(places)
        for (_, indices), batch in zip(places, batches, strict=True):
            found |= dict(zip(indices.tolist(), batch.inputs, strict=True))
    return found


def alike(one: dict[int, torch.Tensor], other: dict[int, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[i], other[i]) for i in one)


@every_source
def test_augmented_sample_is_the_same_whatever_the_ranks_workers_and_stops(tmp_path: Path, of: Any) -> None:
    train = of(tmp_path, augment=EVERYTHING).train
    whole = seen(train, (1, 0))
    torch.manual_seed(99)

    assert len(whole) == 12
    assert alike(seen(train, (2, 0)), whole)
    assert alike(seen(train, (4, 0)), whole)
    assert alike(seen(train, (2, 1)), whole)
    one, *_ = seen(train, (1, 0)).items()  # as after a stop, with nothing before it
    alone = Feed(train, CPU, seed=3)[0, np.array([one[0]])]
    assert torch.equal(alone[0][0], one[1])
    for other in (seen(train, (1, 0), epoch=1), {**whole, **seen(train, (1, 0), seed=4)}):
        assert not any(torch.equal(other[i], whole[i]) for i in other if i in whole)


@every_source
def test_augmented_training_leaves_validation_and_the_data_as_they_are(tmp_path: Path, of: Any) -> None:
    plain, changed = of(tmp_path / "a"), of(tmp_path / "b", augment=EVERYTHING)

    assert torch.equal(everything(plain.validation)[0], everything(changed.validation)[0])
    assert not hasattr(changed.validation, "drawn") and not hasattr(plain.train, "drawn")
    assert torch.equal(everything(plain.train)[0], everything(changed.train)[0])  # `batch` is not `drawn`
    assert plain.train_card.digest == changed.train_card.digest


def test_augment_sources_alike_draw_the_same(tmp_path: Path) -> None:
    first, second = of_shards(tmp_path / "a", augment=EVERYTHING), of_saved(tmp_path / "b", augment=EVERYTHING)

    assert alike(seen(first.train, (1, 0)), seen(second.train, (1, 0)))


def test_augment_flip_mirrors_half_of_the_images_and_changes_nothing_else(tmp_path: Path) -> None:
    train = of_folder(tmp_path, augment=Augment(flip=True)).train
    plain = train.batch(np.arange(12))[0]

    found = [train.drawn(np.arange(12), seed)[0] for seed in range(20)]  # type: ignore[attr-defined]

    flipped = sum(torch.equal(one[i], plain[i].flip(-1)) for one in found for i in range(12))
    assert flipped + sum(torch.equal(one[i], plain[i]) for one in found for i in range(12)) == 240
    assert 80 < flipped < 160


@pytest.mark.parametrize("size", [(100, 100), (300, 20), (20, 300), (1, 1), (3, 500)])
@pytest.mark.parametrize("crop", [0.05, 0.5, 1.0])
def test_augment_crop_lies_in_the_image_and_shows_its_share(size: tuple[int, int], crop: float) -> None:
    random = np.random.default_rng(1)
    middle = min(size) ** 2

    for _ in range(200):
        left, upper, right, lower = box_of(Augment(crop=crop), size, random)
        area, ratio = (right - left) * (lower - upper), (right - left) / (lower - upper)
        assert 0 <= left < right <= size[0] + 1e-9 and 0 <= upper < lower <= size[1] + 1e-9
        assert 0.74 < ratio < 1.34
        assert area >= min(crop * size[0] * size[1], middle) - 1e-6


def test_augment_colour_stays_between_black_and_white_and_within_its_part(tmp_path: Path) -> None:
    grey = Image.new("RGB", (4, 4), (100, 100, 100))
    random = np.random.default_rng(1)

    levels = [augment.changed(Augment(colour=0.2), grey, random).getpixel((0, 0))[0] for _ in range(200)]

    assert 79 <= min(levels) < 90 and 110 < max(levels) <= 121
    assert augment.changed(Augment(), grey, random) is grey


def test_augment_own_comes_before_mean_and_std(tmp_path: Path) -> None:
    own = Augment(own={"_target_": "own.brighter", "by": 0.25})
    train = of_folder(tmp_path, augment=own, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)).train

    plain, changed = train.batch(np.arange(3))[0], train.drawn(np.arange(3), 1)[0]  # type: ignore[attr-defined]

    torch.testing.assert_close(changed, plain + 0.5)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ({"_target_": "own.nothing"}, "the module own has no nothing"),
        ({"_target_": "nowhere.f"}, "there is no module nowhere"),
        ({"_target_": "own.not_callable"}, "not a class or a function"),
        ({"_target_": "own.Blobs", "rows": 3}, "is a Blobs, which cannot be called"),
        ({"_target_": "own.cropped"}, r"makes torch.Size\(\[3, 8, 4\]\) of \(3, 8, 8\)"),
    ],
)
def test_augment_own_that_is_none_is_said(tmp_path: Path, target: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        of_folder(tmp_path, augment=Augment(own=target)).train.drawn(np.arange(2), 1)  # type: ignore[attr-defined]


def test_augment_options_come_from_json_with_their_types() -> None:
    said = {"path": "x", "augment": {"flip": True, "crop": 1, "colour": 0.5, "own": {"_target_": "own.Noisy"}}}

    _, options = part("data", Component(kind="images", options=said))

    assert options.augment == Augment(flip=True, crop=1.0, colour=0.5, own={"_target_": "own.Noisy"})
