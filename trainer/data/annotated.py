"""Images and their classes as a data set of images is exported: a line names an image, and its file is not opened.

    {"imageGcsUri": "/data/pets/cat/1.png", "classificationAnnotation": {"displayName": "cat"},
     "dataItemResourceLabels": {"aiplatform.googleapis.com/ml_use": "training"}}

Vertex AI, «Use managed datasets», single-label classification: image_classification_single_label_io_format_1.0.0.yaml,
in whose first field an absolute path stands here, or the address that the user gave.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trainer.data import files
from trainer.data.listed import Listed, sides
from trainer.data.records import Chunk, Records
from trainer.data.written import PARTS, WHERE
from trainer.failure import UserError
from trainer.packages import needed

if TYPE_CHECKING:
    from trainer.data.splits import Labels, Part

PLACE, CLASS, USE = "imageGcsUri", "classificationAnnotation", "dataItemResourceLabels"
NAME, ML_USE = "displayName", "aiplatform.googleapis.com/ml_use"
PIECE = 1 << 16
"""Images named at once."""


def of_images(shown: str, places: Sequence[str], labels: Labels, parts: tuple[Part, ...], content: Any) -> Listed:
    """Images at absolute paths or addresses. Raises UserError for one whose name is no text."""
    arrow = needed("pyarrow", "pyarrow", WHERE)
    for place in places:
        _check(place)
    text = arrow.string()
    types = {PLACE: text, CLASS: arrow.struct([(NAME, text)]), USE: arrow.struct([(ML_USE, text)])}

    def read(wanted: Mapping[str, Any]) -> Iterator[Chunk]:
        used = sides(parts)
        for first in range(0, len(used), PIECE):
            here = slice(first, min(first + PIECE, len(used)))
            columns = {
                PLACE: arrow.array(places[here], text),
                CLASS: _named(NAME, labels.names, labels.codes[here]),
                USE: _named(ML_USE, (None, *PARTS), used[here]),
            }
            batch = arrow.RecordBatch.from_arrays([columns[name] for name in wanted], names=list(wanted))
            yield Chunk(batch, shown, first, "data.path")

    return Listed(Records(shown, "data.path", content, types, False, read), tuple(types), lambda: parts)


def _check(place: str) -> None:
    try:
        place.encode()
    except UnicodeEncodeError:
        what = f"the name {files.shown(place)} is not UTF-8, and JSON has no other text"
        raise UserError(what, "data.path", "rename the file, or leave it out by data.glob") from None


def _named(field: str, names: Sequence[str | None], codes: Any) -> Any:
    """Texts by number, each in a structure of its own."""
    arrow = needed("pyarrow", "pyarrow", WHERE)
    texts = arrow.array(names, arrow.string()).take(arrow.array(codes))
    return arrow.StructArray.from_arrays([texts], names=[field])
