"""A digest of the data that a run declares, taken at launch: what would have to change for it to be other data.

Of files their names, sizes and times of change, which costs a look and no reading; of a built-in set its name
and options. The trainer's own digest of what it really read is among its metrics and on the model.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conf.document import to_document
from conf.schema import Component
from launchers.run_folder.provenance import digest_of

MOST_FILES = 100_000
"""A shard store of millions is known by its first files in order of name."""


def fingerprint_of(data: Component) -> dict[str, Any]:
    """`digest` and what it is `of`. A path that cannot be looked at (an address, a folder only nodes have) is named."""
    path = data.options.get("path")
    if not isinstance(path, str) or "://" in path:
        return {"digest": digest_of(to_document(data)), "of": "the source and its options"}
    files = list(_files(Path(path)))
    shown = f"names, sizes and times of {len(files)} file(s) below {path}" if files else f"the name {path} alone"
    return {"digest": digest_of([to_document(data), files]), "of": shown}


def _files(top: Path) -> Iterator[tuple[str, int, int]]:
    """Name, size in bytes and time of change in ns of every file below a folder, or of the file itself."""
    paths = [top] if top.is_file() else _below(top)
    for count, path in enumerate(paths):
        if count == MOST_FILES:
            return
        try:
            seen = path.stat()
        except OSError:
            continue
        yield str(path.relative_to(top) if path != top else path.name), seen.st_size, seen.st_mtime_ns


def _below(top: Path) -> Iterator[Path]:
    for folder, names, files in os.walk(top):
        names.sort()
        yield from (Path(folder, name) for name in sorted(files))
