"""Folders of images, one folder for each class or metadata beside them; Pillow reads them when a batch wants them.

A file that is broken is found when it is read, and named: to look at all of them first would take too long.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from conf.bounds import Text, group
from trainer.data import beside, described, files, pixels, splits
from trainer.data.files import File
from trainer.data.pixels import Look, Pictures
from trainer.data.records import Records
from trainer.data.splits import By, Labels, Split
from trainer.data.staged import staged
from trainer.failure import UserError
from trainer.packages import needed
from trainer.sources import Card, Data, Preview, Shape, data_of_parts, probed

if TYPE_CHECKING:
    import numpy as np

    from trainer.data.listed import Listed
    from trainer.data.locations import Location, Remote
    from trainer.data.splits import Part

WAYS: tuple[By, ...] = ("stratified", "random", "end", "column", "time", "filter")
FOLDER = "folder"
"""What a split can go by beside metadata: the first folder below `path`, as in path/train/cat/1.png."""
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


@group
class Options(Look):
    """Which files; what becomes of the pixels is a Look's."""

    path: Text
    """Folder of the classes' folders."""
    glob: Text = "*/*"
    """Which files below it; of these, those that end in .png, .jpg, .jpeg or .webp. A file's class is the name of the
    folder it lies in: `*/*/*` is for path/train/cat/1.png."""
    label: Text | None = None
    """Column of the metadata that has the class: of metadata.csv, .jsonl or .parquet in the folders of the images or
    above, whose `file_name` is an image's path below the metadata's folder. None: the class is the folder's name."""
    split: Split = Split()
    """By column, time and filter: `folder`, and the columns of the metadata."""


def preview(options: Options) -> Preview:
    """Images, of whatever size they are."""
    wrong = (*splits.mistakes(options.split, WAYS), *pixels.mistakes(options))
    return Preview("images", splits.keeps(options.split, "stratified"), wrong, export="files")


def load(options: Options) -> Data:
    """The images in their parts, none of them read but for the digest.

    Raises UserError when there are none, when a file lies in no class's folder, or for what its metadata do not say.
    """
    needed("PIL.Image", "Pillow", "data.kind: images")
    found = files.found(options.path, options.glob, SUFFIXES)
    names = tuple(file.name for file in found)
    metadata = _metadata(names, options)
    labels, chosen = _parted(names, options, [str(file.path) for file in found], _said(names, options, metadata))
    content = ("images", files.identity(found), *((options.label, files.identity(metadata)) if options.label else ()))
    _, seen = staged(content, partial(_looked_through, found, labels))
    read = partial(_contents, Path(options.path), names)
    parts = [Pictures(read, labels.codes, part, options) for part in chosen]

    def card(part: Pictures) -> Card:
        return Card(
            name=Path(options.path).name,
            digest=splits.digest_of(f"{seen['sha256']} {options.how}", part.part),
            rows=len(part),
            features=f"{options.channels}x{options.size}x{options.size} float32",
            source=f"{options.path}/{options.glob}",
            classes=labels.names,
            offset=options.mean,
            scale=options.std,
        )

    shape = Shape("classification", options.shape, "float32", len(labels.names))
    return pixels.augmented(data_of_parts(shape, parts, card))


def listed(options: Options) -> Listed:
    """The absolute path of each image, and its class; none of them is opened."""
    from trainer.data import annotated

    found = files.found(options.path, options.glob, SUFFIXES)
    places = [str(file.path.absolute()) for file in found]
    names = [file.name for file in found]
    metadata = _metadata(names, options)
    labels, chosen = _parted(names, options, places, _said(names, options, metadata))
    content = ("images", places, files.identity([*found, *metadata]))
    return annotated.of_images(options.path, places, labels, chosen, content)


def listed_at(options: Options, where: Location, there: Sequence[Remote]) -> Listed:
    """The address of each image of a listing, and its class, as if they had been brought; none of them is."""
    from trainer.data import annotated, locations

    found = [one for one in there if PurePosixPath(one.name).suffix.lower() in SUFFIXES]
    found = [one for one in found if locations.matches(options.glob, one.name)]
    if not found:
        what = f"no file matches {options.glob} and ends in {', '.join(SUFFIXES)}"
        raise UserError(what, f"data.path: {where.shown}", "check data.path and data.glob")
    places = [where.address_of(one) for one in found]
    names = [one.name for one in found]
    nothing = partial(described.records_of, f"{where.shown}, of which nothing is read,", names, _own(names), ())
    labels, chosen = _parted(names, options, places, nothing)
    content = ("images", where.address, [(one.name, one.size, one.sha256 or one.version) for one in found])
    return annotated.of_images(where.shown, places, labels, chosen, content)


def _metadata(names: Sequence[str], options: Options) -> list[File]:
    """The files that say of the images what their folders do not, where that is asked for."""
    asked = {*beside.names_of(options.split), *([options.label] if options.label else ())} - {FOLDER}
    return described.metadata_of(Path(options.path), names) if asked else []


def _said(names: Sequence[str], options: Options, metadata: Sequence[File]) -> Callable[[], Records]:
    without = "" if metadata else f" (no {described.NAMES[0]} there, or none that data.glob brought)"
    return partial(described.records_of, f"{files.shown(options.path)}{without}", names, _own(names), metadata)


def _own(names: Sequence[str]) -> Mapping[str, Sequence[str]]:
    texts = (name.partition("/")[0] if "/" in name else "" for name in names)
    return {FOLDER: [text.encode(errors="replace").decode() for text in texts]}


def _parted(
    names: Sequence[str], options: Options, places: Sequence[str], records: Callable[[], Records]
) -> tuple[Labels, tuple[Part, ...]]:
    """The class of each image, and which are in which part. The names are those below the folder."""
    if options.label:
        labels = beside.labels_of(records(), options.label, "data.label")
    else:
        for name, place in zip(names, places, strict=True):
            if "/" not in name:
                do = f"give the folder that has one for each class, and a glob such as {Options.glob}; or data.label"
                where = f"data.path: {files.shown(options.path)}"
                raise UserError(f"{files.shown(place)} lies in no class's folder", where, do)
        labels = _labels([name.split("/")[-2] for name in names])
    rows = beside.rows_of(options.split, splits.Rows(len(names), labels.codes), records)
    return labels, splits.parts(options.split, rows, "stratified")


def _labels(texts: Sequence[str]) -> Labels:
    import numpy as np

    names = sorted(set(texts))
    places = {name: number for number, name in enumerate(names)}
    return Labels(np.array([places[text] for text in texts], dtype=np.int32), tuple(names))


def _contents(root: Path, names: Sequence[str], rows: np.ndarray) -> Iterator[tuple[bytes, Callable[[], str]]]:
    for row in rows:
        with files.opened(root / names[row]) as f:
            yield f.read(), partial(files.shown, root / names[row])


def _looked_through(found: Sequence[File], labels: Labels, folder: Path) -> Mapping[str, str]:
    """Digest of the images and their classes. Writes nothing."""
    read = probed(len(found), sum(file.size for file in found))
    seen = hashlib.sha256()
    for number, file in enumerate(found):
        content = files.sha256(file.path) if number in read else ""
        label = labels.names[labels.codes[number]]
        seen.update(repr((label, file.size, content)).encode(errors="surrogateescape"))
    return {"sha256": seen.hexdigest()}
