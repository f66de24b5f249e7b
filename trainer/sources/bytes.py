"""Text files as one long row of bytes, cut into windows: what a byte-level language model reads.

The bytes lie in one file that is mapped into memory, made once per node and content.
"""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from conf.bounds import Count, Positive, Text, group
from trainer.data import files, splits, windows
from trainer.data.files import File
from trainer.data.splits import By, Split
from trainer.data.windows import Source
from trainer.sources import Data, Preview

if TYPE_CHECKING:
    import numpy as np

WAYS: tuple[By, ...] = ("end", "random")


@group
class Options:
    """Which files, and how they are cut."""

    path: Text | None = None
    """Folder of the files, or one file; None is the standard library of the Python that trains."""
    glob: Text = "**/*.py"
    context_length: Count = 128
    """Bytes a sample shows; each byte's target is the one that follows."""
    max_mb: Positive | None = None
    """Read no more than this many 10^6 bytes; None reads all."""
    split: Split = Split()


def preview(options: Options) -> Preview:
    """Rows of bytes."""
    return Preview(
        "tokens", splits.keeps(options.split, "end"), splits.mistakes(options.split, WAYS), task="next_token"
    )


def load(options: Options) -> Data:
    """The files in their parts.

    Raises UserError when the files are too few for one window in each part.
    """
    root = Path(options.path) if options.path else Path(sysconfig.get_path("stdlib"))
    chosen = _chosen(files.found(str(root), options.glob), options.max_mb)
    content = (files.identity([f for f, _ in chosen]), [n for _, n in chosen])
    made = windows.gathered(content, "uint8", partial(_contents, chosen))
    name = "stdlib" if options.path is None else root.name
    source = Source(name, made.digest, "bytes", f"{root}/{options.glob}")
    return windows.data_of([made.row], source, options.context_length, options.split, 256)


def _chosen(found: Sequence[File], max_mb: float | None) -> list[tuple[File, int]]:
    """Files and how many bytes of each, up to `max_mb`: in an order of the hashes of their names, so that no part is
    all of one letter."""
    left = round(max_mb * 1e6) if max_mb else sum(file.size for file in found)
    chosen = []
    for file in sorted(found, key=lambda f: hashlib.sha256(f.name.encode(errors="surrogateescape")).digest()):
        if left == 0:
            break
        chosen.append((file, min(file.size, left)))
        left -= chosen[-1][1]
    return chosen


def _contents(chosen: Sequence[tuple[File, int]]) -> Iterator[np.ndarray]:
    """The bytes of each file."""
    import numpy as np

    for file, take in chosen:
        with files.opened(file.path) as f:
            yield np.frombuffer(f.read(take), dtype=np.uint8)
