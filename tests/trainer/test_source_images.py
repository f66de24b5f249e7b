"""Folders of images that the tests write: each pixel as Pillow has it, and each mistake in words."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from conf.schema import Component
from tests.trainer.ranks import Member
from tests.trainer.samples import HOSTILE, WHOLE, coloured
from trainer import sources
from trainer.data.splits import Split
from trainer.failure import UserError
from trainer.sources import Data, images

pytestmark = pytest.mark.usefixtures("node")


def write(path: Path, seed: int = 0, size: tuple[int, int] = (9, 7), mode: str = "RGB", **saving: Any) -> Path:
    """An image of noise, `size` wide and high."""
    path.parent.mkdir(parents=True, exist_ok=True)
    depth = len(Image.new(mode, (1, 1)).getbands())
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], depth), dtype=np.uint8)
    Image.fromarray(pixels.squeeze(2) if depth == 1 else pixels, mode).save(path, **saving)
    return path


def folder(root: Path, names: list[str] | None = None) -> Path:
    """Two classes of each kind of file, or the files named."""
    kinds = ("png", "jpg", "JPEG", "webp")
    for number, name in enumerate(
        names or [f"{label}/{i}.{kind}" for label in ("cat", "ant") for i, kind in enumerate(kinds)]
    ):
        write(root / name, number)
    return root


def load(path: Path, **options: Any) -> Data:
    return images.load(images.Options(**{"path": str(path), "size": 5, "split": WHOLE, **options}))


def naive(path: Path, size: int, mode: str) -> np.ndarray:
    with Image.open(path) as image:
        fitted = ImageOps.fit(image.convert(mode), (size, size), Image.Resampling.BILINEAR)
    pixels = np.asarray(fitted, dtype=np.float32) / np.float32(255)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_images_are_those_of_a_plain_reader(tmp_path: Path, channels: int, mode: str) -> None:
    data = load(folder(tmp_path / "in"), channels=channels)
    paths = sorted((tmp_path / "in").glob("*/*"))

    inputs, targets = data.train.batch(np.array([7, 0, 3, 3]))

    assert torch.equal(inputs, torch.from_numpy(np.stack([naive(paths[i], 5, mode) for i in (7, 0, 3, 3)])))
    assert targets.tolist() == [1, 0, 0, 0]
    assert data.train_card.classes == ("ant", "cat")
    assert (data.shape.input_shape, data.shape.outputs, data.shape.form) == ((channels, 5, 5), 2, "images")


def test_images_mean_and_std_are_taken_per_channel(tmp_path: Path) -> None:
    folder(tmp_path / "in")
    plain, scaled = load(tmp_path / "in"), load(tmp_path / "in", mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0))
    everything = np.arange(8)

    wanted = (plain.train.batch(everything)[0] - torch.tensor([0.1, 0.2, 0.3])[:, None, None]) / torch.tensor(
        [0.5, 0.25, 2.0]
    )[:, None, None]

    torch.testing.assert_close(scaled.train.batch(everything)[0], wanted)
    assert (scaled.train_card.offset, scaled.train_card.scale) == ((0.1, 0.2, 0.3), (0.5, 0.25, 2.0))
    assert scaled.train_card.digest != plain.train_card.digest


def test_images_are_turned_as_the_camera_was_held(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    path = write(tmp_path / "in" / "a" / "1.png", size=(8, 8), exif=turned)
    with Image.open(path) as image:
        upright = np.asarray(image.transpose(Image.Transpose.ROTATE_270))

    inputs, _ = load(tmp_path / "in", size=8).train.batch(np.array([0]))

    assert np.array_equal((inputs[0] * 255).round().numpy().astype(np.uint8).transpose(1, 2, 0), upright)


def test_images_none_but_those_of_the_batch_are_read(tmp_path: Path) -> None:
    folder(tmp_path / "in")
    data = load(tmp_path / "in")
    for path in sorted((tmp_path / "in").glob("*/*"))[1:]:
        path.unlink()

    assert len(data.train.batch(np.array([0, 0]))[0]) == 2
    with pytest.raises(UserError, match="cannot be read: No such file"):
        data.train.batch(np.array([0, 1]))


def test_images_split_by_folder_takes_the_first_one(tmp_path: Path) -> None:
    names = [
        f"{part}/{label}/{i}.png" for part in ("train", "val", "test") for label in ("cat", "ant") for i in range(2)
    ]
    folder(tmp_path / "in", names)
    split = Split(by="column", column="folder", train=("train",), validation=("val",), leave_out=("test",))

    data = load(tmp_path / "in", glob="*/*/*", split=split)

    wanted = np.stack(
        [naive(tmp_path / "in" / "val" / label / f"{i}.png", 5, "RGB") for label in ("ant", "cat") for i in (0, 1)]
    )
    assert (len(data.train), len(data.validation)) == (4, 4)
    assert data.train_card.classes == ("ant", "cat")
    assert torch.equal(data.validation.batch(np.arange(4))[0], torch.from_numpy(wanted))


def test_images_hostile_names_are_read_and_are_classes(tmp_path: Path) -> None:
    folder(tmp_path / "in", [f"{name}/{name}.png" for name in HOSTILE])

    data = load(tmp_path / "in")

    assert data.train_card.classes == tuple(sorted(HOSTILE))
    assert len(data.train.batch(np.arange(6))[0]) == 6


def test_images_digest_follows_content_and_class_and_not_the_place(tmp_path: Path) -> None:
    first = load(folder(tmp_path / "in")).train_card.digest
    moved = (tmp_path / "in").rename(tmp_path / "moved")

    assert load(moved).train_card.digest == first
    (moved / "cat").rename(moved / "dog")
    renamed = load(moved).train_card.digest
    write(moved / "dog" / "0.png", seed=99)
    assert len({first, renamed, load(moved).train_card.digest}) == 3


def test_images_digest_of_very_many_bytes_reads_some_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder(tmp_path / "in", [f"a/{i:02}.png" for i in range(9)])
    monkeypatch.setattr(sources, "WHOLE_BYTES", 100)
    monkeypatch.setattr(sources, "PROBES", 3)
    read: list[str] = []
    monkeypatch.setattr(images.files, "sha256", lambda path: read.append(path.name) or "x")

    load(tmp_path / "in")

    assert read == ["00.png", "03.png", "06.png"]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-60])


def deep(path: Path) -> None:
    Image.fromarray(np.full((4, 4), 60_000, np.uint16)).save(path)


@pytest.mark.parametrize("name", ["1.png", "1.jpg", "1.webp", "new\nline.png"])
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda p: p.write_bytes(b"no image"), "it is none that Pillow knows"),
        (lambda p: p.write_bytes(b""), "it is none that Pillow knows"),
        (cut, "."),
    ],
)
def test_images_broken_file_is_named_when_it_is_read(
    tmp_path: Path, name: str, spoil: Callable[[Path], None], words: str
) -> None:
    path = write(tmp_path / "in" / "a" / name, size=(40, 40))
    spoil(path)
    data = load(tmp_path / "in")

    with pytest.raises(UserError, match=rf"cannot be read as an image: .*{words}") as caught:
        data.train.batch(np.array([0]))

    lines = str(caught.value).splitlines()
    assert len(lines) == 3 and lines[0].count("in/a/") == 1


def test_images_of_more_than_eight_bits_are_refused(tmp_path: Path) -> None:
    deep(write(tmp_path / "in" / "a" / "1.png"))

    with pytest.raises(UserError, match="more than 8 bits"):
        load(tmp_path / "in").train.batch(np.array([0]))


@pytest.mark.parametrize(
    ("names", "options", "words"),
    [
        (["1.png"], {"glob": "*"}, "lies in no class's folder"),
        (["a/1.gif"], {}, "no file matches .* and ends in .png"),
        (["a/1.png"], {"split": Split()}, "nothing of 1 samples for validation"),
    ],
)
def test_images_mistake_is_said(tmp_path: Path, names: list[str], options: dict[str, Any], words: str) -> None:
    folder(tmp_path / "in", names)

    with pytest.raises(UserError, match=words):
        load(tmp_path / "in", **options)


def test_images_preview_refuses_numbers_that_fit_no_channel() -> None:
    def mistakes(**options: Any) -> str:
        return str(images.preview(images.Options(path="x", **options)).mistakes)

    assert mistakes() == mistakes(mean=(0.5, 0.5, 0.5), std=(1.0, 1.0, 1.0)) == "()"
    assert "2 number(s), but data.channels is 3" in mistakes(mean=(0.5, 0.5))
    assert "data.std" in mistakes(channels=1, std=(0.0,))
    assert "data.split.column is not given" in mistakes(split=Split(by="column", validation=("y",)))


def test_images_without_pillow_names_the_package_and_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder(tmp_path / "in")
    for name in [n for n in sys.modules if n.partition(".")[0] == "PIL"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "meta_path", [f for f in sys.meta_path if getattr(f, "__name__", "") != "PathFinder"])

    with pytest.raises(UserError, match=r"needs the Python package Pillow[\s\S]*image's lock file"):
        load(tmp_path / "in")


@pytest.mark.parametrize("workers", [0, 1])
def test_images_train_a_model_and_a_broken_one_ends_the_run_with_its_name(
    member: Callable[..., Member], tmp_path: Path, workers: int
) -> None:
    root = tmp_path / "in"
    for number, image in enumerate(coloured()):
        label = ("blue", "green", "red")[number % 3]
        (root / label).mkdir(parents=True, exist_ok=True)
        image.save(root / label / f"{number // 3}.png")
    data = Component(kind="images", options={"path": str(root), "size": 8})
    train = {"max_steps": 24, "batch_size": 18, "eval_every_steps": 24, "workers": workers}
    run = member(data=data, model=Component(kind="cnn", options={"width": 8}), train=train)
    run.env = {"TMPDIR": tempfile.gettempdir()}

    assert run.run() == [0], run.log()
    assert run.result()["metrics"]["val/accuracy"] > 0.6
    assert run.lines("metrics.jsonl")[0]["dataset"]["classes"] == ["blue", "green", "red"]

    (root / "red" / "7.png").write_bytes(b"no image")
    broken = member("1", data=data, model=Component(kind="cnn", options={"width": 8}), train=train)
    broken.env = run.env
    assert broken.run() == [1]
    assert "red/7.png cannot be read as an image" in broken.log()
    assert "Traceback" not in broken.log()
